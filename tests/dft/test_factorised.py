"""Coulomb and exchange from factors against PySCF with the same factors or exact integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import df, gto, scf

from qmgen.dft.factorised import (
    FACTOR_BLOCK,
    coulomb,
    coulomb_exchange,
    density_orbitals,
    exchange,
    padded_factor_number,
    stack_factors,
)
from tests.dft.systems import embed, pyscf_molecule


def fitted(smiles: str, basis: str) -> tuple[gto.Mole, df.DF, np.ndarray]:
    """Molecule, PySCF's density fitting, and its factors as ours are packed."""
    z, positions, _ = embed(smiles)
    mol = pyscf_molecule(z, positions[0], basis)
    fitting = df.DF(mol, auxbasis="def2-universal-jkfit").build()
    factors = np.concatenate(list(fitting.loop()))
    return mol, fitting, factors


def symmetric(n: int, seed: int) -> np.ndarray:
    D = np.random.default_rng(seed).normal(size=(n, n))
    return D + D.T


@pytest.mark.parametrize("exact_exchange", [0.0, 0.2, 1.0])
def test_closed_shell_equals_pyscf_for_any_symmetric_density(exact_exchange: float) -> None:
    mol, fitting, factors = fitted("C=O", "6-31g*")
    D = symmetric(mol.nao, 3)
    orbitals, occupation = density_orbitals(D[None], 8)
    assert (occupation < 0).any()
    B = jnp.asarray(stack_factors([factors])[0])
    matrix = coulomb_exchange(
        B, jnp.asarray(orbitals[0]), jnp.asarray(occupation[0]), exact_exchange
    )
    J, K = fitting.get_jk(D)
    # Rounding of sums of naux nao^2 terms of order 1.
    np.testing.assert_allclose(matrix, J - 0.5 * exact_exchange * K, atol=1e-10)


def test_open_shell_equals_pyscf() -> None:
    """J of both spins and K of each, from occupied orbitals with padded slots."""
    mol, fitting, factors = fitted("CO", "sto-3g")
    B = jnp.asarray(stack_factors([factors])[0])
    rng = np.random.default_rng(5)
    densities = []
    for nocc in (9, 7):
        C = rng.normal(size=(mol.nao, 10))
        occupation = (np.arange(10) < nocc).astype(float)
        D = (C * occupation) @ C.T
        _, K = fitting.get_jk(D)
        got = exchange(B, jnp.asarray(C), jnp.asarray(occupation))
        np.testing.assert_allclose(got, K, atol=1e-10 * np.abs(K).max())
        densities.append(D)
    J, _ = fitting.get_jk(sum(densities))
    np.testing.assert_allclose(
        coulomb(B, jnp.asarray(sum(densities))), J, atol=1e-10 * np.abs(J).max()
    )


def test_padded_orbitals_and_factors_change_nothing() -> None:
    mol, _, factors = fitted("O", "6-31g*")
    n, more = mol.nao, 5
    C = jnp.asarray(np.random.default_rng(0).normal(size=(n, 5)))
    occupation = jnp.full(5, 2.0)
    npair = (n + more) * (n + more + 1) // 2
    narrow = jnp.asarray(stack_factors([factors])[0])
    wide = jnp.pad(narrow, ((0, FACTOR_BLOCK), (0, npair - narrow.shape[1])))
    expected = coulomb_exchange(narrow, C, occupation, 0.25)
    got = coulomb_exchange(wide, jnp.pad(C, ((0, more), (0, 3))), jnp.pad(occupation, (0, 3)), 0.25)
    np.testing.assert_allclose(got[:n, :n], expected, atol=1e-12)
    assert not np.any(got[n:])


def test_single_precision_is_as_good_as_its_rounding() -> None:
    z, positions, _ = embed("C=O")
    mf = scf.RHF(pyscf_molecule(z, positions[0], "def2-svp")).run()
    fitting = df.DF(mf.mol, auxbasis="def2-universal-jkfit").build()
    B = stack_factors([np.concatenate(list(fitting.loop()))])[0]
    C, n = density_orbitals(mf.make_rdm1()[None], 8)
    single = coulomb_exchange(*(jnp.asarray(a, jnp.float32) for a in (B, C[0], n[0])), 0.2)
    assert single.dtype == jnp.float32
    J, K = fitting.get_jk(mf.make_rdm1())
    # A few hundred terms of up to 10 Ha, each rounded at 6e-8 of itself.
    np.testing.assert_allclose(single, J - 0.1 * K, atol=2e-5)


def test_batch_equals_single() -> None:
    _, _, factors = fitted("O", "sto-3g")
    B = jnp.asarray(stack_factors([factors, 0.5 * factors]))
    C = jnp.asarray(np.random.default_rng(1).normal(size=(2, 7, 4)))
    n = jnp.asarray([[2.0, 2.0, 1.0, 0.0], [2.0, 1.0, 0.5, -0.5]])
    batch = jax.vmap(coulomb_exchange, in_axes=(0, 0, 0, None))(B, C, n, 0.2)
    for i in range(2):
        np.testing.assert_allclose(batch[i], coulomb_exchange(B[i], C[i], n[i], 0.2), atol=1e-12)


def test_derivative_equals_finite_difference() -> None:
    _, _, factors = fitted("O", "sto-3g")
    B = jnp.asarray(stack_factors([factors])[0])
    rng = np.random.default_rng(2)
    C, n = jnp.asarray(rng.normal(size=(7, 5))), jnp.full(5, 2.0)
    step_b, step_c = jnp.asarray(rng.normal(size=B.shape)), jnp.asarray(rng.normal(size=C.shape))

    @jax.jit
    def energy(t: jax.Array) -> jax.Array:
        orbitals = C + t * step_c
        D = 2 * orbitals @ orbitals.T
        return 0.5 * jnp.sum(D * coulomb_exchange(B + t * step_b, orbitals, n, 0.2))

    h = 1e-4
    slope = (energy(jnp.asarray(h)) - energy(jnp.asarray(-h))) / (2 * h)
    # Central difference: error of order h^2 relative to the third derivative.
    assert jax.jit(jax.grad(energy))(jnp.asarray(0.0)) == pytest.approx(float(slope), rel=1e-5)


def test_density_orbitals_give_the_density_back() -> None:
    rng = np.random.default_rng(8)
    C = rng.normal(size=(12, 5))
    low_rank, full = 2 * C @ C.T, symmetric(12, 9)
    orbitals, occupation = density_orbitals(low_rank[None], 4)
    assert occupation.shape == (1, 8)
    np.testing.assert_allclose((orbitals[0] * occupation[0]) @ orbitals[0].T, low_rank, atol=1e-12)
    broken = np.full((12, 12), np.nan)
    orbitals, occupation = density_orbitals(np.stack([low_rank, broken, full]), 8)
    assert occupation.shape == (3, 16)
    rebuilt = np.einsum("cio,co,cjo->cij", orbitals, occupation, orbitals)
    np.testing.assert_allclose(rebuilt[[0, 2]], [low_rank, full], atol=1e-12)
    assert np.isnan(rebuilt[1]).all()


@pytest.mark.parametrize("naux", [0, 1, FACTOR_BLOCK, FACTOR_BLOCK + 1])
def test_factor_number_is_a_whole_number_of_blocks(naux: int) -> None:
    padded = padded_factor_number(naux)
    assert padded % FACTOR_BLOCK == 0
    assert max(naux, 1) <= padded < max(naux, 1) + FACTOR_BLOCK
