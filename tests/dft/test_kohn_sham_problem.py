"""Energies of given orbitals against PySCF, and their derivatives against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import (
    KohnShamProblem,
    energy_of_orbitals,
    kohn_sham_problems,
    labels_of_orbitals,
)
from qmgen.dft.orbital_projection import (
    SMALLEST_GAP,
    orbitals_of_coefficients,
    orbitals_of_density,
    orbitals_of_hamiltonian,
)
from qmgen.errors import UnsupportedMoleculeError
from tests.dft.systems import embed, pyscf_solution

# Beyond 96 orbitals, and with density fitting, integrals are factors.
LEVELS = [
    ("O", "b3lyp", "sto-3g", "exact"),
    pytest.param("O", "pbe", "6-31g*", "density_fitting", marks=pytest.mark.slow),
    pytest.param("FC=O", "pbe", "def2-svp", "exact", marks=pytest.mark.slow),
    pytest.param("CO", "wb97x", "sto-3g", "exact", marks=pytest.mark.slow),
    pytest.param("CO", "b3lyp", "6-31g*", "density_fitting", marks=pytest.mark.slow),
]


def problem_of(smiles: str, config: DFTConfig) -> tuple[KohnShamProblem, np.ndarray, np.ndarray]:
    z, positions, charge = embed(smiles)
    return kohn_sham_problems(z, positions, config, charge=charge)[0], z, positions[0]


@pytest.mark.parametrize(("smiles", "functional", "basis", "two_electron"), LEVELS)
def test_pyscf_orbitals_have_pyscf_energies(
    smiles: str, functional: str, basis: str, two_electron: str
) -> None:
    config = DFTConfig(
        functional=functional,
        basis=basis,
        grid_level=1,
        two_electron=two_electron,
        precision="float64",
    )
    problem, z, positions = problem_of(smiles, config)
    reference = pyscf_solution(z, positions, config, 0)
    nocc, nao = reference.mol.nelectron // 2, reference.mol.nao
    C = np.zeros((problem.guess.shape[0], problem.nslot))
    C[:nao, :nocc] = reference.mo_coeff[:, :nocc]
    orbitals = np.linalg.inv(np.asarray(problem.orthogonaliser)) @ C
    labels = labels_of_orbitals(problem, jnp.asarray(orbitals))
    assert np.abs(orbitals.T @ orbitals)[:nocc, :nocc] == pytest.approx(np.eye(nocc), abs=1e-9)
    # That of integrals and quadrature; PySCF's own density is converged to second order.
    assert float(labels.energy) == pytest.approx(reference.e_tot, abs=1e-8)
    # First order in PySCF's density, which is converged to 1e-6.
    np.testing.assert_allclose(labels.orbital_energies[:nao], reference.mo_energy, atol=1e-5)
    assert float(labels.gap) == pytest.approx(
        reference.mo_energy[nocc] - reference.mo_energy[nocc - 1], abs=1e-5
    )


# Compiles for another shape and precision.
@pytest.mark.slow
def test_single_precision_is_near_double() -> None:
    energies = []
    for precision in ("float64", "float32"):
        config = DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0, precision=precision)
        problem, _, _ = problem_of("CC(N)=O", config)
        Q = orbitals_of_hamiltonian(
            problem.guess, problem.nslot, problem.noccupied, problem.real_orbital
        )
        energies.append(float(energy_of_orbitals(problem, Q)))
    # The bar of float32 labels.
    assert energies[0] == pytest.approx(energies[1], abs=5e-5)


# Compiles a batch's own program.
@pytest.mark.slow
def test_batch_equals_single() -> None:
    z, positions, _ = embed("CO", 2)
    config = DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0, precision="float64")
    problems = kohn_sham_problems(z, positions, config)

    def energy(problem: KohnShamProblem, H: jax.Array) -> jax.Array:
        args = problem.nslot, problem.noccupied, problem.real_orbital
        return energy_of_orbitals(problem, orbitals_of_hamiltonian(H, *args))

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    values, slopes = jax.vmap(jax.value_and_grad(energy, argnums=1))(stacked, stacked.guess)
    for problem, value, slope in zip(problems, values, slopes, strict=True):
        alone, alone_slope = jax.value_and_grad(energy, argnums=1)(problem, problem.guess)
        # Rounding: sums in another order.
        assert float(value) == pytest.approx(float(alone), abs=1e-10)
        np.testing.assert_allclose(slope, alone_slope, atol=1e-10)


def test_open_shells_are_refused() -> None:
    z, positions, _ = embed("[CH3]")
    with pytest.raises(UnsupportedMoleculeError, match="9 electrons"):
        kohn_sham_problems(z, positions, DFTConfig())


REAL = np.array([True] * 7 + [False])
NOCC = 3


def symmetric(seed: int) -> np.ndarray:
    M = np.random.default_rng(seed).normal(size=(8, 8))
    M = np.where(REAL[:, None] & REAL, M, 0.0)
    return M + M.T


def density_of_hamiltonian(H: jax.Array) -> jax.Array:
    Q = orbitals_of_hamiltonian(H, 5, jnp.asarray(NOCC), jnp.asarray(REAL))
    return 2 * Q @ Q.T


@pytest.mark.parametrize("degenerate", ["no", "occupied", "empty", "both"])
def test_derivative_of_the_density(degenerate: str) -> None:
    energies = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0])
    if degenerate in ("occupied", "both"):
        energies[:3] = -2.0
    if degenerate in ("empty", "both"):
        energies[3:6] = 1.0
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
    H = np.zeros((8, 8))
    H[:7, :7] = (U * energies) @ U.T
    weights, direction, step = symmetric(1), symmetric(2), 1e-4
    slope = jax.grad(lambda H: jnp.sum(weights * density_of_hamiltonian(H)))(jnp.asarray(H))
    ahead, behind = (density_of_hamiltonian(jnp.asarray(H + s * direction)) for s in (step, -step))
    difference = np.sum(weights * np.asarray(ahead - behind)) / (2 * step)
    # Error of central differences: step^2 times a third derivative of about 100.
    assert np.sum(np.asarray(slope) * direction) == pytest.approx(difference, abs=1e-5)
    assert not np.asarray(slope)[7].any()


def test_derivative_is_bounded_where_the_gap_closes() -> None:
    energies = np.array([-3.0, -2.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0])
    U = np.eye(8)
    U[:7, :7] = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
    weights = symmetric(1)
    slope = jax.grad(lambda H: jnp.sum(weights * density_of_hamiltonian(H)))(
        jnp.asarray((U * energies) @ U.T)
    )
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() <= 4 * np.linalg.norm(weights, 2) / SMALLEST_GAP


@pytest.mark.parametrize("what", ["hamiltonian", "density", "coefficients"])
def test_orbitals_are_valid_by_construction(what: str) -> None:
    nocc, real = jnp.asarray(NOCC), jnp.asarray(REAL)
    if what == "coefficients":
        Z = np.random.default_rng(3).normal(size=(8, 5))
        Z[7] = 0.0
        Q = orbitals_of_coefficients(jnp.asarray(Z), nocc)
        # They span what the coefficients do.
        assert np.linalg.matrix_rank(np.hstack([Q[:, :NOCC], Z[:, :NOCC]]), tol=1e-10) == NOCC
    else:
        make = orbitals_of_hamiltonian if what == "hamiltonian" else orbitals_of_density
        Q = make(jnp.asarray(symmetric(4)), 5, nocc, real)
    np.testing.assert_allclose(Q.T @ Q, np.diag([1, 1, 1, 0, 0]), atol=1e-12)
    assert not np.asarray(Q)[7].any()


def test_natural_orbitals_of_a_valid_density() -> None:
    density = density_of_hamiltonian(jnp.asarray(symmetric(5)))
    Q = orbitals_of_density(density, 5, jnp.asarray(NOCC), jnp.asarray(REAL))
    np.testing.assert_allclose(2 * Q @ Q.T, density, atol=1e-12)
