"""Three- and two-index Coulomb integrals against libcint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import gto

from qmgen.dft.basis import Basis, basis_from_shells
from qmgen.dft.integrals import environment
from qmgen.dft.shell_pairs import pair_table
from qmgen.dft.three_centre import (
    auxiliary_table,
    three_centre_integrals,
    two_centre_integrals,
)

# Hartree: rounding, of sums below some hundreds.
TOLERANCE = 1e-10

three_centre = jax.jit(three_centre_integrals)
two_centre = jax.jit(two_centre_integrals)


def bases(orbital: tuple[int, ...], auxiliary: tuple[int, ...], cartesian: tuple[int, ...] = ()):
    """Two bases of He and H: shells of the given degrees on He; contracted s shells on both."""
    rng = np.random.default_rng(sum(orbital) + 10 * sum(auxiliary))

    def shell(degree: int, nprim: int, ncontraction: int = 1) -> list:
        exponents = np.exp(rng.uniform(-1, 2, nprim))
        rows = np.column_stack([exponents, rng.uniform(0.2, 1, (nprim, ncontraction))])
        return [degree, *rows.tolist()]

    def basis(degrees: tuple[int, ...]) -> Basis:
        helium = [shell(degree, 1 + k % 3) for k, degree in enumerate(degrees)]
        shells = {2: [*helium, shell(0, 2, 2)], 1: [shell(0, 3)]}
        return basis_from_shells(np.array([2, 1, 2]), shells, cartesian)

    return basis(orbital), basis(auxiliary)


def geometries() -> np.ndarray:
    """A random one, one with an atom on another."""
    positions = np.random.default_rng(2).normal(size=(2, 3, 3)) * 1.5
    positions[1, 2] = positions[1, 0]
    return positions


def libcint_three_centre(basis: Basis, auxiliary: Basis, xyz: np.ndarray) -> np.ndarray:
    atm, bas, env = gto.conc_env(
        basis.libcint_atm,
        basis.libcint_bas,
        environment(basis, xyz),
        auxiliary.libcint_atm,
        auxiliary.libcint_bas,
        environment(auxiliary, xyz),
    )
    n = len(basis.libcint_bas)
    slices = (0, n, 0, n, n, n + len(auxiliary.libcint_bas))
    kind = "cart" if basis.cartesian else "sph"
    value = gto.moleintor.getints(f"int3c2e_{kind}", atm, bas, env, shls_slice=slices)
    return value[np.tril_indices(basis.nao)].T


def libcint_two_centre(auxiliary: Basis, xyz: np.ndarray) -> np.ndarray:
    kind = "cart" if auxiliary.cartesian else "sph"
    return gto.moleintor.getints(
        f"int2c2e_{kind}",
        auxiliary.libcint_atm,
        auxiliary.libcint_bas,
        environment(auxiliary, xyz),
    )


@pytest.mark.parametrize(
    ("orbital", "auxiliary", "cartesian"),
    [
        ((1,), (2,), ()),
        pytest.param((2,), (2,), (2,), marks=pytest.mark.slow),
        pytest.param((1, 2), (1, 2, 3), (), marks=pytest.mark.slow),
        pytest.param((3,), (3,), (), marks=pytest.mark.slow),
        pytest.param((1, 3), (3,), (3,), marks=pytest.mark.slow),
    ],
    ids=["sp by sd", "Cartesian sd", "spd by spdf", "sf", "Cartesian spf"],
)
def test_agrees_with_libcint(orbital, auxiliary, cartesian):
    basis, fitting = bases(orbital, auxiliary, cartesian)
    pairs, shells = pair_table(basis, basis.nao + 1), auxiliary_table(fitting, fitting.nao + 2)
    npair = basis.nao * (basis.nao + 1) // 2
    for xyz in geometries():
        value = np.asarray(three_centre(pairs, shells, jnp.asarray(xyz)))
        np.testing.assert_allclose(
            value[:-2, :npair],
            libcint_three_centre(basis, fitting, xyz),
            rtol=0,
            atol=TOLERANCE,
        )
        assert not value[-2:].any()
        assert not value[:, npair:].any()

        metric = np.asarray(two_centre(shells, jnp.asarray(xyz)))
        np.testing.assert_allclose(
            metric[:-2, :-2], libcint_two_centre(fitting, xyz), rtol=0, atol=TOLERANCE
        )
        assert not metric[-2:].any()
        assert not metric[:, -2:].any()


def test_derivatives_are_those_of_libcint():
    basis, fitting = bases((0,), (1,))
    pairs, shells = pair_table(basis, basis.nao), auxiliary_table(fitting, fitting.nao)
    rng = np.random.default_rng(4)
    direction = rng.normal(size=(3, 3))
    weights = rng.normal(size=(fitting.nao, basis.nao * (basis.nao + 1) // 2))
    metric_weights = rng.normal(size=(fitting.nao, fitting.nao))

    def energy(x):
        return jnp.sum(weights * three_centre_integrals(pairs, shells, x)) + jnp.sum(
            metric_weights * two_centre_integrals(shells, x)
        )

    def libcint_energy(x):
        return np.sum(weights * libcint_three_centre(basis, fitting, x)) + np.sum(
            metric_weights * libcint_two_centre(fitting, x)
        )

    # Fourth-order differences: the remainder is step^4 / 30 times fifth derivatives below 1e5,
    # and rounding is 1e-12 / step.
    step = 1e-3
    gradient = jax.jit(jax.grad(energy))
    for xyz in geometries():
        difference = sum(
            c * libcint_energy(xyz + k * step * direction)
            for k, c in ((-2, 1), (-1, -8), (1, 8), (2, -1))
        ) / (12 * step)
        derivative = np.sum(gradient(jnp.asarray(xyz)) * direction)
        np.testing.assert_allclose(derivative, difference, rtol=0, atol=1e-6)
