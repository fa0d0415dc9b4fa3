import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf.dft import libxc

from qmgen.dft.functionals import (
    FUNCTIONAL_NAMES,
    canonical_functional,
    energy_density,
    energy_density_and_potential,
    get_functional,
)
from qmgen.errors import UnknownFunctionalError

SEMILOCAL = [name for name in FUNCTIONAL_NAMES if name != "hf"]


def molecular_points(n: int = 20_000) -> tuple[jax.Array, jax.Array]:
    """Densities and reduced gradients over the range that molecules have."""
    rng = np.random.default_rng(0)
    rho = 10 ** rng.uniform(-6, 3, n)
    reduced_gradient = 10 ** rng.uniform(-3, 1, n)
    return jnp.asarray(rho), jnp.asarray((reduced_gradient * rho ** (4 / 3)) ** 2)


@pytest.mark.parametrize("name", SEMILOCAL)
def test_energy_and_potential_equal_libxc(name: str) -> None:
    functional = get_functional(name)
    rho, sigma = molecular_points()
    zero = np.zeros(rho.shape)
    points = np.array([rho, np.sqrt(sigma), zero, zero]) if functional.needs_gradient else rho
    exc, potential = libxc.eval_xc(functional.pyscf_name, points, deriv=1)[:2]
    energy, by_rho, by_sigma = energy_density_and_potential(functional, rho, sigma)
    # Rounding of two float64 evaluations; cancellation between exchange and
    # correlation costs digits, most of all in the derivative by the squared gradient.
    np.testing.assert_allclose(energy, exc * rho, rtol=1e-10)
    np.testing.assert_allclose(by_rho, potential[0], rtol=1e-9)
    if functional.needs_gradient:
        np.testing.assert_allclose(by_sigma, potential[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONAL_NAMES)
def test_exact_exchange_share_equals_libxc(name: str) -> None:
    functional = get_functional(name)
    assert functional.exact_exchange == pytest.approx(libxc.hybrid_coeff(functional.pyscf_name))


@pytest.mark.parametrize("name", ["b3lyp", "b3lyp5", "b3lypg", "pbe", "pbe0"])
def test_pyscf_reads_our_name_as_the_same_functional(name: str) -> None:
    """A user who types the name into PySCF >= 2.3 gets what qmgen computes."""
    rho, sigma = molecular_points(200)
    points = np.array([rho, np.sqrt(sigma), 0 * rho, 0 * rho])
    energy = energy_density(get_functional(name), rho, sigma)
    np.testing.assert_allclose(energy, libxc.eval_xc(name, points)[0] * rho, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SEMILOCAL)
def test_vanishing_density_and_gradient_stay_finite(name: str, dtype: type) -> None:
    rho = jnp.array([0.0, 1e-30, 1e-13, 1.1e-9, 1e-3, 1.0], dtype)
    steep = (30 * rho ** (4 / 3)) ** 2
    for sigma in (jnp.zeros(6, dtype), jnp.full(6, 1e-20, dtype), steep):
        for values in energy_density_and_potential(get_functional(name), rho, sigma):
            assert np.all(np.isfinite(values))


@pytest.mark.parametrize("name", SEMILOCAL)
def test_float32_equals_float64_to_its_rounding(name: str) -> None:
    rho, sigma = molecular_points(2000)
    exact = energy_density(get_functional(name), rho, sigma)
    rounded = energy_density(
        get_functional(name), rho.astype(jnp.float32), sigma.astype(jnp.float32)
    )
    # A few dozen operations, and cancellation between correlation's parts.
    np.testing.assert_allclose(rounded, exact, rtol=1e-4, atol=1e-9)


def test_float32_stays_float32() -> None:
    rho, sigma = (a.astype(np.float32) for a in molecular_points(10))
    with jax.numpy_dtype_promotion("strict"):
        assert energy_density(get_functional("b3lyp"), rho, sigma).dtype == np.float32


def test_names_are_case_insensitive_and_unknown_ones_are_refused() -> None:
    assert canonical_functional(" B3LYP5 ") == "b3lyp5"
    with pytest.raises(UnknownFunctionalError, match=r"m06.*choose one of .*b3lyp5"):
        canonical_functional("m06")
    with pytest.raises(UnknownFunctionalError, match="say svwn"):
        canonical_functional("lda")
