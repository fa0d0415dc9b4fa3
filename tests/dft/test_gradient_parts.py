"""Parts of the gradient against derivatives of the parts of the energy, at fixed density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import gto, scf

from qmgen.dft.basis import build_basis
from qmgen.dft.dense_repulsion import dense_electron_repulsion
from qmgen.dft.functionals import get_functional
from qmgen.dft.native_integrals import FEW, MANY, Lanes, native_plan
from qmgen.dft.one_electron_gradient import (
    libcint_one_electron_gradient,
    native_one_electron_gradient,
)
from qmgen.dft.repulsion_gradient import (
    libcint_repulsion_gradient,
    native_repulsion_gradient,
    repulsion_cotangent,
)
from qmgen.dft.shell_pairs import pair_table
from qmgen.dft.two_electron import packed_size, supermatrix, two_electron_matrix
from tests.dft.systems import embed, pyscf_molecule

STEP = 3e-4


def some_densities(nao: int, number: int) -> np.ndarray:
    D = np.random.default_rng(3).normal(size=(number, nao, nao)) * 0.3
    return D + D.transpose(0, 2, 1)


def one_electron_energy(mol: gto.Mole, D: np.ndarray, W: np.ndarray) -> float:
    hcore = mol.intor("int1e_kin") + mol.intor("int1e_nuc")
    return float(np.sum(D * hcore) - np.sum(W * mol.intor("int1e_ovlp")) + mol.energy_nuc())


def repulsion_energy(mol: gto.Mole, spins: np.ndarray, functional: str) -> float:
    f = get_functional(functional)
    J, _ = scf.hf.get_jk(mol, spins.sum(axis=0))
    energy = 0.5 * np.sum(J * spins.sum(axis=0))
    for share, omega in ((f.exact_exchange, 0.0), (f.long_range_exchange, f.omega)):
        if share:
            with mol.with_range_coulomb(omega):
                K = np.stack([scf.hf.get_jk(mol, D)[1] for D in spins])
            energy -= 0.5 * share * np.sum(K * spins)
    return float(energy)


# Native gradients compile for long.
@pytest.mark.slow
@pytest.mark.parametrize("basis_name", ["6-31g", "6-31g*"])
def test_one_electron_gradients(basis_name: str) -> None:
    z, positions, _ = embed("[H]F")
    direction = np.random.default_rng(4).normal(size=positions[0].shape)
    ahead, behind = (
        pyscf_molecule(z, positions[0] + s * direction, basis_name) for s in (STEP, -STEP)
    )
    D, W = some_densities(ahead.nao, 2)
    energies = [one_electron_energy(mol, D, W) for mol in (ahead, behind)]
    arguments = build_basis(z, basis_name), positions, D[None], W[None]
    libcint, native = (
        gradient(*arguments)[0]
        for gradient in (libcint_one_electron_gradient, native_one_electron_gradient)
    )
    # Error of central differences: step^2 / 6 times a third derivative, up to 1000 here.
    slope = (energies[0] - energies[1]) / (2 * STEP)
    assert np.sum(libcint * direction) == pytest.approx(slope, abs=2e-5)
    np.testing.assert_allclose(native, libcint, atol=1e-10)


@pytest.mark.parametrize("functional", ["hf", "blyp", "wb97x"])
def test_repulsion_gradient(functional: str) -> None:
    z, positions, _ = embed("[H]F")
    direction = np.random.default_rng(4).normal(size=positions[0].shape)
    ahead, behind = (
        pyscf_molecule(z, positions[0] + s * direction, "6-31g*") for s in (STEP, -STEP)
    )
    spins = some_densities(ahead.nao, 2)
    energies = [repulsion_energy(mol, spins, functional) for mol in (ahead, behind)]
    basis = build_basis(z, "6-31g*")
    found = libcint_repulsion_gradient(basis, positions, spins[None], get_functional(functional))
    slope = (energies[0] - energies[1]) / (2 * STEP)
    # As above.
    assert np.sum(found * direction) == pytest.approx(slope, abs=2e-5)
    same = np.stack([spins[0], spins[0]])[None]
    of_two = libcint_repulsion_gradient(basis, positions, same, get_functional(functional))
    closed = same.sum(axis=1, keepdims=True)
    of_one = libcint_repulsion_gradient(basis, positions, closed, get_functional(functional))
    np.testing.assert_allclose(of_one, of_two, atol=1e-10)


@pytest.mark.parametrize("exact_exchange", [0.0, 0.2, 1.0])
def test_repulsion_cotangent_is_the_derivative_by_integrals(exact_exchange: float) -> None:
    nao = 7
    (D,) = some_densities(nao, 1)

    def energy(eri: jax.Array) -> jax.Array:
        G = supermatrix(eri, nao, exact_exchange)
        return 0.5 * jnp.sum(D * two_electron_matrix(G, jnp.asarray(D)))

    eri = jnp.asarray(np.random.default_rng(5).normal(size=packed_size(nao)))
    expected = jax.grad(energy)(eri)
    padded = jnp.asarray(np.pad(D, (0, 2)))[None]
    found = repulsion_cotangent(padded, nao * (nao + 1) // 2, exact_exchange)
    # Rounding of products of order 1.
    np.testing.assert_allclose(found[: len(eri)], expected, atol=1e-13)


def test_repulsion_cotangent_of_two_spins() -> None:
    z, positions, _ = embed("[H]F")
    mol = pyscf_molecule(z, positions[0], "6-31g*")
    spins = some_densities(mol.nao, 2)
    cotangent = repulsion_cotangent(jnp.asarray(spins), mol.nao * (mol.nao + 1) // 2, 1.0)
    eri = mol.intor("int2e", aosym="s8")
    energy = jnp.sum(cotangent[: len(eri)] * eri)
    # The energy is linear in the integrals, and a sum of 1e4 terms of order 1.
    assert float(energy) == pytest.approx(repulsion_energy(mol, spins, "hf"), abs=1e-9)


def test_dense_integrals_equal_libcint() -> None:
    z, positions, _ = embed("[H]F")
    basis = build_basis(z, "sto-3g")
    eri = jax.jit(dense_electron_repulsion)(pair_table(basis, basis.nao), positions[0])
    # Rounding of sums of primitives, each up to 100.
    expected = pyscf_molecule(z, positions[0], "sto-3g").intor("int2e")
    np.testing.assert_allclose(eri, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("atoms", "basis_name", "nconf", "nspin", "lanes"),
    [
        # Only s functions, which compile fast; three centres, and lanes without a conformer.
        ((1, 2, 1), "6-31g", 5, 1, FEW),
        ((1, 2, 1), "6-31g", 9, 2, FEW),
        ((1, 2, 1), "6-31g", 25, 1, MANY),
        pytest.param((1, 6, 8), "sto-3g", 8, 1, FEW, marks=pytest.mark.slow),
    ],
)
def test_native_repulsion_gradient_equals_libcint(
    atoms: tuple[int, ...], basis_name: str, nconf: int, nspin: int, lanes: Lanes
) -> None:
    z = np.array(atoms, np.int32)
    positions = np.random.default_rng(8).normal(size=(nconf, 3, 3)) * 2
    basis = build_basis(z, basis_name)
    plan = native_plan(basis, positions, "float64")
    assert plan.lanes == lanes
    densities = np.stack([some_densities(basis.nao, nspin)] * nconf)
    native = native_repulsion_gradient(plan, positions, densities, 0.2)
    libcint = libcint_repulsion_gradient(basis, positions, densities, get_functional("b3lyp"))
    # libcint's screening, and with many lanes integrals below 1e-4 in float32.
    np.testing.assert_allclose(native, libcint, atol=1e-9)
