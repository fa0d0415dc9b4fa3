"""The import of QM9 against another copy of the same molecules."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import export_qm1b, open_dataset
from qmgen.dataset.summary import label_ranges
from qmgen.errors import InputError, MissingExtraError, StoreError
from qmgen.generate import qm9, validate
from qmgen.generate.qm9 import import_qm9, qm9_files
from qmgen.molecules import constitution, read_molecules
from qmgen.units import BOHR_PER_ANGSTROM

DATA = Path(__file__).parents[1] / "data" / "molecules"
FILES = [DATA / "qm9pack_part1.csv", DATA / "qm9pack_part2.csv"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    path = tmp_path_factory.mktemp("qm9") / "qm9.zarr"
    import_qm9(FILES, path)
    return open_dataset(path)


def test_labels_are_the_published_ones(imported):
    with (DATA / "qm9_sample.csv").open(newline="") as stream:
        published = list(csv.DictReader(stream))
    assert len(imported) == imported.num_molecules == len(published) == 13
    for i, (row, molecule) in enumerate(
        zip(published, read_molecules(DATA / "qm9_sample.xyz"), strict=True)
    ):
        found = imported[i]
        assert found["source_id"] == row["id"] == molecule.source_id.split()[0]
        assert found["line"] == i + 1
        assert found["z"].tolist() == molecule.atomic_numbers.tolist()
        # both files hold 10 decimals
        np.testing.assert_allclose(
            found["pos"], molecule.positions_angstrom * BOHR_PER_ANGSTROM, atol=1e-9
        )
        assert found["energy"] == pytest.approx(float(row["E_elec_Ha"]), abs=1e-9)
        for name in ("homo", "lumo", "gap"):
            assert found[name] == float(row[f"{name}_Ha"])
        assert constitution(found["smile"]) == constitution(row["smiles"])
        # The molecules are neutral, and QM9's charges have six decimals.
        assert found["mulliken_charges"].sum() == pytest.approx(0.0, abs=2e-5)


def test_what_qm9_does_not_publish_is_missing(imported):
    block = imported.batch(slice(None))
    for name in ("nuclear_repulsion", "std", "energy_change", "dipole", "quadrupole"):
        assert np.isnan(block[name]).all()
    for name in ("nao", "iterations", "attempts"):
        assert not block[name].any()
    assert block["converged"].all()
    assert block["orbital_energies"].size == 0
    shown = {r.label for r in label_ranges(imported)}
    assert shown == {"energy", "homo", "lumo", "gap", "mulliken_charges"}


def test_provenance(imported):
    provenance = imported.metadata.provenance
    assert provenance.imported.program == "Gaussian 09"
    assert provenance.imported.level_of_theory.startswith("B3LYP/6-31G(2df,p)")
    assert provenance.hardware is None
    assert provenance.source.bytes == sum(path.stat().st_size for path in FILES)
    assert any("zero-point" in note for note in imported.metadata.notes)
    with pytest.raises(StoreError, match="come from QM9"):
        validate(imported, 1)


def test_limit_is_nested_and_follows_the_seed(imported, tmp_path):
    def ids(limit, seed):
        path = tmp_path / f"{limit}-{seed}"
        import_qm9(FILES, path, limit=limit, seed=seed)
        return open_dataset(path).column("source_id").tolist()

    four, seven = ids(4, 1), ids(7, 1)
    assert len(four) == 4
    assert set(four) < set(seven)
    assert len(seven) == 7
    assert set(ids(7, 2)) != set(seven)
    everything = imported.column("source_id").tolist()
    assert seven == [name for name in everything if name in seven]
    assert len(ids(99, 0)) == 13


def test_molecules_of_another_dataset_are_left_out(tmp_path):
    import_qm9(FILES, tmp_path / "first", limit=5)
    import_qm9(FILES, tmp_path / "rest", exclude=tmp_path / "first")
    first, rest = open_dataset(tmp_path / "first"), open_dataset(tmp_path / "rest")
    assert len(rest) == 8
    assert not set(first.column("smile")) & set(rest.column("smile"))
    assert rest.metadata.counts.rejected == {"in first": 5}
    assert rest.metadata.provenance.config["exclude"]["source_sha256"]
    import_qm9(FILES, tmp_path / "three", limit=3, exclude=tmp_path / "first")
    assert len(open_dataset(tmp_path / "three")) == 3
    smiles = "\n".join(first.column("smile"))
    (tmp_path / "first.smi").write_text(smiles, encoding="utf-8")
    import_qm9(FILES, tmp_path / "same", exclude=tmp_path / "first.smi")
    assert open_dataset(tmp_path / "same").column("line").tolist() == rest.column("line").tolist()
    import_qm9(FILES, tmp_path / "all")
    with pytest.raises(InputError, match="exclude less"):
        import_qm9(FILES, tmp_path / "none", exclude=tmp_path / "all")


def test_a_record_that_contradicts_itself_is_rejected(tmp_path):
    text = FILES[0].read_text()
    (tmp_path / "part.csv").write_text(text.replace('"O=CC#C"', '"O=CC=C"'))
    import_qm9([tmp_path / "part.csv"], tmp_path / "store")
    dataset = open_dataset(tmp_path / "store")
    (failure,) = dataset.failures()
    assert (failure.line, failure.smile) == (2, "O=CC=C")
    assert "other atoms than the SMILES" in failure.reason
    assert len(dataset) == text.count("dsgdb9nsd") - 1


def test_export_says_that_basis_size_is_unknown(imported, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    export_qm1b(imported, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["N"].null_count == len(imported)


def test_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(qm9, "qm9_files", lambda: FILES)
    result = CliRunner().invoke(app, ["import-qm9", str(tmp_path / "out"), "--limit", "3"])
    assert result.exit_code == 0, result.output
    assert len(open_dataset(tmp_path / "out")) == 3


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(qm9, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"qmgen\[qm9\]"):
        qm9_files()


def test_a_missing_table(tmp_path):
    shutil.copy(FILES[0], tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"b\.csv"):
        import_qm9([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out")


def test_another_table(tmp_path):
    (tmp_path / "a.csv").write_text("SMILES,gap\nC,0.5\n")
    with pytest.raises(InputError, match=r"a\.csv is no table of qm9pack: it has no column Ele"):
        import_qm9([tmp_path / "a.csv"], tmp_path / "out")


@pytest.mark.slow
def test_the_whole_package(tmp_path):
    import_qm9(qm9_files(), tmp_path / "qm9.zarr")
    metadata = open_dataset(tmp_path / "qm9.zarr").metadata
    # The number of molecules that passed the consistency check of QM9's authors.
    assert metadata.counts.conformers == 130_831
    assert metadata.counts.failures == 0
