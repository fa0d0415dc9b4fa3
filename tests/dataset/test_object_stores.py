"""Datasets whose files are objects: in this process's memory, and on a server that speaks S3."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import (
    RUN_FILE,
    Chunking,
    Dataset,
    batch_loader,
    open_dataset,
    place_of,
    store_digest,
    verify_store,
    write_store,
)
from qmgen.dataset.places import RemotePath, file_sizes, names_in
from qmgen.errors import (
    InputError,
    MissingExtraError,
    StoreError,
    StoreIncompleteError,
    StoreUnreachableError,
)
from tests.conftest import close_connections

CREATED = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def write_to(make_records, some_failures, provenance, tiny):
    def write(path, records=None, **options):
        options = {"split_seed": 1, "chunking": tiny, "created": CREATED, **options}
        records = make_records(20) if records is None else records
        return write_store(path, records, some_failures, provenance, **options)

    return write


def contents(root) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in file_sizes(root)}


def flip(victim) -> None:
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(bytes(content))


def read_energies(dataset) -> bytes:
    return dataset.column("energy").tobytes()


def read_again(dataset) -> bytes:
    return read_energies(pickle.loads(pickle.dumps(dataset)))


def test_objects_are_byte_for_byte_the_files_of_a_folder(place, write_to, tmp_path) -> None:
    """And read, loaded and checked like them; a changed one is found."""
    local = tmp_path / "store"
    assert write_to(place, chunking=Chunking()) == write_to(local, chunking=Chunking())
    assert contents(place_of(place)) == contents(local)
    assert verify_store(place).intact
    assert store_digest(place) == store_digest(local)
    here, there = open_dataset(local), open_dataset(place)
    assert str(there.path) == place
    assert [*there.failures()] == [*here.failures()]
    assert read_again(there) == read_energies(here)
    columns = ("smile", "split", "z", "pos", "energy")
    loaders = [batch_loader(d, 7, seed=3, block_rows=8, columns=columns) for d in (here, there)]
    for one, other in zip(*(loader.batches(epoch=1) for loader in loaders), strict=True):
        for name in columns:
            assert np.array_equal(one[name], other[name])
    flip(place_of(place) / "conformers/energy/c/0")
    found = verify_store(place)
    assert [damage.name for damage in found.damaged] == ["conformers/energy/c/0"]
    assert found.num_molecules
    with pytest.raises(StoreError, match="damaged") as caught:
        read_energies(open_dataset(place))
    assert f"{place}/conformers/energy" in str(caught.value)
    assert not isinstance(caught.value, StoreUnreachableError)


_OPENED: dict[str, Dataset] = {}


def read_opened(url: str) -> bytes:
    """What a forked process reads of a dataset that its parent has opened and read."""
    return read_energies(_OPENED[url])


def test_a_forked_process_reads_objects(bucket, write_to) -> None:
    """And a service that refuses is not taken for damage."""
    url = f"{bucket}/forked"
    write_to(url, chunking=Chunking())
    _OPENED[url] = open_dataset(url)
    before = read_opened(url)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(read_opened, (url,)).get(60) == before
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        close_connections()
        for read in (open_dataset, verify_store):
            with pytest.raises(StoreUnreachableError, match="credentials"):
                read(url)
    close_connections()


def test_changed_metadata_are_found(memory, write_to) -> None:
    write_to(memory)
    victim = place_of(memory) / "molecules/z/zarr.json"
    flip(victim)
    assert [damage.name for damage in verify_store(memory).damaged] == ["molecules/z/zarr.json"]
    with pytest.raises(StoreError, match="SHA-256 differs") as caught:
        open_dataset(memory)
    assert str(victim) in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "cut", "extra"])
def test_objects_that_come_and_go_are_noticed(memory, write_to, change: str) -> None:
    write_to(memory)
    victim = place_of(memory) / "conformers/pos/c/0/0"
    if change == "missing":
        victim.unlink()
    elif change == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim = place_of(memory) / "thesis.tex"
        victim.write_bytes(b"thesis")
    (damage,) = verify_store(memory).damaged
    assert f"{memory}/{damage.name}" == str(victim)
    if change != "extra":
        with pytest.raises(StoreError, match="missing" if change == "missing" else "bytes long"):
            open_dataset(memory)


def test_there_is_no_dataset_before_the_last_object(memory, write_to, make_records) -> None:
    """Objects of a run are there, and can't be taken for a dataset."""
    marker = place_of(memory) / RUN_FILE
    marker.write_bytes(b"{}")
    seen = []

    def records():
        for number, record in enumerate(make_records(20)):
            if number == 19:
                seen.extend(file_sizes(place_of(memory)))
                with pytest.raises(StoreIncompleteError, match="has not finished"):
                    open_dataset(memory)
            yield record

    write_to(memory, records(), into_run=True)
    assert "conformers/energy/c/0" in seen
    assert "zarr.json" not in seen
    marker.unlink()
    assert verify_store(memory).intact


def test_a_failed_attempt_leaves_nothing(memory, write_to, make_records) -> None:
    def records():
        yield from make_records(20)
        raise InputError("no more")

    with pytest.raises(InputError):
        write_to(memory, records())
    assert file_sizes(place_of(memory)) == {}
    assert names_in(place_of(memory)) == []
    with pytest.raises(StoreError, match="there is no dataset"):
        open_dataset(memory)


def test_what_a_killed_attempt_left_is_no_part_of_the_next(memory, write_to, tmp_path) -> None:
    root = place_of(memory)
    (root / RUN_FILE).write_bytes(b"{}")
    (root / "conformers/energy/c/9").write_bytes(b"left")
    write_to(memory, into_run=True)
    (root / RUN_FILE).unlink()
    write_to(tmp_path / "store")
    assert contents(root) == contents(tmp_path / "store")


def test_objects_are_not_written_over(memory, write_to) -> None:
    write_to(memory)
    with pytest.raises(StoreError, match="exists; delete it"):
        write_to(memory)
    (place_of(memory) / "zarr.json").unlink()
    with pytest.raises(StoreError, match="no qmgen dataset"):
        open_dataset(memory)


def test_kinds_of_places(tmp_path: Path) -> None:
    assert place_of(f"file://{tmp_path}/x") == place_of(tmp_path / "x") == tmp_path / "x"
    assert place_of("memory://bucket/x.zarr/") == RemotePath("memory://bucket/x.zarr")
    assert (place_of("memory://bucket/x.zarr") / "y").name == "y"
    assert place_of("memory://bucket/x.zarr").stem == "x"
    with pytest.raises(InputError, match="unknown kind"):
        place_of("nowhere://x")


def test_a_missing_package_is_named() -> None:
    code = """
import sys
sys.modules["s3fs"] = None
from qmgen.dataset.places import place_of
try:
    place_of("s3://bucket/x")
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(MissingExtraError.__name__)
    assert "pip install 'qmgen[s3]'" in done.stdout
