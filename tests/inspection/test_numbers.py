"""What the report counts and projects, against NumPy, RDKit and identities."""

from collections import Counter

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.rdMolAlign import GetBestRMS
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from qmgen.dataset import Dataset, Failure
from qmgen.inspection.chemical_space import principal_plane
from qmgen.inspection.composition import composition, composition_residual, formula
from qmgen.inspection.conformers import conformer_spread
from qmgen.inspection.failures import group_failures
from qmgen.inspection.histogram import histogram
from qmgen.inspection.quantities import OF_ATOMS, OF_CONFORMERS, OF_ORBITALS
from qmgen.inspection.sampling import sample_of, sample_rows
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tests.inspection.conftest import SMILES


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_linear_histogram_counts_as_numpy(size: int) -> None:
    values = np.random.default_rng(size).normal(3, 2, size)
    found = histogram(np.append(values, [np.nan, np.inf]))
    assert found is not None
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])
    assert (found.counts.sum(), found.beyond, found.missing, found.size) == (size, 0, 2, size)
    assert found.median == pytest.approx(np.median(values))
    assert (found.minimum, found.maximum) == (values.min(), values.max())


def test_outliers_do_not_flatten_a_histogram() -> None:
    values = np.append(np.random.default_rng(0).uniform(0, 1, 4999), 1e6)
    found = histogram(values)
    assert found is not None
    assert found.edges[-1] < 1.01
    assert found.counts.sum() + found.beyond == 5000
    assert 1 <= found.beyond <= 12  # the outlier, and at most 0.1 % on either side
    assert found.maximum == 1e6


def test_logarithmic_histogram() -> None:
    values = 10.0 ** np.random.default_rng(0).uniform(-9, -3, 1000)
    found = histogram(np.append(values, [0.0, np.nan]), "log")
    assert found is not None
    assert (found.counts.sum(), found.beyond, found.missing) == (1000, 1, 1)
    np.testing.assert_array_equal(found.counts, np.histogram(values, found.edges)[0])
    np.testing.assert_allclose(np.diff(np.log10(found.edges)), 6 / 32, rtol=0.1)


def test_whole_numbers_have_a_bin_each() -> None:
    values = np.array([7.0, 7, 9, 12, 12, 12])
    found = histogram(values, "integer")
    assert found is not None
    assert found.counts.tolist() == [2, 0, 1, 0, 0, 3]
    assert (found.edges[0], found.edges[-1]) == (6.5, 12.5)


@pytest.mark.parametrize("scale", ["linear", "log", "integer"])
def test_histograms_of_nothing_and_of_one_value(scale: str) -> None:
    assert histogram(np.array([]), scale) is None
    assert histogram(np.array([np.nan, -np.inf]), scale) is None
    found = histogram(np.full(9, 1234.0), scale)
    assert found is not None
    assert found.counts.sum() == 9


def test_composition_against_a_counter() -> None:
    numbers = [np.array(z) for z in ([8, 1, 1], [6, 1, 1, 1, 1], [1], [6, 6, 9])]
    offsets = np.cumsum([0, *map(len, numbers)])
    found = composition(np.concatenate(numbers), offsets)
    for row, z in zip(found.counts, numbers, strict=True):
        counted = {e: n for e, n in zip(found.elements.tolist(), row.tolist(), strict=True) if n}
        assert counted == Counter(z.tolist())
    assert found.heavy.tolist() == [1, 1, 0, 3]
    nothing = composition(np.array([], dtype=np.uint8), np.array([0]))
    assert nothing.counts.shape == (0, 0)


def test_energies_of_separate_atoms_leave_nothing() -> None:
    rng = np.random.default_rng(0)
    counts, charge = rng.integers(0, 9, (50, 3)), rng.integers(-1, 2, 50)
    energy = counts @ [-0.5, -37.8, -75.0] + 0.3 * charge
    energy[4] = np.nan
    residual = composition_residual(counts, charge, energy)
    assert np.flatnonzero(np.isnan(residual)).tolist() == [4]
    np.testing.assert_allclose(np.delete(residual, 4), 0, atol=1e-10)
    bonded = composition_residual(counts, charge, energy + np.arange(50))
    # Least squares: what is left has no part along the composition.
    left = np.delete(bonded, 4)
    np.testing.assert_allclose(np.delete(counts, 4, axis=0).T @ left, 0, atol=1e-8)
    assert np.abs(left).max() > 1


@pytest.mark.parametrize("smiles", ["CCO", "O", "ClCBr", "FS(F)(F)(F)(F)F", "OS(=O)(=O)O"])
def test_formula_is_rdkits(smiles: str) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    assert formula(numbers) == CalcMolFormula(mol)


def test_plane_has_the_largest_variances() -> None:
    bits = (np.random.default_rng(0).random((40, 16)) < np.linspace(0.05, 0.9, 16)).astype(np.uint8)
    places, explained = principal_plane(bits)
    eigenvalues = np.linalg.eigvalsh(np.cov(bits.T.astype(float)))[::-1]
    np.testing.assert_allclose(places.var(axis=0, ddof=1), eigenvalues[:2])
    np.testing.assert_allclose(explained, eigenvalues[:2] / eigenvalues.sum())
    # Points of a plane keep their distances.
    flat = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.uint8)
    places, explained = principal_plane(flat)
    between = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.testing.assert_allclose(
        between, np.linalg.norm(flat[:, None] - flat[None].astype(float), axis=-1), atol=1e-12
    )
    assert explained.sum() == pytest.approx(1)
    for few in (flat[:1], np.repeat(flat[1:2], 3, axis=0)):
        places, explained = principal_plane(few)
        assert not places.any()
        assert not explained.any()


def test_samples_are_bounded_repeatable_and_ascending() -> None:
    assert sample_rows(100, 100, 0).tolist() == list(range(100))
    rows = sample_rows(1_000_000, 5000, 3)
    assert 4000 < len(rows) <= 5000
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, sample_rows(1_000_000, 5000, 3))
    assert not np.array_equal(rows, sample_rows(1_000_000, 5000, 4))
    assert rows[-1] - rows[0] > 500_000
    last = sample_rows(1000, 999, 0)
    assert last.max() < 1000
    chosen = sample_of(np.arange(50) * 2, 10, 0)
    assert len(set(chosen.tolist())) == 10
    assert (np.diff(chosen) > 0).all()


def test_quantities_are_the_stored_labels(dataset: Dataset) -> None:
    block = dataset.batch(slice(None))
    values = {
        q.name: q.values(block)
        for q in (*OF_CONFORMERS, *OF_ATOMS, *OF_ORBITALS)
        if q.name in dataset.columns
    }
    np.testing.assert_allclose(values["gap"], block["gap"] * EV_PER_HARTREE)
    np.testing.assert_allclose(
        values["dipole"], np.linalg.norm(block["dipole"], axis=1) * 2.541746473
    )
    np.testing.assert_allclose(
        values["forces"],
        np.linalg.norm(block["forces"], axis=1) * EV_PER_HARTREE / ANGSTROM_PER_BOHR,
    )
    np.testing.assert_allclose(
        values["quadrupole"], np.linalg.norm(block["quadrupole"], axis=(1, 2))
    )
    assert len(values["orbital_energies"]) == block.orbital_offset[-1]
    assert set(values) >= {"energy", "nuclear_repulsion", "std", "iterations", "mulliken_charges"}


def test_spread_is_the_stored_energies_and_rdkits_distances(dataset: Dataset) -> None:
    found = conformer_spread(dataset, 6)
    assert found is not None
    assert found.smiles == SMILES[6]
    molecule = dataset.molecule(6)
    lowest = int(molecule["energy"].argmin())
    np.testing.assert_allclose(
        found.energy_ev, (molecule["energy"] - molecule["energy"][lowest]) * EV_PER_HARTREE
    )
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[6]))
    for frame in molecule["pos"]:
        conformer = Chem.Conformer(len(frame))
        conformer.SetPositions(frame * ANGSTROM_PER_BOHR)
        mol.AddConformer(conformer, assignId=True)
    heavy = Chem.RemoveHs(mol)
    np.testing.assert_allclose(
        found.rmsd_angstrom,
        [GetBestRMS(Chem.Mol(heavy), heavy, i, lowest) for i in range(len(found.energy_ev))],
        atol=1e-6,
    )
    assert found.rmsd_angstrom.max() > 0.05
    acid = conformer_spread(dataset, 2)
    assert acid is not None
    assert len(acid.energy_ev) == len(dataset.conformers_of(2)) - 1  # one did not converge


def test_failures_are_grouped_by_reason(dataset: Dataset) -> None:
    groups = group_failures(dataset, 100)
    assert [(g.stage, g.count) for g in groups] == [("embed", 2), ("label", 1), ("read", 1)]
    assert groups[0].reason == "no conformer in … attempts"
    assert all(isinstance(e, Failure) for g in groups for e in g.examples)
    assert [e.line for e in groups[0].examples] == [21, 22]
    assert sum(g.count for g in group_failures(dataset, 2)) == 2
