import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import scf

from qmgen.dft.two_electron import packed_size, supermatrix, two_electron_matrix
from tests.dft.systems import embed, pyscf_molecule


@pytest.mark.parametrize("exact_exchange", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("padding", [0, 3])
def test_supermatrix_equals_pyscf_coulomb_and_exchange(exact_exchange: float, padding: int) -> None:
    z, positions, _ = embed("C=O")
    mol = pyscf_molecule(z, positions[0], "6-31g*")
    nao = mol.nao
    D = np.random.default_rng(2).normal(size=(nao, nao))
    D = D + D.T
    J, K = scf.hf.get_jk(mol, D)
    eri = mol.intor("int2e", aosym="s8")
    assert eri.size == packed_size(nao)
    eri = np.pad(eri, (0, packed_size(nao + padding) - eri.size))
    G = supermatrix(jnp.asarray(eri), nao + padding, exact_exchange)
    matrix = two_electron_matrix(G, jnp.pad(D, (0, padding)))
    # Rounding of sums of nao^2 terms of order 1.
    np.testing.assert_allclose(matrix[:nao, :nao], J - 0.5 * exact_exchange * K, atol=1e-10)
    assert not np.any(matrix[nao:]), "padded orbitals must not interact"


def test_sums_are_in_the_density_s_precision() -> None:
    """With a supermatrix in float32 only its own rounding is left."""
    nao = 31
    rng = np.random.default_rng(7)
    G = jnp.asarray(rng.normal(size=(nao * (nao + 1) // 2,) * 2).astype(np.float32) + 100)
    D = rng.normal(size=(nao, nao))
    found = two_electron_matrix(G, jnp.asarray(D + D.T))
    assert found.dtype == np.float64
    expected = two_electron_matrix(G.astype(jnp.float64), jnp.asarray(D + D.T))
    # Rounding of sums of 500 terms of order 100; those in float32 are off by 1e-3.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
