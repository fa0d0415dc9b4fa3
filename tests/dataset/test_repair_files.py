"""Damaged files are made again, byte for byte, from the rest of a store and from records."""

import json
import os
import shutil

import numpy as np
import pytest

from qmgen.dataset import open_dataset, verify_store, write_store
from qmgen.dataset.damage import affected_molecules
from qmgen.dataset.manifest import found_files, manifest_bytes
from qmgen.dataset.patch import DERIVED, lost_elements, patched_shards
from qmgen.dataset.rebuild import put_all, rebuild_metadata, workplace
from qmgen.errors import StoreError
from tests.dataset.conftest import TINY
from tests.dataset.damage import files_of

ALL = ("forces", "density_matrix")


@pytest.fixture(scope="module")
def records(make_records):
    return make_records(9, optional_labels=ALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, records, some_failures, provenance):
    path = tmp_path_factory.mktemp("whole") / "store"
    options = {"split_seed": 1, "chunking": TINY, "optional_labels": ALL}
    write_store(path, records, some_failures, provenance, **options)
    return path


@pytest.fixture
def store(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "store")


def content(store):
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in files_of(store)}


def mend(store, records, failures):
    """Do what `qmgen.generate.repair` does, with records that are known; gives rows it used."""
    _, exact = rebuild_metadata(verify_store(store))
    found = verify_store(store)
    lost = lost_elements(found)
    names = {name for name in lost if name not in DERIVED}
    wanted = affected_molecules(found.path, found.metadata, found.damaged, names)
    rows = [row for start, stop in wanted for row in range(start, stop)]
    with workplace(store) as folder:
        again = {row: records[row] for row in rows}
        put_all(store, patched_shards(found, lost, again, failures, folder))
    assert exact
    return rows


def damage(file, rng):
    """Change, cut or delete a file."""
    kind = rng.integers(3)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        os.truncate(file, int(rng.integers(file.stat().st_size)))
    else:
        data = bytearray(file.read_bytes())
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        file.write_bytes(data)


# One array of each kind tells how all others are cut, and how long those of its kind are.
_KEPT = ("energy", "pos", "orbital_energies", "density_matrix")
KEPT = [f"conformers/{name}/zarr.json" for name in _KEPT]
KEPT += ["molecules/z/zarr.json", "molecules/smile/zarr.json"]
CHOICES = {
    "root": lambda name: name == "zarr.json",
    "manifest": lambda name: name == "manifest/zarr.json",
    "groups": lambda name: name.count("/") == 1 and not name.startswith("manifest"),
    "arrays": lambda name: name.count("/") == 2 and name.endswith("zarr.json") and name not in KEPT,
    "derived": lambda name: any(name.startswith(f"{array}/") for array in DERIVED),
    "molecules": lambda name: name.startswith("molecules/") and "/c/" in name,
    "conformers": lambda name: name.startswith("conformers/") and "/c/" in name,
    "all but manifest": lambda name: name not in (*KEPT, "manifest/zarr.json"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_whole_kinds_of_files(store, whole, records, some_failures, choice):
    names = [name for name in content(store) if CHOICES[choice](name)]
    rng = np.random.default_rng(3)
    for name in names:
        damage(store / name, rng)
    assert {d.name for d in verify_store(store).damaged} == set(names)
    rows = mend(store, records, some_failures)
    assert content(store) == content(whole)
    assert verify_store(store).intact
    if choice in ("root", "manifest", "groups", "arrays", "derived"):
        assert not rows


@pytest.mark.parametrize("seed", range(2))
def test_a_few_random_files(store, whole, records, some_failures, seed):
    rng = np.random.default_rng(seed)
    names = [name for name in content(store) if name != "manifest/zarr.json"]
    for name in rng.choice(names, 4, replace=False):
        damage(store / name, rng)
    mend(store, records, some_failures)
    assert content(store) == content(whole)


def test_lost_values_and_manifest_are_too_much(store, records, some_failures):
    before = {**content(store)}
    (store / "manifest" / "zarr.json").unlink()
    (store / "conformers" / "pos" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="so that nothing tells"):
        mend(store, records, some_failures)
    (store / "conformers" / "pos" / "c" / "0" / "0").write_bytes(before["conformers/pos/c/0/0"])
    # Deleted, the manifest can't say what it was, but that the same files give it again is known.
    _, exact = rebuild_metadata(verify_store(store))
    assert not exact
    assert verify_store(store).intact
    assert "manifest was lost" in open_dataset(store).metadata.notes[0]


def test_both_copies_of_the_metadata_are_too_much(store):
    (store / "zarr.json").write_text("{")
    (store / "manifest" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="neither of the two copies"):
        rebuild_metadata(verify_store(store))


def test_molecules_of_another_size_are_refused(store, records, some_failures, make_records):
    (store / "conformers" / "pos" / "c" / "0" / "0").unlink()
    before = content(store)
    with pytest.raises(StoreError, match=r"can't be repaired: what was made again differs"):
        mend(store, make_records(9, seed=1, optional_labels=ALL), some_failures)
    assert content(store) == before
    assert not list(store.parent.glob("*.repair-*"))


def test_array_metadata_of_another_wording_get_a_note(store):
    name = store / "conformers" / "gap" / "zarr.json"
    described = json.loads(name.read_text())
    described["attributes"]["description"] = "as another version put it"
    name.write_text(json.dumps(described))
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    (store / "manifest" / "zarr.json").write_bytes(manifest_bytes(found_files(store), attributes))
    name.write_text("{")
    _, exact = rebuild_metadata(verify_store(store))
    assert not exact
    assert verify_store(store).intact
    assert "another version" in open_dataset(store).metadata.notes[0]
