"""Merged datasets hold what their parts hold, in their splits, and say where it came from."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import (
    Failure,
    MoleculeRecord,
    Provenance,
    assign_splits,
    collect_provenance,
    open_dataset,
    store_digest,
    stored_records,
    verify_store,
    write_store,
)
from qmgen.dataset.metadata import Level
from qmgen.dataset.provenance import describe_hardware
from qmgen.errors import InputError, QmgenError, StoreError, StoreMismatchError
from qmgen.generate import RunConfig, merge
from qmgen.generate.spin import spin_label_names, with_spin_columns
from tests.dataset.conftest import TINY, _record

FAILURES = [Failure(3, "mol-3", "not a smiles", -1, "read", "SMILES does not parse")]


def records(count: int, seed: int = 0, start: int = 0) -> list[MoleculeRecord]:
    rng = np.random.default_rng([seed, start])
    made = [_record(i, rng, 2) for i in range(start, start + count)]
    # Names that tell the parts apart; those without SMILES have a key of their own.
    return [replace(r, smile=r.smile and f"{r.smile}O{r.line}") for r in made]


def origin(folder: Path, name: str = "a.smi", **science: Any) -> Provenance:
    source = folder / name
    source.write_text(f"CC {name}\n", encoding="utf-8")
    config = RunConfig().science() | science
    return collect_provenance(config=config, seed=0, source=source, command=f"qmgen {name}")


def write(folder: Path, name: str, molecules: list[MoleculeRecord], **options: Any) -> Path:
    options = {"provenance": origin(folder, f"{name}.smi"), "split_seed": 0, **options}
    options = {"failures": FAILURES, "rejected": {"SMILES does not parse": 1}, **options}
    write_store(folder / name, molecules, chunking=TINY, **options)
    return folder / name


def same(one: MoleculeRecord, other: MoleculeRecord) -> None:
    for name in ("line", "source_id", "smile", "charge", "spin", "nao"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_array_equal(one.z, other.z, strict=True)
    assert one.conformers.keys() == other.conformers.keys()
    for name, values in one.conformers.items():
        np.testing.assert_array_equal(values, other.conformers[name], strict=True)


def test_stored_records_are_the_written_ones(tmp_path: Path) -> None:
    written = [*records(30), replace(records(1)[0], line=99)]
    empty = {name: values[:0] for name, values in written[5].conformers.items()}
    written[5] = replace(written[5], conformers=empty)
    read = [*stored_records(write(tmp_path, "a", written))]
    assert len(read) == 31
    for one, other in zip(written, read, strict=True):
        same(one, other)


def test_one_store_keeps_its_content(tmp_path: Path) -> None:
    store = write(tmp_path, "a", records(25))
    done = merge(tmp_path / "merged", [store])
    assert store_digest(tmp_path / "merged") == store_digest(store)
    assert verify_store(tmp_path / "merged").intact
    (part,) = done.metadata.parts
    before = open_dataset(store).metadata
    assert part.counts == before.counts
    assert part.source == before.provenance.source
    assert (part.versions, part.hardware) == (
        before.provenance.versions,
        before.provenance.hardware,
    )
    assert part.duplicates == done.moved == 0


def test_several_stores(tmp_path: Path) -> None:
    first, second = records(25), records(25, start=40)
    # Two molecules of the second part are in the first; a third has another spin there.
    second[3] = replace(second[3], smile=first[1].smile, charge=first[1].charge)
    second[7] = replace(second[7], smile=first[2].smile, charge=first[2].charge)
    second[8] = replace(second[8], smile=first[4].smile, charge=first[4].charge, spin=2)
    stores = [write(tmp_path, "a", first), write(tmp_path, "b", second)]
    done = merge(tmp_path / "merged", stores)
    expected = [*first, *(r for i, r in enumerate(second) if i not in (3, 7))]
    for one, other in zip(expected, stored_records(tmp_path / "merged"), strict=True):
        same(one, other)
    merged = open_dataset(tmp_path / "merged")
    counts = merged.metadata.counts
    assert (counts.molecules, counts.conformers, counts.failures) == (48, 96, 4)
    assert counts.rejected == {"SMILES does not parse": 2, "duplicate": 2}
    assert [part.duplicates for part in done.metadata.parts] == [0, 2]
    assert [part.source.name for part in done.metadata.parts] == ["a.smi", "b.smi"]
    failures = [*merged.failures()]
    assert failures[:2] == FAILURES * 2
    assert [failure.line for failure in failures[2:]] == [second[3].line, second[7].line]
    assert all("duplicate" in failure.reason for failure in failures[2:])
    # Splits are the parts' own, but for the SMILES that an earlier part has.
    split: dict[str, str] = {}
    for store in stores:
        dataset = open_dataset(store)
        for row in range(dataset.num_molecules):
            molecule = dataset.molecule(row)
            split.setdefault(molecule["smile"] or molecule["source_id"], molecule["split"])
    for row in range(merged.num_molecules):
        molecule = merged.molecule(row)
        assert molecule["split"] == split[molecule["smile"] or molecule["source_id"]]
    assert verify_store(tmp_path / "merged").intact
    # A rule on the whole set would move molecules, so this is not what a new split gives.
    keys = [r.smile or f"id {r.source_id}" for r in expected]
    everything = assign_splits(keys, 0)
    assert 0.7 < np.mean(everything == 0) < 0.9


def test_merging_step_by_step_is_merging_at_once(tmp_path: Path) -> None:
    parts = [records(9), records(9, start=20), records(9, start=50)]
    parts[2][2] = replace(parts[2][2], smile=parts[1][1].smile, charge=parts[1][1].charge)
    a, b, c = (write(tmp_path, n, r) for n, r in zip("abc", parts, strict=True))
    merge(tmp_path / "ab", [a, b])
    merge(tmp_path / "ab-c", [tmp_path / "ab", c])
    merge(tmp_path / "abc", [a, b, c])
    steps, once = (open_dataset(tmp_path / name).metadata for name in ("ab-c", "abc"))
    assert steps.parts == once.parts
    assert steps.counts == once.counts
    for one, other in zip(
        stored_records(tmp_path / "ab-c"), stored_records(tmp_path / "abc"), strict=True
    ):
        same(one, other)


def test_geometries_are_told_apart_by_their_positions(tmp_path: Path) -> None:
    first, second = records(6), records(6, seed=1)
    second[2] = replace(first[3], line=77)
    for name, part in (("a", first), ("b", second)):
        write(tmp_path, name, part, provenance=origin(tmp_path, f"{name}.xyz.gz"))
    done = merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    assert done.metadata.counts.molecules == 11
    assert [*open_dataset(tmp_path / "merged").failures()][-1].line == 77


def test_closed_shells_get_the_spin_labels_of_a_part_with_radicals(tmp_path: Path) -> None:
    labels = RunConfig().labels
    closed, other = records(4), records(4, start=10)
    spins = [with_spin_columns(record, labels) for record in other]
    write(tmp_path, "a", closed)
    write(tmp_path, "b", spins, optional_labels=spin_label_names(labels))
    merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    expected = [with_spin_columns(record, labels) for record in (*closed, *other)]
    for one, two in zip(expected, stored_records(tmp_path / "merged"), strict=True):
        same(one, two)


def test_labels_at_other_levels_and_bounds_are_kept(tmp_path: Path) -> None:
    level = Level(
        name="pbe",
        labels=("energy",),
        config={"dft": {"functional": "pbe"}},
        config_hash="1",
        created="2024-01-01",
        versions={},
        hardware=describe_hardware(),
        command="qmgen append",
    )

    def at_level(made: list[MoleculeRecord]) -> list[MoleculeRecord]:
        more = [{"energy@pbe": record.conformers["energy"] + 1.0} for record in made]
        return [replace(r, conformers=r.conformers | m) for r, m in zip(made, more, strict=True)]

    options = {"levels": [level], "precision": {"energy": 1e-3}}
    a = write(tmp_path, "a", at_level(records(4)), **options)
    b = write(tmp_path, "b", at_level(records(4, start=10)), **options)
    merge(tmp_path / "merged", [a, b])
    merged = open_dataset(tmp_path / "merged")
    assert merged.metadata.levels == (level,)
    assert merged.metadata.precision == {"energy": 1e-3}
    parts = [open_dataset(path).column("energy@pbe") for path in (a, b)]
    np.testing.assert_array_equal(merged.column("energy@pbe"), np.concatenate(parts))
    with pytest.raises(StoreMismatchError, match=r"levels\.pbe"):
        merge(tmp_path / "other", [a, write(tmp_path, "c", records(4, start=20))])


def test_what_can_not_be_merged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to merge"):
        merge(tmp_path / "merged", [])
    a = write(tmp_path, "a", records(5))
    other = origin(tmp_path, seed=3, batch_conformers=7)
    b = write(tmp_path, "b", records(5), provenance=other)
    with pytest.raises(StoreMismatchError, match=r"seed: 0 and 3; batch_conformers: 64 and 7"):
        merge(tmp_path / "merged", [a, b])
    with pytest.raises(StoreError, match="exists"):
        merge(b, [a])
    file = a / "conformers" / "pos" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(StoreError, match=r"is damaged.*qmgen repair"):
        merge(tmp_path / "merged", [a])
    with pytest.raises(QmgenError):
        merge(tmp_path / "merged", [tmp_path / "nowhere"])
    assert not (tmp_path / "merged").exists()


def test_command(tmp_path: Path) -> None:
    write(tmp_path, "a", records(6))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    arguments = ["merge", *(str(tmp_path / name) for name in ("out", "a", "b"))]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "6 molecules, 12 labelled conformers" in done.output
    assert "a.smi: 6 molecules, 12 conformers; 6 duplicates left out" in done.output
