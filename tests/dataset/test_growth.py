"""A store that grows is, at any moment, what it was or what it will be."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import (
    Failure,
    open_dataset,
    place_of,
    store_digest,
    stored_records,
    verify_store,
)
from qmgen.dataset import growth as growing
from qmgen.dataset.growth import complete, settle, stage, write_labels, write_molecules
from qmgen.dataset.layout import layout
from qmgen.dataset.metadata import Level
from qmgen.dataset.places import file_sizes
from qmgen.dataset.provenance import describe_hardware
from qmgen.dataset.splits import split_digest, splits_by_hash
from qmgen.errors import StoreError

FAILURE = Failure(3, "mol-3", "not a smiles", -1, "read", "SMILES does not parse")
LEVEL = Level(
    name="pbe_def2-svp_3",
    labels=("energy", "forces"),
    config={"dft": {"functional": "pbe"}},
    config_hash="0",
    created="2024-01-01",
    versions={},
    hardware=describe_hardware(),
    command="qmgen append",
)


def content(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def prepare_molecules(store: Path, records, failures=(FAILURE,)) -> None:
    """Write further molecules beside a store, ready to be put in place."""
    grown = write_molecules(store, records, failures)
    metadata = open_dataset(store).metadata
    counts = {n: getattr(metadata.counts, n) + k for n, k in vars(grown).items()}
    counts = metadata.counts.model_copy(update=counts)
    stage(store, metadata.model_copy(update={"counts": counts}))


def prepare_labels(store: Path) -> None:
    """Write labels at another level beside a store: a number for each row, NaN in the third."""
    dataset = open_dataset(store)
    fields = layout((), (LEVEL,))["conformers"]
    fields = {name: fields[name] for name in ("energy@pbe_def2-svp_3", "forces@pbe_def2-svp_3")}
    n_atoms = dataset.batch(slice(None), ["pos"]).n_atoms
    values = []
    for row, nat in enumerate(n_atoms.tolist()):
        energy = np.nan if row == 2 else float(row)
        columns = (np.full(1, energy), np.full((nat, 3), energy))
        values.append(dict(zip(fields, columns, strict=True)))
    failure = Failure(1, "", "", 2, "label", "SCF not converged")
    grown = write_labels(store, fields, values, [failure])
    metadata = dataset.metadata
    failures = metadata.counts.failures + grown.failures
    counts = metadata.counts.model_copy(update={"failures": failures})
    stage(store, metadata.model_copy(update={"counts": counts, "levels": (LEVEL,)}))


def test_a_store_that_grew_is_the_one_written_at_once(make_records, write, some_failures):
    records = make_records(60)
    whole = write(records, [*some_failures, FAILURE], name="whole", precision={"energy": 1e-3})
    store = write(records[:35], some_failures, precision={"energy": 1e-3})
    before = content(store)
    prepare_molecules(store, records[35:])
    beside = {n: b for n, b in content(store).items() if not n.startswith("growth/")}
    assert beside == before
    assert verify_store(store).intact
    complete(store)
    shutil.rmtree(store / "growth")
    assert verify_store(store).intact
    others = {"zarr.json", "manifest/zarr.json", "molecules/split/c/0", "molecules/split/c/1"}
    found, expected = content(store), content(whole)
    assert {n: b for n, b in found.items() if n not in others} == {
        n: b for n, b in expected.items() if n not in others
    }
    # Only the last shard of an array is another one.
    full = [name for name in before if "/c/" in name and found[name] == before[name]]
    assert "conformers/pos/c/0/0" in full
    old = open_dataset(store).molecule
    keys = {}
    for row in range(60):
        molecule = old(row)
        key = molecule["smile"] or f"id {molecule['source_id']}"
        assert keys.setdefault(key, molecule["split"]) == molecule["split"]


def test_splits_by_hash_have_their_shares():
    digests = np.array([split_digest(str(i), 3) for i in range(20_000)], np.uint64)
    codes = splits_by_hash(digests, (0.8, 0.1, 0.1))
    # Three standard deviations of a binomial of 20000.
    np.testing.assert_allclose(np.bincount(codes) / len(codes), (0.8, 0.1, 0.1), atol=0.0085)
    assert (splits_by_hash(digests[:7], (0.8, 0.1, 0.1)) == codes[:7]).all()
    assert not splits_by_hash(digests, (1.0, 0.0, 0.0)).any()


def test_labels_at_another_level(make_records, write):
    store = write(make_records(20, nconf=2))
    before = store_digest(store)
    prepare_labels(store)
    assert store_digest(store) == before
    complete(store)
    assert verify_store(store).intact
    dataset = open_dataset(store)
    name = "energy@pbe_def2-svp_3"
    assert dataset.columns[-2:] == (name, "forces@pbe_def2-svp_3")
    expected = np.arange(40.0)
    expected[2] = np.nan
    np.testing.assert_array_equal(dataset.column(name), expected)
    assert dataset.units(name) == "Hartree"
    attributes = dataset._arrays["conformers"][name].attrs
    assert attributes["level"]["dft"] == {"functional": "pbe"}
    assert [*dataset.failures()][-1].reason == "SCF not converged"
    row = dataset[5]
    assert row["forces@pbe_def2-svp_3"].shape == row["pos"].shape
    molecule = dataset.molecule(3)
    assert molecule["forces@pbe_def2-svp_3"].shape == molecule["pos"].shape
    record = [*stored_records(store)][3]
    np.testing.assert_array_equal(record.conformers[name], [6.0, 7.0])
    again = write(stored_records(store), name="again", levels=[LEVEL])
    np.testing.assert_array_equal(open_dataset(again).column(name), expected)


@pytest.mark.parametrize("what", ["molecules", "labels"])
def test_killed_at_any_moment(make_records, write, monkeypatch, what):
    """What a kill leaves behind is looked at after each file that is put in place."""
    records = make_records(12)
    store = write(records[:9])
    before = store_digest(store)
    if what == "molecules":
        prepare_molecules(store, records[9:])
    else:
        prepare_labels(store)
    # The list of what changes comes before what is beside.
    total = 1 + sum(path.is_file() for path in (store / "growth" / "files").rglob("*"))
    looked_at = {*range(0, total, 9), *range(total - 4, total)}
    copies, replace = {}, os.replace
    moments = iter(range(total))

    def watched(source, target):
        replace(source, target)
        if (moment := next(moments)) in looked_at:
            copies[moment] = shutil.copytree(store, store.with_name(f"copy-{moment}"))

    monkeypatch.setattr(os, "replace", watched)
    complete(store)
    monkeypatch.undo()
    after = store_digest(store)
    assert after != before
    assert copies.keys() == looked_at
    for moment, copy in copies.items():
        # As before, up to the moment at which the root is the new one, the last but one.
        assert store_digest(copy) == (before if moment < total - 2 else after)
        found = verify_store(copy)
        assert found.intact, (moment, found)
        assert settle(copy) == (moment < total - 1)
        assert store_digest(copy) == after
        assert verify_store(copy).intact
        assert content(copy).keys() - {"growth/manifest.tmp"} == content(store).keys()


def killed_amid(store: Path, monkeypatch) -> None:
    """Begin to put in place what is beside a store."""

    class Killed(BaseException):
        pass

    count = 0
    put = growing.put

    def killing(made, place):
        nonlocal count
        count += 1
        if count == 12:
            raise Killed
        put(made, place)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "put", killing)
        with pytest.raises(Killed):
            complete(store)


@pytest.mark.parametrize("what", ["molecules", "labels"])
def test_copies_below_a_url(make_records, write, memory, monkeypatch, what):
    """Of a store that has grown, and of one that is in the middle of it."""
    records = make_records(12)
    store = write(records[:9])
    before = store_digest(store)
    if what == "molecules":
        prepare_molecules(store, records[9:])
    else:
        prepare_labels(store)
    killed_amid(store, monkeypatch)
    for name in file_sizes(store):
        (place_of(f"{memory}/amid") / name).write_bytes((store / name).read_bytes())
    assert settle(store)
    after = store_digest(store)
    for name in file_sizes(store):
        (place_of(f"{memory}/grown") / name).write_bytes((store / name).read_bytes())
    for url, digest in ((f"{memory}/amid", before), (f"{memory}/grown", after)):
        assert store_digest(url) == digest
        found = verify_store(url)
        assert found.intact, found
        victim = place_of(url) / "conformers/energy/zarr.json"
        victim.write_bytes(victim.read_bytes().replace(b"zarr_format", b"zarr-format"))
        with pytest.raises(StoreError, match="SHA-256 differs"):
            open_dataset(url)
        assert [damage.name for damage in verify_store(url).damaged] == [
            "conformers/energy/zarr.json"
        ]


def test_a_lost_folder_is_told(make_records, write, monkeypatch):
    records = make_records(12)
    store = write(records[:9])
    before = store_digest(store)
    prepare_molecules(store, records[9:])

    killed_amid(store, monkeypatch)
    shutil.rmtree(store / "growth")
    assert store_digest(store) == before
    assert verify_store(store).intact
    with pytest.raises(StoreError, match=r"copy that back, or .* qmgen merge"):
        settle(store)
    # Damage is found nevertheless.
    (store / "conformers/energy/c/0").write_bytes(b"")
    assert not verify_store(store).intact
