"""Coulomb and exchange from float32 factors against the same in float64, and PySCF's factors."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from pyscf import df

from qmgen.dft.basis import build_basis
from qmgen.dft.cholesky import cholesky_factors
from qmgen.dft.factorised import coulomb_exchange, stack_factors
from qmgen.dft.single_factors import (
    aligned,
    half_transformed,
    single_coulomb_exchange,
    single_coulomb_exchange_change,
    single_factors,
)
from tests.dft.systems import embed, pyscf_molecule


def orbitals_of(smiles: str, basis: str) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Factors, number of orbitals, orthonormal orbitals, and the overlap they belong to."""
    z, positions, _ = embed(smiles)
    mol = pyscf_molecule(z, positions[0], basis)
    factors = np.concatenate(list(df.DF(mol, auxbasis="def2-universal-jkfit").build().loop()))
    S = mol.intor("int1e_ovlp")
    _, C = scipy.linalg.eigh(mol.intor("int1e_kin") + mol.intor("int1e_nuc"), S)
    return factors, mol.nao, C, S


def padded(C: np.ndarray, nocc: int) -> jnp.ndarray:
    return jnp.asarray(np.pad(C[:, :nocc], ((0, 0), (0, 3))))


@pytest.mark.parametrize("exact_exchange", [0.0, 0.2])
def test_equals_float64(exact_exchange: float) -> None:
    factors, nao, C, _ = orbitals_of("C=O", "6-31g*")
    B = jnp.asarray(stack_factors([factors])[0])
    occupied = padded(C, 8)
    n = jnp.full(occupied.shape[1], 2.0)
    exact = coulomb_exchange(B, occupied, n, exact_exchange)
    got = single_coulomb_exchange(
        single_factors(B, nao), *(x.astype(jnp.float32) for x in (occupied, n)), exact_exchange
    )
    assert got.dtype == jnp.float32
    # Rounding of sums of 1e5 terms that reach 10 Hartree.
    np.testing.assert_allclose(got, exact, atol=1e-4)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5])
def test_rounding_is_proportional_to_the_change(size: float) -> None:
    factors, nao, C, _ = orbitals_of("C=O", "6-31g*")
    B = jnp.asarray(stack_factors([factors])[0])
    X = np.random.default_rng(1).normal(size=(nao, nao)) / nao
    # Any mixing of the occupied orbitals among themselves is no change.
    mixing = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    moved = C @ scipy.linalg.expm(size * (X - X.T))
    old, new = padded(C, 8), padded(moved[:, :8] @ mixing, 8)
    n = jnp.full(old.shape[1], 2.0)
    exact = coulomb_exchange(B, new, n, 0.2) - coulomb_exchange(B, old, n, 0.2)
    near = aligned(new, old)
    np.testing.assert_allclose(near @ near.T, new @ new.T, atol=1e-13)
    single = single_factors(B, nao)
    step = single_coulomb_exchange_change(
        single,
        half_transformed(single, old.astype(jnp.float32)),
        (2 * new @ new.T - 2 * old @ old.T).astype(jnp.float32),
        (near - old).astype(jnp.float32),
        0.2,
    )
    # float32's rounding in some hundred terms.
    np.testing.assert_allclose(step, exact, atol=3e-5 * np.abs(exact).max(), rtol=0)


def test_negligible_cholesky_vectors_are_left_out() -> None:
    z, positions, _ = embed("CO")
    basis = build_basis(z, "6-31g*")
    factors = cholesky_factors(basis, positions[0])
    single = single_factors(jnp.asarray(stack_factors([factors])[0]), basis.nao)
    kept = int(single.nblock) * single.blocks.shape[1]
    assert 0 < kept < len(factors)
    # What is left out bounds the error of all integrals.
    assert (factors[kept:] ** 2).sum(axis=0).max() < 1e-6
