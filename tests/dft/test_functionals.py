from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf.dft import libxc

from qmgen.dft.correlation import lyp, vwn5, vwn_rpa
from qmgen.dft.exchange import erfc_attenuation
from qmgen.dft.functionals import (
    FUNCTIONAL_NAMES,
    Functional,
    SpinCoupledTerm,
    canonical_functional,
    energy_density_and_potential,
    get_functional,
    spin_energy_density_and_potential,
)
from qmgen.errors import UnknownFunctionalError

SEMILOCAL = [name for name in FUNCTIONAL_NAMES if name != "hf"]
# PBE's correlation of a polarised density; its derivative by the minority's density diverges as
# that density vanishes, where libxc puts 1e-12.
PBE_FAMILY = ["pbe", "revpbe", "pbe0"]
# Every term once; the others differ by weights and a parameter.
ALL_TERMS = ["svwn", "b3lyp", "pbe", "wb97x"]
# One number for most tests, which then share compiled programs.
NPOINTS = 2_000

closed_shell = jax.jit(energy_density_and_potential, static_argnums=0)
spin_resolved = jax.jit(spin_energy_density_and_potential, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def all_derivatives(functional: Functional, rho: jax.Array, sigma: jax.Array) -> list[jax.Array]:
    """Energy, potential, and the derivatives by rho rho, rho sigma and sigma sigma."""
    evaluate = partial(energy_density_and_potential, functional)
    one, none = jnp.ones_like(rho), jnp.zeros_like(rho)
    values, (_, rho_rho, _) = jax.jvp(evaluate, (rho, sigma), (one, none))
    _, (_, rho_sigma, sigma_sigma) = jax.jvp(evaluate, (rho, sigma), (none, one))
    return [*values, rho_rho, rho_sigma, sigma_sigma]


@partial(jax.jit, static_argnums=0)
def spin_second_derivatives(functional: Functional, *arguments: jax.Array) -> list[list[jax.Array]]:
    """Energy and its derivatives, and the derivatives of these along (1, 1, 1, 1, 1)."""
    resolved = partial(spin_energy_density_and_potential, functional)
    ones = [jnp.ones_like(argument) for argument in arguments]
    return [list(part) for part in jax.jvp(resolved, arguments, tuple(ones))]


def molecular_points(n: int = NPOINTS, lowest: float = -6) -> tuple[jax.Array, jax.Array]:
    """Densities and reduced gradients over the range that molecules have."""
    rng = np.random.default_rng(0)
    rho = 10 ** rng.uniform(lowest, 3, n)
    reduced_gradient = 10 ** rng.uniform(-3, 1, n)
    return jnp.asarray(rho), jnp.asarray((reduced_gradient * rho ** (4 / 3)) ** 2)


class PolarisedPoints:
    """Densities of both spins and their gradients, each with its own direction."""

    def __init__(self, minority_share: np.ndarray, lowest: float = -5, highest: float = 3) -> None:
        n = len(minority_share)
        rng = np.random.default_rng(1)
        rho = 10 ** rng.uniform(lowest, highest, n)
        densities = rho * (1 - minority_share), rho * minority_share
        self.a, self.b = np.where(rng.random(n) < 0.5, densities, densities[::-1])
        directions = rng.normal(size=(2, 3, n))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        reduced_gradient = 10 ** rng.uniform(-3, 1, (2, n))
        self.gradient_a, self.gradient_b = (
            direction * s * rho_s ** (4 / 3)
            for direction, s, rho_s in zip(
                directions, reduced_gradient, (self.a, self.b), strict=True
            )
        )
        self.sigma = tuple(
            (x * y).sum(axis=0)
            for x, y in (
                (self.gradient_a, self.gradient_a),
                (self.gradient_a, self.gradient_b),
                (self.gradient_b, self.gradient_b),
            )
        )

    def ours(self, functional: Functional) -> list[np.ndarray]:
        values = spin_resolved(functional, *map(jnp.asarray, (self.a, self.b, *self.sigma)))
        return [np.asarray(value) for value in values]

    def libxc(self, functional: Functional) -> list[np.ndarray]:
        a, b = self.a, self.b
        points = (a, b)
        if functional.needs_gradient:
            points = (np.array([a, *self.gradient_a]), np.array([b, *self.gradient_b]))
        energy, potential = libxc.eval_xc(functional.pyscf_name, points, spin=1, deriv=1)[:2]
        by_sigma = potential[1] if functional.needs_gradient else np.zeros((len(a), 3))
        return [energy * (a + b), *potential[0].T, *by_sigma.T]

    def errors(self, functional: Functional) -> dict[str, np.ndarray]:
        """Differences from libxc, each as what it changes in the energy, over ρ^(4/3).

        That is, up to a factor of about one, the energy per volume.
        """
        ours, reference = self.ours(functional), self.libxc(functional)
        names = ("energy", "rho_a", "rho_b", "sigma_aa", "sigma_ab", "sigma_bb")
        scales = (1.0, self.a, self.b, *map(np.abs, self.sigma))
        unit = (self.a + self.b) ** (4 / 3)
        return {
            name: np.abs(x - y) * scale / unit
            for name, x, y, scale in zip(names, ours, reference, scales, strict=True)
        }


@pytest.mark.parametrize("name", SEMILOCAL)
def test_energy_and_potential_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    rho, sigma = molecular_points()
    zero = np.zeros(rho.shape)
    points = np.array([rho, np.sqrt(sigma), zero, zero]) if functional.needs_gradient else rho
    exc, potential = libxc.eval_xc(functional.pyscf_name, points, deriv=1)[:2]
    energy, by_rho, by_sigma = closed_shell(functional, rho, sigma)
    # Rounding of two float64 evaluations; cancellation between exchange and
    # correlation costs digits, most of all in the derivative by the squared gradient.
    np.testing.assert_allclose(energy, exc * rho, rtol=1e-10)
    np.testing.assert_allclose(by_rho, potential[0], rtol=1e-9)
    if functional.needs_gradient:
        np.testing.assert_allclose(by_sigma, potential[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SEMILOCAL)
def test_polarised_energy_and_potential_equal_libxc(name: str) -> None:
    points = PolarisedPoints(np.random.default_rng(2).uniform(1e-4, 0.5, NPOINTS))
    for argument, error in points.errors(get_functional(name)).items():
        # Rounding, as above. libxc works with ζ and so loses the digits of 1 / (1 - |ζ|), 1e4.
        assert error.max() < 1e-12, argument


@pytest.mark.parametrize("name", SEMILOCAL)
def test_weakly_polarised_energy_and_potential_equal_libxc(name: str) -> None:
    """Functions of ζ cancel around ζ = 0."""
    share = 0.5 - 10 ** np.random.default_rng(3).uniform(-16, -2, NPOINTS)
    for argument, error in PolarisedPoints(share).errors(get_functional(name)).items():
        assert error.max() < 1e-12, argument


@pytest.mark.parametrize("name", SEMILOCAL)
def test_nearly_fully_polarised_energy_and_potential_equal_libxc(name: str) -> None:
    share = 10 ** np.random.default_rng(4).uniform(-9, -4, NPOINTS)
    points = PolarisedPoints(share, lowest=-2)
    for argument, error in points.errors(get_functional(name)).items():
        # libxc's loss of the digits of 1 - |ζ|; the minority's share of the energy is small.
        assert error.max() < 1e-11, argument


@pytest.mark.parametrize("name", SEMILOCAL)
def test_fully_polarised_energy_and_potential_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    points = PolarisedPoints(np.zeros(NPOINTS), lowest=-3)
    for argument, error in points.errors(functional).items():
        # libxc puts up to 1e-12 electrons / Bohr^3 in place of none; in PBE this counts with the
        # power 2/3.
        assert error.max() < (1e-6 if name in PBE_FAMILY else 1e-10), argument


@pytest.mark.parametrize(
    ("term", "pyscf_name"), [(vwn5, ",vwn5"), (vwn_rpa, ",vwn_rpa"), (lyp, ",lyp")]
)
def test_correlation_potential_of_an_absent_spin_equals_libxc(
    term: SpinCoupledTerm, pyscf_name: str
) -> None:
    """What an electron of the other spin would feel first, where this has a limit.

    Exchange has the limit 0, and libxc's is that of its threshold.
    """
    functional = Functional("", pyscf_name, (), ((1.0, term),), needs_gradient=term is lyp)
    points = PolarisedPoints(np.zeros(NPOINTS), lowest=-3)
    ours, reference = points.ours(functional), points.libxc(functional)
    for spin, density in ((1, points.a), (2, points.b)):
        absent = density == 0
        # libxc's threshold over the smallest density, to the power 1/3 (from f'(ζ)).
        np.testing.assert_allclose(ours[spin][absent], reference[spin][absent], rtol=2e-4)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_low_densities_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    share = np.random.default_rng(5).uniform(0.05, 0.5, NPOINTS)
    for argument, error in PolarisedPoints(share, -9, -5).errors(functional).items():
        # libxc's PBE takes no squared gradient below 1e-32 Bohr^-8, that is s² below 1e-8 here.
        assert error.max() < 1e-10, argument


@pytest.mark.parametrize("name", ALL_TERMS)
def test_densities_at_the_threshold_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    share = np.random.default_rng(5).uniform(0, 0.5, NPOINTS)
    points = PolarisedPoints(share, lowest=-16, highest=-10)
    # Thresholds differ, 1e-14 here and up to 1e-12 in libxc; no energy is above 1e-13.
    np.testing.assert_allclose(points.ours(functional)[0], points.libxc(functional)[0], atol=1e-14)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_equal_spins_are_the_closed_shell(name: str) -> None:
    functional = get_functional(name)
    rho, sigma = molecular_points(lowest=-12)
    energy, by_rho, by_sigma = closed_shell(functional, rho, sigma)
    quarter = sigma / 4
    spin_energy, a, b, aa, ab, bb = spin_resolved(
        functional, rho / 2, rho / 2, quarter, quarter, quarter
    )
    # Rounding of two ways to write the same.
    np.testing.assert_allclose(spin_energy, energy, rtol=1e-12)
    np.testing.assert_allclose(a, by_rho, rtol=1e-11)
    np.testing.assert_allclose(a, b, rtol=1e-12)
    unit = np.abs(energy)
    by_total_sigma = (aa + ab + bb) / 4
    np.testing.assert_allclose(by_total_sigma * sigma / unit, by_sigma * sigma / unit, atol=1e-11)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_second_derivatives_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    rho, sigma = molecular_points()
    zero = np.zeros(rho.shape)
    points = np.array([rho, np.sqrt(sigma), zero, zero]) if functional.needs_gradient else rho
    reference = libxc.eval_xc(functional.pyscf_name, points, deriv=2)[2]
    hessian = all_derivatives(functional, rho, sigma)[3:]
    unit = rho ** (4 / 3)
    scales = (rho * rho / unit, rho * sigma / unit, sigma * sigma / unit)
    for ours, theirs, scale in zip(hessian, reference, scales, strict=False):
        # Each as what it changes in the energy, per ρ^(4/3); rounding.
        np.testing.assert_allclose(ours * scale, theirs * scale, atol=1e-11)


@pytest.mark.parametrize("name", ALL_TERMS)
def test_second_derivatives_without_gradient_are_those_of_a_small_one(name: str) -> None:
    """No root of the squared gradient may show at 0."""
    functional = get_functional(name)
    rho = jnp.logspace(-6, 2, NPOINTS)
    at_zero = all_derivatives(functional, rho, 0 * rho)[3:]
    near = all_derivatives(functional, rho, 1e-12 * rho ** (8 / 3))[3:]
    scales = (rho ** (2 / 3), rho ** (7 / 3), rho**4)
    for first, second, scale in zip(at_zero, near, scales, strict=True):
        # Without units; in PBE those of exchange and of correlation cancel to a part of them.
        np.testing.assert_allclose(first * scale, second * scale, atol=1e-9)


def test_series_and_closed_forms_meet() -> None:
    """Both sides of each switch, by differences that only a jump could make large."""
    y = jnp.array([1 - 1e-13, 1 + 1e-13])
    below, above = erfc_attenuation(y)
    assert float(below) == pytest.approx(float(above), rel=1e-12)
    below, above = jax.vmap(jax.grad(erfc_attenuation))(y)
    assert float(below) == pytest.approx(float(above), rel=1e-11)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, jnp.float64) for name in ALL_TERMS), ("b3lyp", jnp.float32), ("pbe", jnp.float32)],
)
def test_vanishing_density_and_gradient_stay_finite(name: str, dtype: type) -> None:
    functional = get_functional(name)
    rho = jnp.resize(jnp.array([0.0, 1e-30, 1e-13, 1.1e-9, 1e-3, 1.0], dtype), NPOINTS)
    steep = (30 * rho ** (4 / 3)) ** 2
    for sigma in (0 * rho, jnp.full_like(rho, 1e-20), steep):
        assert np.all(np.isfinite(all_derivatives(functional, rho, sigma)))


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, jnp.float64) for name in ALL_TERMS), ("b3lyp", jnp.float32)]
)
def test_vanishing_spin_densities_stay_finite(name: str, dtype: type) -> None:
    functional = get_functional(name)
    values = jnp.array([-1e-20, 0.0, 1e-30, 6e-15, 1e-13, 6e-10, 1e-5, 1.0], dtype)
    rho_a, rho_b = (a.ravel() for a in jnp.meshgrid(values, values))
    gradient_a, gradient_b = 30 * abs(rho_a) ** (4 / 3), 30 * abs(rho_b) ** (4 / 3)
    for scale in (0.0, 1.0):
        sigma = (gradient_a**2, -gradient_a * gradient_b, gradient_b**2)
        arguments = (rho_a, rho_b, *(scale * s for s in sigma))
        for results in spin_second_derivatives(functional, *arguments):
            assert np.all(np.isfinite(results))


@pytest.mark.parametrize("name", ALL_TERMS)
def test_float32_equals_float64_to_its_rounding(name: str) -> None:
    rho, sigma = molecular_points()
    functional = get_functional(name)
    exact = closed_shell(functional, rho, sigma)
    rounded = closed_shell(functional, rho.astype(jnp.float32), sigma.astype(jnp.float32))
    unit = rho ** (4 / 3)
    for ours, reference, scale in zip(rounded, exact, (1, rho, sigma), strict=True):
        # Each as what it changes in the energy, per ρ^(4/3): a few dozen operations, and
        # cancellation between correlation's parts.
        np.testing.assert_allclose(ours * scale / unit, reference * scale / unit, atol=1e-5)


@pytest.mark.parametrize("name", ["b3lyp", "pbe", "wb97x"])
def test_float32_stays_float32(name: str) -> None:
    rho, sigma = (a.astype(np.float32) for a in molecular_points(10))
    functional = get_functional(name)
    with jax.numpy_dtype_promotion("strict"):
        closed = jax.eval_shape(partial(energy_density_and_potential, functional), rho, sigma)
        polarised = jax.eval_shape(
            partial(spin_energy_density_and_potential, functional), rho, rho, sigma, sigma, sigma
        )
    assert {value.dtype for value in (*closed, *polarised)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FUNCTIONAL_NAMES)
def test_exact_exchange_equals_libxc(name: str) -> None:
    functional = get_functional(name)
    omega, alpha, beta = libxc.rsh_coeff(functional.pyscf_name)
    assert functional.omega == omega
    # PySCF: α at long range, α + β at short range.
    assert functional.exact_exchange == pytest.approx(alpha + beta)
    assert functional.long_range_exchange == pytest.approx(-beta)


@pytest.mark.parametrize("name", ["b3lyp", "b3lyp5", "b3lypg", "pbe", "pbe0", "blyp", "wb97x"])
def test_pyscf_reads_our_name_as_the_same_functional(name: str) -> None:
    """A user who types the name into PySCF >= 2.3 gets what qmgen computes."""
    rho, sigma = molecular_points(200)
    points = np.array([rho, np.sqrt(sigma), 0 * rho, 0 * rho])
    energy = closed_shell(get_functional(name), rho, sigma)[0]
    np.testing.assert_allclose(energy, libxc.eval_xc(name, points)[0] * rho, rtol=1e-10)


def test_names_are_case_insensitive_and_unknown_ones_are_refused() -> None:
    assert canonical_functional(" B3LYP5 ") == "b3lyp5"
    with pytest.raises(UnknownFunctionalError, match=r"m06.*choose one of .*b3lyp5"):
        canonical_functional("m06")
    with pytest.raises(UnknownFunctionalError, match="say svwn"):
        canonical_functional("lda")
