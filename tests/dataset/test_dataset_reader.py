import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import zarr

from qmgen.dataset import CONFORMER, MOLECULE, RUN_FILE, SPLITS, Chunking, open_dataset
from qmgen.dataset.schema import SCHEMA_VERSION
from qmgen.errors import InputError, StoreError, StoreIncompleteError


@pytest.fixture(scope="module")
def records(make_records):
    return make_records(40)


@pytest.fixture(scope="module")
def dataset(shared_store):
    return open_dataset(shared_store)


def _rows(records, dataset):
    """Rows by brute force."""
    splits = zarr.open_array(dataset.path, path="molecules/split", mode="r")[:]
    for number, record in enumerate(records):
        for i in range(record.num_conformers):
            row = {"molecule": number, "z": record.z, "split": SPLITS[splits[number]]}
            row |= {n: getattr(record, n) for n in MOLECULE if n not in ("z", "split")}
            yield row | {name: record.conformers[name][i] for name in CONFORMER}


def _assert_same(row, expected):
    assert row.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(row[name], value, err_msg=name)


def test_rows_equal_brute_force(dataset, records):
    expected = list(_rows(records, dataset))
    assert len(expected) == len(dataset)
    for i in (0, 1, 17, len(dataset) - 1, -1, np.int64(5)):
        _assert_same(dataset[i], expected[i])
    for row, brute in zip(dataset, expected, strict=True):
        _assert_same(row, brute)


@pytest.mark.parametrize(
    "key",
    [
        slice(3, 30),
        slice(None, None, -7),
        slice(5, 5),
        [4, 2, 2, -1, 50],
        np.array([70, 0, 33], dtype=np.int32),
        [],
    ],
)
def test_batches_equal_brute_force(dataset, records, key):
    expected = list(_rows(records, dataset))
    wanted = expected[key] if isinstance(key, slice) else [expected[i] for i in key]
    batch = dataset[key]
    assert len(batch) == len(wanted)
    assert batch.atom_offset[0] == batch.orbital_offset[0] == 0
    assert batch.n_atoms.tolist() == [row["z"].size for row in wanted]
    for i, brute in enumerate(wanted):
        _assert_same(batch.row(i), brute)
        assert batch.rows[i] in range(len(dataset))


def test_single_column(dataset, records):
    energies = np.concatenate([r.conformers["energy"] for r in records])
    np.testing.assert_array_equal(dataset.column("energy"), energies)
    np.testing.assert_array_equal(dataset.column("energy", [9, 3]), energies[[9, 3]])
    flat = np.concatenate([r.conformers["pos"].reshape(-1, 3) for r in records])
    np.testing.assert_array_equal(dataset.column("pos"), flat)
    assert all(isinstance(smile, str) for smile in dataset.column("smile"))


def test_far_apart_rows(make_records, write):
    # Far enough apart for coordinate reads instead of one span.
    records = make_records(100, nconf=5)
    cut = Chunking(rows=100, elements=500, strings=50, chunks_per_shard=2)
    dataset = open_dataset(write(records, chunking=cut))
    rows = [499, 0, 250, 0]
    batch = dataset[rows]
    for i, row in enumerate(rows):
        record = records[row // 5]
        got = batch.row(i)
        np.testing.assert_array_equal(got["pos"], record.conformers["pos"][row % 5])
        np.testing.assert_array_equal(got["z"], record.z)
        assert got["smile"] == record.smile


def test_units_and_columns(dataset):
    assert dataset.units("pos") == "Bohr"
    assert dataset.units("energy") == "Hartree"
    assert dataset.units("std") == "eV"
    assert dataset.units("charge") == "e"
    assert set(dataset.columns) == {"molecule", *MOLECULE, *CONFORMER}
    with pytest.raises(InputError, match="no column 'forces'"):
        dataset.units("forces")
    with pytest.raises(InputError, match="no column 'forces'"):
        dataset.column("forces")


def test_bad_rows(dataset):
    for key in (len(dataset), -len(dataset) - 1, [0, len(dataset)]):
        with pytest.raises(IndexError, match="out of range"):
            dataset[key]
    with pytest.raises(IndexError, match="vector of integers"):
        dataset[np.ones(len(dataset), dtype=bool)]
    with pytest.raises(IndexError, match="molecule 40 is out of range"):
        dataset.conformers_of(40)


def test_conformers_of_covers_the_rows(dataset, records):
    ranges = [dataset.conformers_of(m) for m in range(len(records))]
    assert [len(r) for r in ranges] == [r.num_conformers for r in records]
    assert [row for r in ranges for row in r] == list(range(len(dataset)))
    assert dataset.conformers_of(-1) == ranges[-1]


def test_splits_are_by_molecule_and_disjoint(dataset):
    parts = {s: dataset.indices(s, converged_only=False) for s in SPLITS}
    everything = np.concatenate(list(parts.values()))
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(dataset)))
    smiles = {s: set(dataset.column("smile", rows)) - {""} for s, rows in parts.items()}
    assert not smiles["train"] & (smiles["val"] | smiles["test"])
    assert not smiles["val"] & smiles["test"]
    molecules = [set(dataset.column("molecule", rows).tolist()) for rows in parts.values()]
    assert sum(map(len, molecules)) == len(set.union(*molecules))


def test_indices_leave_out_unconverged(dataset):
    converged = dataset.column("converged")
    np.testing.assert_array_equal(dataset.indices(), np.flatnonzero(converged))
    assert dataset.metadata.counts.converged == dataset.indices().size
    with pytest.raises(InputError, match="no split 'training'"):
        dataset.indices("training")


@pytest.mark.parametrize("seed", [None, 0, 5])
@pytest.mark.parametrize("split", [None, "train", "test"])
@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_blocks_cover_each_row_once(dataset, seed, split, block_size):
    blocks = list(dataset.iter_blocks(block_size, split=split, seed=seed, columns=["energy"]))
    rows = np.concatenate([block.rows for block in blocks])
    np.testing.assert_array_equal(np.sort(rows), dataset.indices(split))
    for block in blocks:
        assert 0 < len(block) <= block_size
        assert len(set(block.rows // block_size)) == 1
    energies = np.concatenate([block["energy"] for block in blocks])
    np.testing.assert_array_equal(energies, dataset.column("energy", rows))


def test_blocks_shuffle_by_seed(dataset):
    def order(seed):
        return np.concatenate(
            [b.rows for b in dataset.iter_blocks(9, seed=seed, columns=())]
        ).tolist()

    assert order(None) == dataset.indices().tolist()
    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(None)
    with pytest.raises(InputError, match="block_size"):
        dataset.iter_blocks(0)


def test_block_memory_is_bounded(make_records, write):
    records = make_records(20, nconf=20)
    cut = Chunking(rows=200, elements=2000, strings=100, chunks_per_shard=4)

    def peak(repeats, name):
        path = write((r for _ in range(repeats) for r in records), name=name, chunking=cut)
        dataset = open_dataset(path)
        tracemalloc.start()
        try:
            for _ in dataset.iter_blocks(200, seed=0, converged_only=False):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1, "warm-up")
    # The larger store holds 3200 more conformers: 1.5 MB.
    assert peak(10, "large") - peak(2, "small") < 400_000


def test_pickle_reopens(dataset, tmp_path, monkeypatch):
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(data)
    _assert_same(again[3], dataset[3])


def test_relative_path_survives_a_change_of_folder(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(dataset.path.parent)
    relative = open_dataset("store")
    monkeypatch.chdir(tmp_path)
    _assert_same(pickle.loads(pickle.dumps(relative))[0], dataset[0])


def test_opening_what_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"no dataset at .*; check the path"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no qmgen dataset"):
        open_dataset(tmp_path)
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "attributes": {}}')
    with pytest.raises(StoreError, match="Zarr store but no qmgen dataset"):
        open_dataset(tmp_path)
    (tmp_path / "zarr.json").write_text('{"zarr_fo')
    with pytest.raises(StoreError, match="damaged"):
        open_dataset(tmp_path)


def test_opening_a_run_in_progress(tmp_path):
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(StoreIncompleteError, match="resume it with the same qmgen generate"):
        open_dataset(tmp_path)


def test_newer_schema_is_refused(own_store):
    root = own_store / "zarr.json"
    content = json.loads(root.read_text())
    content["attributes"]["schema_version"] = SCHEMA_VERSION + 1
    content["attributes"]["novelty"] = 1
    root.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"schema version.*upgrade"):
        open_dataset(own_store)


@pytest.mark.parametrize(
    "name",
    [
        "conformers/pos/c/1/0",
        "conformers/energy/c/0",
        "molecules/smile/c/0",
        "conformers/gap/zarr.json",
    ],
)
def test_missing_or_cut_file_is_found_at_opening(own_store, name):
    victim = own_store / name
    size = victim.stat().st_size
    os.truncate(victim, size - 1)
    with pytest.raises(StoreError, match=rf"{name} is {size - 1} bytes long instead.*qmgen repair"):
        open_dataset(own_store)
    victim.unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing"):
        open_dataset(own_store)


@pytest.mark.parametrize("content", [None, "", "{}", '{"attributes": {"files": {"a": 1}}}'])
def test_damaged_manifest_is_found(own_store, content):
    manifest = own_store / "manifest" / "zarr.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(StoreError, match=r"manifest.*missing or damaged"):
        open_dataset(own_store)
