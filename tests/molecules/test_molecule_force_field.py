"""MMFF94: RDKit's own energies of conformers, and forces that are their slope."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from qmgen.errors import UnsupportedMoleculeError
from qmgen.molecules import (
    ConformerConfig,
    embed_conformers,
    mmff94,
    molecule_from_smiles,
    read_molecules,
)

MOLECULES = ["O", "CCO", "c1ccccc1C(=O)[O-]", "C[NH3+]", "CS(=O)(=O)N", "ClC=CBr"]


def conformers(smiles: str):
    molecule = molecule_from_smiles(smiles)
    return molecule, embed_conformers(molecule, ConformerConfig(per_molecule=4), 3)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_energies_are_those_of_rdkit_s_conformers(smiles: str) -> None:
    molecule, positions_angstrom = conformers(smiles)
    energies, _ = mmff94(molecule, positions_angstrom)
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    for places in positions_angstrom:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(places)
        mol.AddConformer(conformer, assignId=True)
    # No step of the optimiser: the energies as they are.
    expected = [e for _, e in rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=0)]
    assert energies == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_gradients_are_the_energy_s_slope(smiles: str) -> None:
    """Central differences of 1e-4 Angstrom, whose error is of second order in that."""
    molecule, positions_angstrom = conformers(smiles)
    _, gradients = mmff94(molecule, positions_angstrom[:1])
    direction = np.random.default_rng(1).normal(size=gradients[0].shape)
    step = 1e-4 * direction
    moved = np.stack([positions_angstrom[0] + step, positions_angstrom[0] - step])
    (plus, minus), _ = mmff94(molecule, moved)
    slope = (gradients[0] * direction).sum()
    assert (plus - minus) / 2e-4 == pytest.approx(slope, rel=1e-5, abs=1e-4)


def test_molecules_that_it_can_t_do(tmp_path) -> None:
    helium = molecule_from_smiles("[He]")
    with pytest.raises(UnsupportedMoleculeError, match="no parameters"):
        mmff94(helium, np.zeros((1, 1, 3)))
    path = tmp_path / "water.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0.76 0 0.59\nH -0.76 0 0.59\n", encoding="utf-8")
    (water,) = read_molecules(path)
    with pytest.raises(UnsupportedMoleculeError, match="give SMILES"):
        mmff94(water, water.positions_angstrom[None])
