"""Conformers: seeds, relaxation, pruning, rattling."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers, rdMolAlign
from rdkit.Geometry import Point3D

from qmgen.errors import ConformerError
from qmgen.molecules import (
    ConformerConfig,
    Molecule,
    conformer_seed,
    embed_conformers,
    molecule_from_smiles,
    read_molecules,
)

DATA = Path(__file__).parents[1] / "data" / "molecules"
SEED = 7
FLEXIBLE = "OCCCN"


def rdkit_mol(molecule: Molecule, positions: np.ndarray) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(molecule.smiles))
    for xyz in positions:
        conformer = Chem.Conformer(len(xyz))
        for i, point in enumerate(xyz):
            conformer.SetAtomPosition(i, Point3D(*point))
        mol.AddConformer(conformer, assignId=True)
    return mol


def mmff_energies(mol: Chem.Mol) -> list[float]:
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    return [
        rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, properties, confId=c.GetId()
        ).CalcEnergy()
        for c in mol.GetConformers()
    ]


def heavy_rmsds(mol: Chem.Mol) -> list[float]:
    heavy = Chem.RemoveHs(mol)
    ids = [c.GetId() for c in heavy.GetConformers()]
    return [rdMolAlign.GetBestRMS(heavy, heavy, i, j) for i, j in combinations(ids, 2)]


def test_gdb_molecules_embed() -> None:
    for molecule in list(read_molecules(DATA / "gdb_sample.smi"))[::20]:
        assert isinstance(molecule, Molecule)
        conformers = embed_conformers(molecule, ConformerConfig(per_molecule=3), SEED)
        assert conformers.shape == (3, len(molecule.atomic_numbers), 3)
        assert conformers.dtype == np.float64
        bonds = rdkit_mol(molecule, conformers).GetBonds()
        for bond in bonds:
            begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            lengths = np.linalg.norm(conformers[:, begin] - conformers[:, end], axis=1)
            assert np.all((lengths > 0.8) & (lengths < 1.9))  # Angstrom, H to F


def test_conformers_differ_pairwise() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    conformers = embed_conformers(molecule, ConformerConfig(per_molecule=8), SEED)
    assert min(heavy_rmsds(rdkit_mol(molecule, conformers))) > 1e-3


def test_same_seed_same_bits_and_only_then() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    config = ConformerConfig(per_molecule=4, relax="mmff94", rattle_angstrom=0.01)
    first = embed_conformers(molecule, config, SEED)
    embed_conformers(molecule_from_smiles("CCC"), config, SEED)
    copy = replace(molecule, line=99, source_id="elsewhere in the file")
    assert embed_conformers(copy, config, SEED).tobytes() == first.tobytes()
    assert not np.array_equal(embed_conformers(molecule, config, SEED + 1), first)


def test_asking_for_more_keeps_the_first_ones() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    few, many = (embed_conformers(molecule, ConformerConfig(per_molecule=n), SEED) for n in (4, 12))
    assert np.array_equal(many[:4], few)
    assert len(many) == 12


def test_seeds() -> None:
    seeds = [conformer_seed(run, "C" * n) for run in range(50) for n in range(1, 50)]
    assert len(set(seeds)) == len(seeds)
    assert all(1 <= seed <= 2**31 - 2 for seed in seeds)
    # Fixed values: another formula would silently make another dataset.
    assert conformer_seed(0, "C") == 409747438
    assert conformer_seed(2024, "CCO") == 1205055749
    # Uniform in its range, mean 1/2 with standard error 0.29 / sqrt(2450) = 0.006
    assert abs(np.mean(seeds) / 2**31 - 0.5) < 0.03


def test_extreme_seeds_still_give_different_conformers(monkeypatch: pytest.MonkeyPatch) -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    for seed in (1, 2**30, 2**31 - 2):
        monkeypatch.setattr("qmgen.molecules.conformers.conformer_seed", lambda *_, s=seed: s)
        conformers = embed_conformers(molecule, ConformerConfig(per_molecule=6), SEED)
        assert min(heavy_rmsds(rdkit_mol(molecule, conformers))) > 1e-3


def test_relaxation_lowers_the_mmff_energy() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    raw = embed_conformers(molecule, ConformerConfig(per_molecule=5), SEED)
    relaxed = embed_conformers(molecule, ConformerConfig(per_molecule=5, relax="mmff94"), SEED)
    before = np.array(mmff_energies(rdkit_mol(molecule, raw)))
    after = np.array(mmff_energies(rdkit_mol(molecule, relaxed)))
    assert np.all(after < before - 0.1)  # kcal/mol


def test_pruned_conformers_keep_their_distance() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    threshold = 0.3
    config = ConformerConfig(per_molecule=16, relax="mmff94")
    pruned_config = config.model_copy(update={"rmsd_prune_angstrom": threshold})
    every = embed_conformers(molecule, config, SEED)
    pruned = embed_conformers(molecule, pruned_config, SEED)
    assert 1 < len(pruned) < len(every)
    assert min(heavy_rmsds(rdkit_mol(molecule, pruned))) >= threshold - 1e-9
    assert all(any(np.array_equal(p, e) for e in every) for p in pruned)


def test_symmetric_molecule_prunes_to_one() -> None:
    benzene = molecule_from_smiles("c1ccccc1")
    config = ConformerConfig(per_molecule=6, relax="mmff94", rmsd_prune_angstrom=0.05)
    assert len(embed_conformers(benzene, config, SEED)) == 1


def test_rattle_has_the_asked_standard_deviation() -> None:
    molecule = molecule_from_smiles(FLEXIBLE)
    sigma = 0.05
    still = embed_conformers(molecule, ConformerConfig(per_molecule=60), SEED)
    config = ConformerConfig(per_molecule=60, rattle_angstrom=sigma)
    noise = embed_conformers(molecule, config, SEED) - still
    # relative standard error of a standard deviation is 1 / sqrt(2 n); five of them
    assert abs(noise.std() / sigma - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size)
    assert len(np.unique(noise)) == noise.size


def test_given_geometry_and_its_rattled_copies() -> None:
    first, second = list(read_molecules(DATA / "ethanol_md.xyz"))[:2]
    config = ConformerConfig(per_molecule=4, rattle_angstrom=0.02)
    noises = []
    for molecule in (first, second):
        assert isinstance(molecule, Molecule)
        given = molecule.positions_angstrom
        assert given is not None
        before = given.copy()
        conformers = embed_conformers(molecule, config, SEED)
        assert conformers.shape == (4, 9, 3)
        assert np.array_equal(conformers[0], given)
        assert np.array_equal(given, before)
        noises.append(conformers[1:] - given)
        assert np.abs(noises[-1]).min() > 0
    # frames with the same SMILES get independent noise
    assert abs(np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1]) < 0.5


@pytest.mark.parametrize("smiles", ["C1#CC1", "F[C@]12C[C@@]1(Cl)C2"])
def test_impossible_molecules_say_why(smiles: str, capfd: pytest.CaptureFixture[str]) -> None:
    molecule = molecule_from_smiles(smiles)
    with pytest.raises(ConformerError, match="most attempts failed at "):
        embed_conformers(molecule, ConformerConfig(per_molecule=1000), SEED)
    assert capfd.readouterr().err == ""


def test_missing_mmff_parameters() -> None:
    with pytest.raises(ConformerError, match="MMFF94 has no parameters"):
        embed_conformers(molecule_from_smiles("CB"), ConformerConfig(relax="mmff94"), SEED)


def test_foreign_atom_order_is_noticed() -> None:
    molecule = molecule_from_smiles("CO")
    swapped = replace(molecule, atomic_numbers=molecule.atomic_numbers[::-1].copy())
    with pytest.raises(ConformerError, match="orders the atoms otherwise"):
        embed_conformers(swapped, ConformerConfig(), SEED)


@pytest.mark.parametrize(
    "bad",
    [
        {"per_molecule": 0},
        {"per_molecule": 1001},
        {"relax": "uff"},
        {"rmsd_prune_angstrom": 0.0},
        {"rattle_angstrom": -0.1},
        {"rattle_angstrom": float("nan")},
        {"conformers": 3},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConformerConfig.model_validate(bad)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ConformerConfig.model_fields.values())
