from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import dft, gto

from qmgen.dft.functionals import get_functional
from qmgen.dft.grid_orbitals import OrbitalsOnGrid
from qmgen.dft.quadrature import (
    exchange_correlation,
    exchange_correlation_near,
    exchange_correlation_reference,
    unrestricted_exchange_correlation,
)

BLOCK = 512
restricted = jax.jit(exchange_correlation, static_argnums=0)
unrestricted = jax.jit(unrestricted_exchange_correlation, static_argnums=0)
RADICALS = {
    "CH3": ("C 0 0 0; H 0 1.079 0; H 0.934 -0.539 0.1; H -0.934 -0.539 0.1", 1),
    "triplet O2": ("O 0 0 0; O 0 0 1.21", 2),
    # One spin has no electron anywhere.
    "H": ("H 0 0 0", 1),
}


@lru_cache
def radical(name: str) -> tuple[dft.uks.UKS, np.ndarray]:
    """PySCF's calculation and its densities after a few cycles, which need not have converged."""
    atoms, spin = RADICALS[name]
    mol = gto.M(atom=atoms, spin=spin, basis="6-31g*", verbose=0)
    calculation = dft.UKS(mol, xc="svwn")
    calculation.grids.level = 0
    calculation.max_cycle = 3
    calculation.kernel()
    return calculation, calculation.make_rdm1()


def orbitals_of(calculation: dft.uks.UKS) -> OrbitalsOnGrid:
    """PySCF's orbitals on PySCF's grid, so that only the quadrature is ours."""
    grids = calculation.grids
    values = dft.numint.eval_ao(calculation.mol, grids.coords, deriv=1)
    padding = -len(grids.weights) % BLOCK
    values = np.pad(values, ((0, 0), (0, padding), (0, 0)))
    weights = np.pad(grids.weights, (0, padding))
    blocks = values.reshape(4, -1, BLOCK, values.shape[-1]).swapaxes(0, 1)
    return OrbitalsOnGrid(jnp.asarray(blocks), jnp.asarray(weights.reshape(-1, BLOCK)))


@pytest.mark.parametrize(
    ("name", "functional"),
    [
        *(("CH3", functional) for functional in ("svwn", "b3lyp", "pbe", "wb97x")),
        ("triplet O2", "b3lyp"),
        ("triplet O2", "pbe"),
    ],
)
def test_unrestricted_energy_and_matrices_equal_pyscf(name: str, functional: str) -> None:
    calculation, densities = radical(name)
    ours = get_functional(functional)
    _, expected, matrices = calculation._numint.nr_uks(
        calculation.mol, calculation.grids, ours.pyscf_name, densities
    )
    energy, *result = unrestricted(ours, orbitals_of(calculation), *map(jnp.asarray, densities))
    # PySCF leaves out orbitals below its cutoff, 1e-13 of a block.
    assert float(energy) == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(result, matrices, atol=1e-9)


@pytest.mark.parametrize("functional", ["b3lyp", "pbe"])
def test_a_spin_without_electrons_gives_finite_matrices(functional: str) -> None:
    calculation, densities = radical("H")
    ours = get_functional(functional)
    _, expected, matrices = calculation._numint.nr_uks(
        calculation.mol, calculation.grids, ours.pyscf_name, densities
    )
    energy, of_a, of_b = unrestricted(ours, orbitals_of(calculation), *map(jnp.asarray, densities))
    # libxc has at least 1e-12 electrons / Bohr^3 of the absent spin in PBE.
    assert float(energy) == pytest.approx(expected, abs=1e-7)
    np.testing.assert_allclose(of_a, matrices[0], atol=1e-6)
    # That spin's potential is all threshold in libxc (PBE's diverges), so there is no reference.
    # None exceeds what exchange and correlation of the electron that is there amount to.
    assert np.max(np.abs(of_b)) < np.max(np.abs(of_a))


@pytest.mark.parametrize("functional", ["svwn", "b3lyp", "pbe"])
def test_equal_spins_give_the_closed_shell(functional: str) -> None:
    calculation, densities = radical("CH3")
    ours, orbitals = get_functional(functional), orbitals_of(calculation)
    density = jnp.asarray(densities[0])
    energy, matrix = restricted(ours, orbitals, 2 * density)
    spin_energy, of_a, of_b = unrestricted(ours, orbitals, density, density)
    # Rounding of sums over some ten thousand points.
    assert float(spin_energy) == pytest.approx(float(energy), abs=1e-11)
    np.testing.assert_allclose(of_a, matrix, atol=1e-11)
    np.testing.assert_allclose(of_b, matrix, atol=1e-11)


@pytest.mark.parametrize("functional", ["svwn", "b3lyp"])
def test_change_in_single_precision_equals_a_build_of_its_own(functional: str) -> None:
    calculation, densities = radical("CH3")
    ours, orbitals = get_functional(functional), orbitals_of(calculation)
    density = jnp.asarray(densities.sum(axis=0))
    # The densities of two cycles towards convergence differ by as much.
    noise = 1e-3 * np.random.default_rng(0).normal(size=density.shape)
    moved = density + noise + noise.T
    energy, matrix = restricted(ours, orbitals, moved)
    _, _, reference = jax.jit(exchange_correlation_reference, static_argnums=0)(
        ours, orbitals, density
    )
    near_energy, near_matrix = jax.jit(exchange_correlation_near, static_argnums=0)(
        ours, orbitals.in_single_precision(), orbitals.weights, reference, moved
    )
    # Rounding of float32 on changes of the density and of the matrix by 1e-2.
    assert float(near_energy) == pytest.approx(float(energy), abs=1e-9)
    np.testing.assert_allclose(near_matrix, matrix, atol=1e-8)


def test_orbitals_left_out_in_single_precision() -> None:
    """What a screen leaves out changes energy and matrix by less than float32's rounding."""
    mol = gto.M(
        atom="; ".join(f"C {2.4 * n} {n % 2} 0" for n in range(8)), basis="6-31g*", verbose=0
    )
    calculation = dft.RKS(mol, xc="b3lyp5")
    calculation.grids.level = 0
    calculation.grids.build()
    full = orbitals_of(calculation)
    single = full.in_single_precision()
    assert single.screen is not None
    assert np.mean(single.screen.number) < 0.8 * mol.nao
    D = calculation.get_init_guess(key="minao")
    functional = get_functional("b3lyp5")
    energy, matrix = restricted(functional, full, jnp.asarray(D))
    got_energy, got_matrix = restricted(functional, single, jnp.asarray(D, jnp.float32))
    # Of an energy of -47 Hartree, and of sums over ten thousand points.
    np.testing.assert_allclose(got_energy, energy, atol=1e-4)
    np.testing.assert_allclose(got_matrix, matrix, atol=1e-4)
