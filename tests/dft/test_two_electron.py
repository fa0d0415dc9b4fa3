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
