import ase.io
import ase.units
import numpy as np
import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import InputError, StoreError
from qmgen.training import export_ase_database, export_extxyz, iter_atoms
from qmgen.training.export_ase import ASEAtomsData
from qmgen.training.inputs import AtomsLoader
from tests.training.synthetic import molecule

# ASE's constants are CODATA 2014, which differs in the ninth digit.
CODATA = 1e-7


@pytest.fixture(scope="module")
def dataset(write):
    records = [molecule(i, pairs=True) for i in range(12)]
    records[3].conformers["converged"][1] = False
    records[4].conformers["gap"][:] = np.nan
    return open_dataset(write(records, optional_labels=("forces",)))


def _check(atoms, row):
    assert atoms.numbers.tolist() == row["z"].tolist()
    np.testing.assert_allclose(atoms.positions, row["pos"] * ase.units.Bohr, rtol=CODATA)
    assert atoms.get_potential_energy() == pytest.approx(
        row["energy"] * ase.units.Hartree, rel=CODATA
    )
    force = ase.units.Hartree / ase.units.Bohr
    # Text has eight digits.
    np.testing.assert_allclose(atoms.get_forces(), row["forces"] * force, rtol=CODATA, atol=2e-8)
    np.testing.assert_allclose(
        atoms.get_dipole_moment(), row["dipole"] * ase.units.Bohr, rtol=CODATA, atol=2e-8
    )
    assert atoms.info["smile"] == row["smile"]
    assert atoms.info["line"] == row["line"]
    assert atoms.info["charge"] == row["charge"]
    assert ("gap_ev" in atoms.info) == np.isfinite(row["gap"])


def test_atoms_are_in_the_units_of_ase(dataset):
    rows = dataset.indices()
    frames = list(iter_atoms(dataset))
    assert len(frames) == len(rows) == 47
    for place in range(0, 47, 5):
        _check(frames[place], dataset[int(rows[place])])
    parts = [len(list(iter_atoms(dataset, split=split))) for split in ("train", "val", "test")]
    assert parts == [len(dataset.indices(split)) for split in ("train", "val", "test")]


def test_ase_reads_the_extended_xyz(dataset, tmp_path):
    path = tmp_path / "train.extxyz"
    rows = dataset.indices("train")
    counts = export_extxyz(dataset, path, split="train")
    assert counts == (len(rows), len(dataset) - len(rows))
    frames = ase.io.read(path, ":")
    assert len(frames) == len(rows)
    for place in range(0, len(rows), 5):
        _check(frames[place], dataset[int(rows[place])])
    assert not frames[0].pbc.any()


def test_schnetpack_reads_the_database(dataset, tmp_path):
    path = tmp_path / "all.db"
    batch = dataset.batch(dataset.indices())
    rows = [batch.row(place) for place in np.flatnonzero(np.isfinite(batch["gap"]))]
    assert export_ase_database(dataset, path) == (len(rows), len(dataset) - len(rows))
    data = ASEAtomsData(
        str(path), distance_unit="Bohr", property_units={"energy": "Hartree", "forces": "Ha/Bohr"}
    )
    assert len(data) == len(rows) == 43
    assert data.units["dipole"] == "Debye"
    assert data.metadata["qmgen"]["provenance"]["seed"] == 0
    for place in range(0, 43, 6):
        item, row = data[place], rows[place]
        assert item["_atomic_numbers"].tolist() == row["z"].tolist()
        assert item["energy"].numpy() == pytest.approx([row["energy"]], rel=CODATA)
        np.testing.assert_allclose(item["_positions"], row["pos"], rtol=CODATA)
        np.testing.assert_allclose(item["forces"], row["forces"], rtol=CODATA, atol=1e-12)
        debye = row["dipole"][None] * ase.units.Bohr / ase.units.Debye
        np.testing.assert_allclose(item["dipole"], debye, rtol=1e-6, atol=1e-12)
        assert item["spin_multiplicity"].tolist() == [1.0]
    joined = next(iter(AtomsLoader(data, batch_size=43)))
    assert joined["energy"].shape == (43,)
    assert joined["dipole"].shape == (43, 3)
    assert torch.isfinite(joined["gap"]).all()


def test_labels_that_no_conformer_has_are_left_out(write, tmp_path):
    records = [molecule(i) for i in range(4)]
    for record in records:
        record.conformers["dipole"][:] = np.nan
    path = tmp_path / "store.db"
    assert export_ase_database(open_dataset(write(records)), path) == (16, 0)
    assert "dipole" not in ASEAtomsData(str(path)).available_properties


def test_what_fails_leaves_nothing(dataset, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.db"):
        export_ase_database(dataset, tmp_path / "all.sqlite")
    with pytest.raises(InputError, match="no split 'valid'"):
        export_extxyz(dataset, tmp_path / "all.xyz", split="valid")
    (tmp_path / "mine.xyz").write_text("mine")
    with pytest.raises(StoreError, match="exists"):
        export_extxyz(dataset, tmp_path / "mine.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.xyz"]
