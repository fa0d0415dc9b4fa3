import errno

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from qmgen.dataset import export_qm1b, open_dataset
from qmgen.dataset.export import SYMBOLS
from qmgen.errors import StoreError
from qmgen.units import EV_PER_HARTREE

COLUMNS = ["smile", "atoms", "z", "energy", "homo", "lumo", "N", "std", "y", "pos"]


@pytest.fixture(scope="module")
def dataset(shared_store):
    return open_dataset(shared_store)


@pytest.fixture
def gappy(make_records, write):
    records = make_records(40)
    records[2].conformers["gap"][:1] = 0.0
    records[3].conformers["gap"][:1] = np.nan
    return open_dataset(write(records))


def test_columns_and_units(gappy, tmp_path):
    dataset = gappy
    path = tmp_path / "qm1b.parquet"
    written, skipped = export_qm1b(dataset, path)
    frame = pd.read_parquet(path)
    assert frame.columns.tolist() == COLUMNS
    batch = dataset[dataset.indices()]
    keep = np.isfinite(batch["gap"]) & (batch["gap"] != 0)
    assert (written, skipped) == (keep.sum(), len(dataset) - keep.sum())
    assert skipped > 0
    rows = [batch.row(i) for i in np.flatnonzero(keep)]
    assert len(frame) == len(rows)
    # The constant is one factor away from the stored value.
    for column, name in {"energy": "energy", "homo": "homo", "lumo": "lumo", "y": "gap"}.items():
        expected = [row[name] * EV_PER_HARTREE for row in rows]
        np.testing.assert_allclose(frame[column], expected, rtol=1e-15)
    np.testing.assert_array_equal(frame["std"], [row["std"] for row in rows])
    np.testing.assert_array_equal(frame["N"], [row["nao"] for row in rows])
    for (_, got), row in zip(frame.iterrows(), rows, strict=True):
        assert got["smile"] == row["smile"]
        assert got["atoms"] == "".join(SYMBOLS[z] for z in row["z"])
        np.testing.assert_array_equal(got["z"], row["z"])
        np.testing.assert_array_equal(got["pos"], row["pos"].ravel())


def test_metadata_names_the_constant(dataset, tmp_path):
    path = tmp_path / "qm1b.parquet"
    export_qm1b(dataset, path)
    metadata = pq.read_metadata(path).metadata
    assert float(metadata[b"ev_per_hartree"]) == EV_PER_HARTREE
    assert metadata[b"ev_per_hartree_source"] == b"CODATA 2018"
    assert metadata[b"pos_unit"] == b"Bohr"


def test_empty_dataset(write, tmp_path):
    path = tmp_path / "qm1b.parquet"
    assert export_qm1b(open_dataset(write([])), path) == (0, 0)
    assert pd.read_parquet(path).columns.tolist() == COLUMNS


def test_symbols():
    assert SYMBOLS.size == 119
    assert "".join(SYMBOLS[[1, 6, 7, 8, 9, 17, 35, 53, 92, 118]]) == "HCNOFClBrIUOg"


def test_existing_file_is_refused(dataset, tmp_path):
    path = tmp_path / "qm1b.parquet"
    path.write_text("mine")
    with pytest.raises(StoreError, match="exists"):
        export_qm1b(dataset, path)
    assert path.read_text() == "mine"


def test_failed_export_leaves_nothing(dataset, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(StoreError, match="No space left on device; free disk space"):
        export_qm1b(dataset, tmp_path / "qm1b.parquet")
    assert not list(tmp_path.glob("qm1b*"))
