"""Fingerprints, distances of conformers and substructures, against RDKit and rotations by hand."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator, rdMolAlign
from scipy.spatial.transform import Rotation

from qmgen.errors import MoleculeParseError
from qmgen.molecules import (
    ConformerConfig,
    embed_conformers,
    molecule_from_smiles,
    morgan_fingerprints,
    rmsd_to_conformer,
    substructure_test,
)


def test_fingerprints_are_rdkits() -> None:
    smiles = ["CCO", "c1ccccc1O", "[NH4+]"]
    bits = morgan_fingerprints(smiles, nbit=512)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=512)
    for row, text in zip(bits, smiles, strict=True):
        assert set(np.flatnonzero(row)) == set(
            generator.GetFingerprint(Chem.MolFromSmiles(text)).GetOnBits()
        )
    assert bits.sum(axis=1).min() > 0
    assert morgan_fingerprints([]).shape == (0, 1024)
    with pytest.raises(MoleculeParseError):
        morgan_fingerprints(["C", "C1"])


def test_rmsd_is_that_of_heavy_atoms_over_symmetry() -> None:
    smiles = "CC(C)CC(=O)O"
    molecule = molecule_from_smiles(smiles)
    positions = embed_conformers(molecule, ConformerConfig(per_molecule=6), 1)
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    for frame in positions:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(frame)
        mol.AddConformer(conformer, assignId=True)
    heavy = Chem.RemoveHs(mol)
    expected = [rdMolAlign.GetBestRMS(Chem.Mol(heavy), heavy, i, 2) for i in range(6)]
    found = rmsd_to_conformer(molecule.smiles, molecule.atomic_numbers, positions, 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert found.max() > 0.3


@pytest.mark.parametrize("known", [True, False], ids=["bonds known", "bonds unknown"])
def test_rmsd_sees_no_motion_and_only_without_bonds_an_exchange(known: bool) -> None:
    molecule = molecule_from_smiles("CC(C)O")
    (first,) = embed_conformers(molecule, ConformerConfig(per_molecule=1), 0)
    shift = np.array([1.0, -4.0, 2.0])
    moved = Rotation.from_euler("xyz", [0.3, 1.2, -2.0]).apply(first) + shift
    assert molecule.smiles == "CC(C)O"
    exchanged = first.copy()
    exchanged[[0, 2]] = exchanged[[2, 0]]  # the carbons of both methyls
    text = molecule.smiles if known else ""
    positions = np.array([first, moved, exchanged])
    still, rotated, swapped = rmsd_to_conformer(text, molecule.atomic_numbers, positions, 0)
    assert still == pytest.approx(0, abs=1e-6)
    assert rotated == pytest.approx(0, abs=1e-6)
    assert (swapped < 1e-6) == known


def test_rmsd_in_another_order_of_atoms_ignores_the_smiles() -> None:
    """With the file's own order, bonds of the SMILES would join atoms that are far apart."""
    molecule = molecule_from_smiles("CCCCC")
    positions = embed_conformers(molecule, ConformerConfig(per_molecule=3), 0)
    order = np.array([2, 0, 4, 1, 3, *range(5, 17)])
    numbers = molecule.atomic_numbers[order]
    with_smiles = rmsd_to_conformer("CCCCC", numbers, positions[:, order], 0)
    np.testing.assert_allclose(with_smiles, rmsd_to_conformer("", numbers, positions[:, order], 0))
    one_atom = np.array([[[0.0, 0, 0], [0, 0, 0.74]], [[0.0, 0, 0], [0, 0, 0.94]]])
    # Each hydrogen is 0.1 off when the bond's middles coincide.
    hydrogen = rmsd_to_conformer("[H][H]", np.array([1, 1]), one_atom, 0)
    np.testing.assert_allclose(hydrogen, [0, 0.1], atol=1e-6)


def test_substructures() -> None:
    acid = substructure_test("C(=O)[OX2H]")
    assert [acid(s) for s in ("CC(=O)O", "COC=O", "O=C(O)c1ccccc1", "no smiles")] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("smarts", "words"),
    [("c1ccc", "unclosed ring"), ("  ", "empty"), ("C" * 201, "201"), ("[C", "SMARTS")],
)
def test_bad_smarts_says_why(smarts: str, words: str) -> None:
    with pytest.raises(MoleculeParseError, match=words):
        substructure_test(smarts)
