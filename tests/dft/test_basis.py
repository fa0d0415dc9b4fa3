import jax.numpy as jnp
import numpy as np
import pytest
from pyscf.scf import hf

from qmgen.dft.basis import build_basis, check_basis_name
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.orbitals import evaluate_orbitals, orbital_table
from qmgen.errors import MissingElementError, UnknownBasisError, UnsupportedMoleculeError
from tests.dft.systems import embed, pyscf_molecule

# Segmented and generally contracted sets, s to g functions, first to third row.
BASES = ["sto-3g", "6-31g*", "def2-svp", "cc-pvtz", "cc-pvqz", "ano-rcc-mb"]


@pytest.mark.parametrize("basis_name", BASES)
def test_orbitals_and_gradients_equal_pyscf(basis_name: str) -> None:
    z, positions, _ = embed("CS(=O)CCl")
    basis = build_basis(z, basis_name)
    mol = pyscf_molecule(z, positions[0], basis_name)
    points = np.random.default_rng(1).normal(scale=4, size=(300, 3))
    table = orbital_table(basis, basis.nao + 3)
    values = evaluate_orbitals(table, jnp.asarray(positions[0]), jnp.asarray(points))
    reference = mol.eval_gto("GTOval_sph_deriv1", points)
    # Rounding of sums of up to 30 primitives whose values reach 50.
    np.testing.assert_allclose(values[:, :, : basis.nao], reference, atol=1e-12)
    assert not np.any(values[:, :, basis.nao :]), "padded orbitals must vanish"


@pytest.mark.parametrize("basis_name", BASES)
def test_integrals_and_guess_equal_pyscf(basis_name: str) -> None:
    z, positions, _ = embed("[H]Cl")
    basis = build_basis(z, basis_name)
    mol = pyscf_molecule(z, positions[0], basis_name)
    integrals = libcint_integrals(basis, positions)
    # The same library on the same tables: equal to the last bit.
    for ours, name in (
        (integrals.overlap, "int1e_ovlp"),
        (integrals.kinetic, "int1e_kin"),
        (integrals.nuclear_attraction, "int1e_nuc"),
        (integrals.dipole, "int1e_r"),
    ):
        np.testing.assert_array_equal(ours[0], mol.intor(name))
    np.testing.assert_array_equal(integrals.eri[0], mol.intor("int2e", aosym="s8"))
    guess = minao_density(z, basis, positions, np.asarray(integrals.overlap))
    np.testing.assert_allclose(guess[0], hf.init_guess_by_minao(mol), atol=1e-10)


def test_exchange_only_names_are_read_from_the_basis_set_exchange() -> None:
    z = np.array([6, 1, 1, 1, 1])
    # cc-pVDZ has 14 functions on C and 5 on H; "jun" adds s and p on C.
    assert build_basis(z, "jun-cc-pV(D+d)Z").nao == 14 + 4 + 4 * 5


def test_unknown_basis_is_refused_with_names_like_it() -> None:
    with pytest.raises(UnknownBasisError, match=r"unknown basis '6-31x'.*Names like it: .*6-31"):
        check_basis_name("6-31x")


def test_element_that_the_basis_lacks_is_named() -> None:
    with pytest.raises(MissingElementError, match=r"6-31g\* has no functions for I"):
        build_basis(np.array([53, 1]), "6-31g*")


def test_effective_core_potential_is_refused() -> None:
    with pytest.raises(UnsupportedMoleculeError, match="effective core potential for I"):
        build_basis(np.array([53, 1]), "def2-svp")
