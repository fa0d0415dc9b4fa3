"""Cartesian and mixed bases against PySCF, and against QM9's published labels."""

import csv
from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from pydantic import ValidationError
from pyscf import ao2mo, gto
from pyscf.scf import hf

from qmgen.dft.basis import Basis, build_basis
from qmgen.dft.cartesian import pair_transformation
from qmgen.dft.config import DFTConfig
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.label import label_conformers
from qmgen.dft.orbitals import evaluate_orbitals, orbital_table
from qmgen.units import BOHR_PER_ANGSTROM, DEBYE_PER_ATOMIC_UNIT
from tests.dft.systems import embed, pyscf_molecule, pyscf_solution

DATA = Path(__file__).parents[2] / "workflows" / "data"
ALL = (2, 3, 4)
# d and f functions, segmented and generally contracted; each kind pure, Cartesian, and both.
CASES = [("def2-tzvp", (2,)), ("cc-pvtz", (3,)), ("def2-tzvp", ALL)]


def cartesian_copy(mol: gto.Mole) -> gto.Mole:
    copy = mol.copy()
    copy.cart = True
    return copy


def transformation(mol: gto.Mole, cartesian: tuple[int, ...]) -> np.ndarray:
    """PySCF's transformation of each pure shell, and nothing where the shell is Cartesian."""
    blocks = []
    for shell in range(mol.nbas):
        degree = mol.bas_angular(shell)
        size = (degree + 1) * (degree + 2) // 2
        block = np.eye(size) if degree in cartesian else gto.cart2sph(degree, normalized="sp")
        blocks += [block] * mol.bas_nctr(shell)
    return scipy.linalg.block_diag(*blocks)


def columns_of(mol: gto.Mole, degrees: set[int]) -> list[int]:
    """Orbitals of a molecule whose shells have some degrees."""
    starts = mol.ao_loc_nr()
    shells = (s for s in range(mol.nbas) if mol.bas_angular(s) in degrees)
    return [i for s in shells for i in range(starts[s], starts[s + 1])]


@lru_cache
def example(basis_name: str, cartesian: tuple[int, ...]) -> tuple[Basis, np.ndarray, gto.Mole]:
    z, positions, _ = embed("CO")
    # One heavy atom and a hydrogen keep the two-electron integrals few.
    z, positions = z[[1, 5]], positions[:, [1, 5]]
    mol = pyscf_molecule(z, positions[0], basis_name, charge=1)
    return build_basis(z, basis_name, cartesian), positions, mol


@pytest.mark.parametrize(("basis_name", "cartesian"), CASES)
def test_orbitals_equal_pyscf_degree_by_degree(basis_name: str, cartesian: tuple[int, ...]) -> None:
    basis, positions, mol = example(basis_name, cartesian)
    points = np.random.default_rng(1).normal(scale=2, size=(200, 3))
    table = orbital_table(basis, basis.nao + 3)
    values = np.asarray(evaluate_orbitals(table, jnp.asarray(positions[0]), jnp.asarray(points)))
    assert not np.any(values[:, :, basis.nao :]), "padded orbitals must vanish"
    degree_of_orbital = basis.shell_l[basis.orbital_shell]
    seen = 0
    for degree in range(basis.max_l + 1):
        kind = "cart" if degree in cartesian else "sph"
        of_kind = cartesian_copy(mol) if kind == "cart" else mol
        reference = of_kind.eval_gto(f"GTOval_{kind}_deriv1", points)
        ours = values[:, :, : basis.nao][:, :, degree_of_orbital == degree]
        # Rounding of sums of a few primitives whose values reach 50.
        np.testing.assert_allclose(ours, reference[:, :, columns_of(of_kind, {degree})], atol=1e-12)
        seen += ours.shape[2]
    assert seen == basis.nao


@pytest.mark.parametrize(("basis_name", "cartesian"), CASES)
def test_integrals_equal_transformed_ones_of_pyscf(
    basis_name: str, cartesian: tuple[int, ...]
) -> None:
    basis, positions, mol = example(basis_name, cartesian)
    mol = cartesian_copy(mol)
    T = transformation(mol, cartesian)
    assert T.shape == (mol.nao, basis.nao)
    integrals = libcint_integrals(basis, positions)
    for ours, name in (
        (integrals.overlap, "int1e_ovlp"),
        (integrals.kinetic, "int1e_kin"),
        (integrals.nuclear_attraction, "int1e_nuc"),
        (integrals.dipole, "int1e_r"),
    ):
        # Rounding of integrals up to 100.
        np.testing.assert_allclose(ours[0], T.T @ mol.intor(name) @ T, rtol=1e-13, atol=1e-12)
    reference = ao2mo.full(mol.intor("int2e"), T)
    ours = ao2mo.restore(1, np.asarray(integrals.eri[0]), basis.nao)
    np.testing.assert_allclose(ours, reference, atol=1e-12)
    guess = minao_density(basis.atomic_numbers, basis, positions, np.asarray(integrals.overlap))
    # PySCF projects onto all Cartesian orbitals; ours is that, projected onto the mixed ones.
    projector = np.linalg.solve(integrals.overlap[0], T.T @ mol.intor("int1e_ovlp"))
    expected = projector @ hf.init_guess_by_minao(mol) @ projector.T
    np.testing.assert_allclose(guess[0], expected, atol=1e-10)


def test_pairs_transform_like_their_orbitals() -> None:
    basis, _, mol = example("cc-pvtz", (2,))
    T = transformation(cartesian_copy(mol), (2,))
    matrix = np.random.default_rng(3).normal(size=(len(T), len(T)))
    matrix += matrix.T
    rows, columns = np.tril_indices(len(T))
    packed = pair_transformation(basis) @ matrix[rows, columns]
    rows, columns = np.tril_indices(basis.nao)
    np.testing.assert_allclose(packed, (T.T @ matrix @ T)[rows, columns], atol=1e-12)


@pytest.mark.parametrize(
    ("functional", "basis", "nao"),
    # On F: 3s 2p and one 6D; 5s 3p, two 6D and one 7F. On H: 2s; 3s 1p.
    [("hf", "6-31g*", 15 + 2), pytest.param("pbe", "def2-tzvp", 33 + 6, marks=pytest.mark.slow)],
)
def test_labels_equal_pyscf(functional: str, basis: str, nao: int) -> None:
    z, positions, _ = embed("[H]F")
    config = DFTConfig(functional=functional, basis=basis, cartesian=(2,), grid_level=1)
    labels = label_conformers(z, positions, config)
    reference = pyscf_solution(z, positions[0], config)
    assert labels.orbital_energies.shape == (1, nao)
    # The bounds of test_label.py.
    assert labels.energy[0] == pytest.approx(reference.e_tot, abs=1e-8)
    np.testing.assert_allclose(labels.orbital_energies[0], reference.mo_energy, atol=1e-5)
    dipole_debye = labels.dipole[0] * DEBYE_PER_ATOMIC_UNIT
    np.testing.assert_allclose(dipole_debye, reference.dip_moment(verbose=0), atol=1e-4)
    _, charges = reference.mulliken_pop(verbose=0)
    np.testing.assert_allclose(labels.mulliken_charges[0], charges, atol=2e-5)


@lru_cache
def qm9_geometries() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    lines = iter((DATA / "qm9_sample.xyz").read_text(encoding="utf-8").splitlines())
    frames = {}
    for count in lines:
        name = next(lines)
        atoms = [next(lines).split() for _ in range(int(count))]
        z = np.array([gto.charge(symbol) for symbol, *_ in atoms])
        positions_angstrom = np.array([[float(x) for x in xyz] for _, *xyz in atoms])
        frames[name] = z, positions_angstrom * BOHR_PER_ANGSTROM
    return frames


@pytest.mark.parametrize(
    "smiles", ["O", *(pytest.param(smiles, marks=pytest.mark.slow) for smiles in "CN")]
)
def test_published_labels_of_qm9(smiles: str) -> None:
    """Gaussian 09's B3LYP/6-31G(2df,p), which no choice of one kind for all shells gives."""
    with open(DATA / "qm9_sample.csv", encoding="utf-8", newline="") as stream:
        (published,) = (row for row in csv.DictReader(stream) if row["smiles"] == smiles)
    z, positions = qm9_geometries()[published["id"]]
    config = DFTConfig(
        functional="b3lypg", basis=str(DATA / "6-31g_2df_p_gaussian.nw"), cartesian=(2,)
    )
    labels = label_conformers(z, positions[np.newaxis], config)
    # Energies are published to 1e-6 Ha and the grids of the two programs differ; found: 2e-6 Ha.
    assert labels.energy[0] == pytest.approx(float(published["E_elec_Ha"]), abs=1e-5)
    # Orbital energies and dipoles are published to four decimals.
    assert labels.homo[0] == pytest.approx(float(published["homo_Ha"]), abs=1e-4)
    assert labels.lumo[0] == pytest.approx(float(published["lumo_Ha"]), abs=1e-4)
    dipole_debye = np.linalg.norm(labels.dipole[0]) * DEBYE_PER_ATOMIC_UNIT
    assert dipole_debye == pytest.approx(float(published["mu_D"]), abs=2e-4)


def test_order_and_repeats_make_no_other_configuration() -> None:
    assert DFTConfig(cartesian=(3, 2, 2)) == DFTConfig(cartesian=(2, 3))
    assert DFTConfig(cartesian=(2,)) != DFTConfig()


@pytest.mark.parametrize("bad", [(0,), (1,), (7,), (-2,), ("d",), 2])
def test_impossible_degrees_are_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        DFTConfig.model_validate({"cartesian": bad})
