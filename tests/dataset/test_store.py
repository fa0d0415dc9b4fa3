import errno
import hashlib
import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import zarr

from qmgen.dataset import (
    CONFORMER,
    RUN_FILE,
    SPLITS,
    Chunking,
    open_dataset,
    store_digest,
    verify_store,
    write_store,
)
from qmgen.dataset.arrays import ArrayWriter
from qmgen.errors import ConfigError, InputError, StoreError, StoreIncompleteError


def _files(path):
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in path.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("count", [0, 1, 2, 40])
@pytest.mark.parametrize("chunking", ["tiny", "default"])
def test_round_trip_is_exact(make_records, some_failures, write, tiny, count, chunking):
    records = make_records(count)
    cut = tiny if chunking == "tiny" else Chunking()
    dataset = open_dataset(write(records, some_failures, rejected={"bad": 1}, chunking=cut))
    assert dataset.num_molecules == count
    assert len(dataset) == sum(r.num_conformers for r in records)
    assert list(dataset.failures()) == some_failures
    assert dataset.metadata.counts.rejected == {"bad": 1}
    assert dataset.metadata.counts.converged == sum(
        r.conformers["converged"].sum() for r in records
    )
    for number, record in enumerate(records):
        molecule = dataset.molecule(number)
        for name in ("line", "source_id", "smile", "charge", "spin", "nao"):
            assert molecule[name] == getattr(record, name)
        assert molecule["split"] in SPLITS
        np.testing.assert_array_equal(molecule["z"], record.z, strict=True)
        for name in CONFORMER:
            np.testing.assert_array_equal(molecule[name], record.conformers[name], strict=True)
    assert verify_store(dataset.path).intact


def test_zeros_are_stored_not_implied(make_records, write):
    record = make_records(1, nconf=3)[0]
    zeros = {n: v if n == "index" else np.zeros_like(v) for n, v in record.conformers.items()}
    path = write([replace(record, conformers=zeros)])
    assert (path / "conformers" / "energy" / "c" / "0").is_file()


def test_nan_survives(make_records, write):
    record = make_records(1, nconf=2)[0]
    record.conformers["lumo"][:] = np.nan
    assert np.isnan(open_dataset(write([record])).column("lumo")).all()


def test_files_are_a_function_of_the_records(make_records, some_failures, write):
    first = write(iter(make_records(30)), some_failures, name="a", created="2001-01-01")
    second = write(make_records(30), iter(some_failures), name="b", created="2002-02-02")
    one, two = _files(first), _files(second)
    assert one.keys() == two.keys()
    assert {n for n in one if one[n] != two[n]} == {"zarr.json", "manifest/zarr.json"}
    assert store_digest(first) == store_digest(second)


def test_digest_ignores_layout_and_circumstances(make_records, write, provenance, tmp_path):
    first = write(make_records(20), name="a")
    other = provenance.model_copy(update={"command": "again", "versions": {"python": "9"}})
    write_store(tmp_path / "b", make_records(20), [], other, split_seed=1)
    assert store_digest(first) == store_digest(tmp_path / "b")


def test_digest_sees_any_value(make_records, write):
    digests = {store_digest(write(make_records(3, nconf=3)))}
    for name in CONFORMER:
        records = make_records(3, nconf=3)
        values = records[1].conformers[name]
        if name == "index":
            values[-1] += 1
        elif name == "converged":
            values[1] = not values[1]
        elif values.dtype == np.float64:
            values[1] = np.nextafter(values[1], np.inf)
        else:
            values[1] += 1
        digests.add(store_digest(write(records, name=name)))
    assert len(digests) == 1 + len(CONFORMER)


def test_digest_sees_molecules_failures_split_and_config(
    make_records, some_failures, write, provenance, tmp_path
):
    records = make_records(8)
    digests = {store_digest(write(records, some_failures, name="a"))}
    for i, (name, value) in enumerate(
        {"smile": "O", "source_id": "x", "line": 99, "charge": 3, "spin": 2}.items()
    ):
        changed = [*records[:3], replace(records[3], **{name: value}), *records[4:]]
        digests.add(store_digest(write(changed, some_failures, name=f"b{i}")))
    digests.add(store_digest(write(records, some_failures[:1], name="c")))
    digests.add(store_digest(write(records, some_failures, name="d", split_seed=2)))
    other = provenance.model_copy(update={"config": {}})
    write_store(tmp_path / "e", records, some_failures, other, split_seed=1)
    digests.add(store_digest(tmp_path / "e"))
    assert len(digests) == 9


def test_plain_zarr_reads_it(make_records, write):
    records = make_records(20)
    root = zarr.open_group(str(write(records)), mode="r")
    assert {name for name, _ in root.members()} == {
        "molecules",
        "conformers",
        "failures",
        "manifest",
    }
    pos, offset = root["conformers/pos"], root["conformers/atom_offset"][:]
    assert pos.attrs["units"] == "Bohr"
    assert root["conformers/std"].attrs["units"] == "eV"
    assert root["conformers"].attrs["qm1b_columns"]["y"] == "gap"
    assert root["molecules/smile"][:].tolist() == [r.smile for r in records]
    owner = root["conformers/molecule"][:]
    row = len(owner) // 2
    record = records[owner[row]]
    inside = row - int(root["molecules/conformer_offset"][owner[row]])
    np.testing.assert_array_equal(
        pos[offset[row] : offset[row + 1]], record.conformers["pos"][inside]
    )


def test_existing_place_is_refused(make_records, write, tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match="exists"):
        write(make_records(1))
    assert not list((tmp_path / "store").iterdir())


def test_bad_split_is_refused_before_any_work(make_records, write, tmp_path):
    with pytest.raises(ConfigError):
        write(make_records(1), split_fractions=(1.0, 1.0, 0.0))
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_leaves_nothing(make_records, write, tmp_path, error):
    def records():
        yield from make_records(30)
        raise error

    with pytest.raises(error):
        write(records())
    assert not list(tmp_path.glob("store*"))
    with pytest.raises(StoreError, match="no dataset"):
        open_dataset(tmp_path / "store")


def test_bad_record_leaves_nothing(make_records, write, tmp_path):
    good, bad = make_records(2, nconf=2)
    del bad.conformers["dipole"]
    with pytest.raises(InputError, match="line 2"):
        write([good, bad])
    assert not list(tmp_path.glob("store*"))


def test_full_disk_names_the_remedy_and_leaves_nothing(make_records, write, tmp_path, monkeypatch):
    flush = ArrayWriter.flush
    calls = iter(range(100))

    def full(self):
        if next(calls) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(self)

    monkeypatch.setattr(ArrayWriter, "flush", full)
    with pytest.raises(StoreError, match=r"No space left on device; free disk space"):
        write(make_records(40))
    assert not list(tmp_path.glob("store*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(make_records, write):
    # The same conformers again and again, so that only the writer's own memory counts.
    records = make_records(20, nconf=20)
    cut = Chunking(rows=200, elements=2000, strings=50, chunks_per_shard=2)

    def peak(repeats, name):
        stream = (record for _ in range(repeats) for record in records)
        tracemalloc.start()
        try:
            write(stream, name=name, chunking=cut)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1, "warm-up")
    small, large = peak(2, "small"), peak(10, "large")
    # 3200 more conformers take 1.5 MB; only the manifest's list of files may grow.
    assert large - small < 500_000


def test_into_run_finishes_a_run_in_place(make_records, write, tmp_path):
    path = tmp_path / "store"
    (path / "work").mkdir(parents=True)
    (path / RUN_FILE).write_text("{}", encoding="utf-8")
    # What a killed earlier attempt may leave.
    (path / "molecules" / "half").mkdir(parents=True)
    (path / "store.tmp-dead").mkdir()
    with pytest.raises(StoreIncompleteError, match="resume"):
        open_dataset(path)
    write(make_records(20), into_run=True)
    assert open_dataset(path).num_molecules == 20
    assert not (path / "molecules" / "half").exists()
    assert not list(path.glob("store.tmp-*"))
    assert (path / "work").is_dir()
    with pytest.raises(StoreError, match="unfinished run"):
        write(make_records(20), into_run=True)
    assert store_digest(path) == store_digest(write(make_records(20), name="direct"))


def test_failed_into_run_stays_a_run(make_records, write, tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / RUN_FILE).write_text("{}", encoding="utf-8")

    def records():
        yield from make_records(10)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(records(), into_run=True)
    assert [p.name for p in path.iterdir()] == [RUN_FILE]


def test_manifest_lists_every_other_file(make_records, write):
    path = write(make_records(10))
    listed = json.loads((path / "manifest" / "zarr.json").read_text())["attributes"]["files"]
    on_disk = _files(path)
    del on_disk["manifest/zarr.json"]
    assert {name: entry["sha256"] for name, entry in listed.items()} == on_disk
