"""Any damage to a store is found, and said to be what it is."""

import contextlib
import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import open_dataset, verify_store, write_store
from qmgen.dataset.gather import read_span
from qmgen.dataset.manifest import check_files, found_files, manifest_bytes, read_listing
from qmgen.dataset.schema import SCHEMA_VERSION
from qmgen.errors import QmgenError, StoreError, StoreIncompleteError
from tests.dataset.conftest import TINY
from tests.dataset.damage import files_of, flipped, read_all

MOLECULES = 12


@pytest.fixture(scope="module")
def victim(tmp_path_factory, make_records, some_failures, provenance):
    """A store of a few molecules with every kind of array, which tests damage and put back."""
    path = tmp_path_factory.mktemp("victim") / "store"
    names = ("forces", "density_matrix")
    records = make_records(MOLECULES, nconf=3, optional_labels=names)
    options = {"split_seed": 1, "chunking": TINY, "optional_labels": names}
    write_store(path, records, some_failures, provenance, **options)
    return path


def reseal(store):
    """Make the manifest right for the files that are there."""
    metadata = json.loads((store / "zarr.json").read_text())["attributes"]
    (store / "manifest" / "zarr.json").write_bytes(manifest_bytes(found_files(store), metadata))


def read_around(dataset, name):
    """Open the store and read what has to do with one of its files; the rest is as it was."""
    if "/c/" not in name:
        open_dataset(dataset.path)
        return
    check_files(dataset.path, read_listing(dataset.path, SCHEMA_VERSION))
    group, array = name.split("/")[:2]
    read_span(dataset._arrays[group][array], 0, dataset._arrays[group][array].shape[0])


def sweep(store, count, seed):
    """Change random bytes one at a time; all must be found, and refused where they are read."""
    files = files_of(store)
    sizes = np.array([file.stat().st_size for file in files])
    rng = np.random.default_rng(seed)
    # Half by bytes, half by files: most bytes are in few files.
    by_byte = rng.choice(len(files), count // 2, p=sizes / sizes.sum())
    by_file = rng.integers(len(files), size=count - count // 2)
    dataset = open_dataset(store)
    outcome = Counter()
    for number in np.concatenate([by_byte, by_file]).tolist():
        name = files[number].relative_to(store).as_posix()
        position, mask = int(rng.integers(sizes[number])), int(rng.integers(1, 256))
        with flipped(files[number], position, mask):
            damaged = [damage.name for damage in verify_store(store).damaged]
            assert damaged == [name], (damaged, name, position, mask)
            # Chunks and shard indices have checksums; metadata are compared at opening.
            with pytest.raises(QmgenError):
                read_around(dataset, name)
            if outcome.total() % 30 == 0:
                with pytest.raises(QmgenError):
                    read_all(store)
        outcome["shard" if "/c/" in name else "metadata"] += 1
    assert verify_store(store).intact
    return outcome


def test_every_changed_byte_is_found(victim):
    outcome = sweep(victim, 150, seed=0)
    assert min(outcome["shard"], outcome["metadata"]) > 30


@pytest.mark.slow
def test_ten_thousand_changed_bytes_are_found(victim):
    outcome = sweep(victim, 10_000, seed=1)
    print(dict(outcome))
    assert outcome.total() == 10_000


def test_an_intact_store_is_intact(victim):
    read_all(victim)
    found = verify_store(victim)
    assert found.intact
    assert not found.molecules
    assert not found.limits
    files = files_of(victim)
    assert found.files == len(files)
    assert found.size == sum(file.stat().st_size for file in files)


def owners(store):
    """Molecule of each element of each array, by what the arrays themselves say."""
    root = zarr.open_group(str(store), mode="r")
    bounds = root["molecules/atom_offset"][:]
    conformers = root["conformers/molecule"][:]
    yield "molecules/line", np.arange(MOLECULES)
    yield "molecules/z", np.repeat(np.arange(MOLECULES), np.diff(bounds))
    yield "conformers/energy", conformers
    for name in ("pos", "orbital_energies", "density_matrix"):
        offset = root[f"conformers/{root[f'conformers/{name}'].attrs['offset']}"][:]
        yield f"conformers/{name}", np.repeat(conformers, np.diff(offset))


def test_damage_is_narrowed_down_to_molecules(victim):
    lines = open_dataset(victim)._arrays["molecules"]["line"][:]
    narrow = 0
    for name, owner in owners(victim):
        array = zarr.open_array(str(victim / name), mode="r")
        for shard in sorted((victim / name).glob("c/*")):
            file = shard if shard.is_file() else next(f for f in shard.rglob("*") if f.is_file())
            start = int(shard.name) * array.shards[0]
            # The first bytes of a shard are its first chunk's.
            with flipped(file, 3, 64):
                found = verify_store(victim)
                (damage,) = found.damaged
                assert damage.rows == ((start, min(start + array.chunks[0], len(owner))),)
                expected = np.unique(owner[slice(*damage.rows[0])]).tolist()
                rows = [row for rows in found.molecules for row in range(*rows)]
                assert rows == expected
                narrow += len(rows) < MOLECULES
                for molecule in found.affected():
                    known = lines[molecule.row]
                    assert molecule.line == known or (name.endswith("line") and not molecule.line)
    assert narrow > 5


def test_lost_cut_and_foreign_files_are_found(victim, tmp_path):
    store = shutil.copytree(victim, tmp_path / "store")
    lost, cut = (
        store / "conformers" / "energy" / "c" / "0",
        store / "molecules" / "smile" / "c" / "0",
    )
    lost.unlink()
    os.truncate(cut, 20)
    (store / "conformers" / "notes.txt").write_text("mine")
    shutil.rmtree(store / "conformers" / "gap")
    found = {damage.name: damage for damage in verify_store(store).damaged}
    assert found["conformers/energy/c/0"].problem == "missing"
    assert found["conformers/energy/c/0"].rows == ((0, 36),)
    assert found["molecules/smile/c/0"].problem.startswith("20 bytes long instead of")
    assert found["conformers/notes.txt"].problem == "not a file of this dataset"
    assert found["conformers/gap/zarr.json"].problem == "missing"
    assert len(found) == 5  # with the shard of gap
    assert [m.smile for m in verify_store(store).affected()][:10] == [None] * 10


@pytest.mark.parametrize("content", [None, "", "{", '{"attributes": {"files": {"a": 1}}}'])
def test_without_manifest_the_chunks_tell(victim, tmp_path, content):
    store = shutil.copytree(victim, tmp_path / "store")
    manifest = store / "manifest" / "zarr.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    found = verify_store(store)
    assert [damage.name for damage in found.damaged] == ["manifest/zarr.json"]
    with flipped(store / "conformers" / "energy" / "c" / "0", 5, 1):
        found = verify_store(store)
        assert {d.name for d in found.damaged} == {"manifest/zarr.json", "conformers/energy/c/0"}
        assert found.molecules
    with pytest.raises(StoreError, match="manifest"):
        open_dataset(store)


def _set(store, name, index, value):
    array = zarr.open_array(str(store / name), mode="r+")
    values = array[:]
    values[index] = value
    array[:] = values


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("conformers/atom_offset", 3, 0, "conformers/atom_offset does not ascend"),
        ("conformers/atom_offset", 0, 1, "conformers/atom_offset does not ascend"),
        ("conformers/atom_offset", -1, 10**6, "elements, and its offsets end at 1000000"),
        ("molecules/conformer_offset", 1, 2, "conformers/molecule does not fit"),
        ("conformers/molecule", 5, 10**6, "outside the molecules"),
        ("molecules/nao", 2, 1, "orbital_offset does not fit"),
        ("conformers/converged", slice(None), False, "0 conformers are converged"),
        ("conformers/index", 1, 0, "does not ascend within a molecule"),
        ("conformers/energy", slice(None), np.nan, "has no energy"),
        ("molecules/z", 4, 0, "atomic number 0"),
        ("molecules/split", 4, 3, "code 3"),
        ("molecules/smile", slice(None), "C", "in another split than one with the same SMILES"),
        ("molecules/source_id", 2, "other", None),
        ("failures/stage", 0, "other", "failures/stage has 'other'"),
    ],
)
def test_a_wrong_store_with_right_checksums_is_noticed(
    victim, tmp_path, name, index, value, message
):
    store = shutil.copytree(victim, tmp_path / "store")
    _set(store, name, index, value)
    assert not verify_store(store).intact
    reseal(store)
    found = verify_store(store)
    assert not found.damaged
    assert found.intact == (message is None)
    if message is not None:
        assert any(message in text for text in found.contradictions), found.contradictions
    with contextlib.suppress(QmgenError):
        read_all(store)


def test_unlisted_shard_is_noticed(victim, tmp_path):
    store = shutil.copytree(victim, tmp_path / "store")
    (store / "conformers" / "gap" / "c" / "0").unlink()
    reseal(store)
    assert verify_store(store).contradictions == ("the manifest does not list conformers/gap/c/0",)


def test_no_store_and_unfinished_runs_are_told(tmp_path):
    with pytest.raises(StoreError, match="no dataset at"):
        verify_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no qmgen dataset"):
        verify_store(tmp_path)
    (tmp_path / "qmgen-run.json").write_text("{}")
    with pytest.raises(StoreIncompleteError):
        verify_store(tmp_path)


def test_command(victim):
    done = CliRunner().invoke(app, ["verify", str(victim)])
    assert done.exit_code == 0
    assert "all as they were written" in done.output
    with flipped(victim / "conformers" / "pos" / "c" / "0" / "0", 5, 1):
        done = CliRunner().invoke(app, ["verify", str(victim)])
        assert done.exit_code == 1
        assert "conformers/pos/c/0/0" in done.output
        assert "molecule 0, line 1: C" in done.output
        done = CliRunner().invoke(app, ["verify", str(victim), "--json"])
        assert done.exit_code == 1
        found = json.loads(done.output)
    assert not found["intact"]
    assert [damage["name"] for damage in found["damaged"]] == ["conformers/pos/c/0/0"]
    assert found["molecules"][0] == {"row": 0, "line": 1, "smile": "C"}
    found = json.loads(CliRunner().invoke(app, ["verify", str(victim), "--json"]).output)
    assert found["intact"]
    assert found["damaged"] == found["contradictions"] == found["molecules"] == []
