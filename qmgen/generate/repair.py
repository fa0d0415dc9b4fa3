"""Labels the molecules again that damaged files of a store held, and puts them in place."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import (
    Failure,
    MoleculeRecord,
    StoreMetadata,
    Verification,
    package_versions,
    verify_store,
)
from qmgen.dataset.damage import EXTRA, Rows, affected_molecules, merged
from qmgen.dataset.gather import read_span
from qmgen.dataset.growth import settle
from qmgen.dataset.manifest import MANIFEST, entry_of, read_manifest
from qmgen.dataset.opening import open_arrays
from qmgen.dataset.patch import (
    DERIVED,
    all_elements,
    count_converged,
    doubtful,
    known_lines,
    lost_elements,
    patched_shards,
)
from qmgen.dataset.places import local_folder
from qmgen.dataset.provenance import describe_source
from qmgen.dataset.rebuild import (
    put_all,
    rebuild_metadata,
    replace_root,
    with_note,
    workplace,
)
from qmgen.dataset.schema import is_at_level
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import InputError, StoreError, StoreMismatchError
from qmgen.generate.append_job import leave
from qmgen.generate.assembly import joined
from qmgen.generate.cluster import connect
from qmgen.generate.config import ClusterConfig, RunConfig
from qmgen.generate.lock import store_lock
from qmgen.generate.origin import stored_run_config
from qmgen.generate.plan import Plan
from qmgen.generate.planning import build_plan
from qmgen.generate.progress import Progress
from qmgen.generate.repaired_rows import by_row, planned_numbers
from qmgen.generate.schedule import run_batches
from qmgen.generate.segments import REFUSALS, parts_of, rows_of_parts
from qmgen.generate.spin import spin_label_names, with_spin_columns
from qmgen.generate.worker import LabelledSlice
from qmgen.molecules import Molecule


@dataclass(frozen=True)
class RepairSummary:
    """Outcome of `repair`.

    Attributes
    ----------
    files : tuple of str
        Damaged files that were put in order; empty if there were none.
    molecules : int
        Molecules that were labelled again.
    exact : bool
        Whether all files are again, to the byte, what was written.
    extra : tuple of str
        Files that are none of the store's; they are left alone.
    """

    files: tuple[str, ...]
    molecules: int
    exact: bool
    extra: tuple[str, ...]


def repair(
    store: str | os.PathLike[str],
    sources: Sequence[Path] = (),
    cluster: ClusterConfig | None = None,
    *,
    smiles_column: str | None = None,
    progress: Progress | None = None,
    guess: OrbitalGuess | None = None,
) -> RepairSummary:
    """Put a damaged store in order.

    Metadata files are made again from what else the store says. Of lost labels, all planned batches
    that have some are labelled again with the store's own configuration: a batch's content is a
    function of the plan, so on the same versions the files get the checksums that they had. If
    not, all labels of those molecules are replaced, and the metadata say so. New files are written
    beside the store and renamed one by one; what an interruption leaves undone the same call does.
    The molecules that are labelled again are held in memory.

    Parameters
    ----------
    store
        The store.
    sources
        Its input files; those are needed of whose molecules labels are lost.
    cluster
        Where to label.
    smiles_column
        Column of a csv file, as given to the run.
    progress
        Told how the labelling goes on.
    guess
        Predicts orbitals to start from, as in the run.

    Raises
    ------
    InputError
        Labels are lost and there is no input file.
    StoreMismatchError
        An input file is not one of the store's, or another process is writing the store.
    StoreError
        What is lost can't be made again, or the store is not on this machine.
    """
    store = local_folder(store)
    if not (store / MANIFEST).is_file() and not (store / "zarr.json").is_file():
        # Explains what there is instead of a store.
        verify_store(store)
    with store_lock(store):
        if settle(store):
            leave(store)
        return _repair(store, sources, cluster, smiles_column, progress, guess)


def _repair(
    store: Path,
    sources: Sequence[Path],
    cluster: ClusterConfig | None,
    smiles_column: str | None,
    progress: Progress | None,
    guess: OrbitalGuess | None,
) -> RepairSummary:
    found = verify_store(store)
    extra = tuple(damage.name for damage in found.damaged if damage.problem == EXTRA)
    if found.contradictions:
        raise StoreError(
            f"{store}: its files are what was written, and contradict each other "
            f"({found.contradictions[0]}); delete the dataset and run qmgen generate again"
        )
    files, exact = rebuild_metadata(found)
    if files:
        found = verify_store(store)
    lost = lost_elements(found)
    _check_levels(store, lost)
    if not lost:
        _check(found)
        return RepairSummary(files, 0, exact, extra)
    assert found.metadata is not None
    _check_parts(store, found.metadata, lost)
    progress = progress or Progress()
    with workplace(found.folder) as folder:
        again = _Again({}, ())
        wanted = _wanted(found, lost)
        if wanted or _has(lost, "failures/"):
            config = stored_run_config(store, found.metadata, guess)
            config = config.model_copy(update={"cluster": cluster or ClusterConfig()})
            inputs = _Inputs(
                {describe_source(path).sha256: path for path in sources}, smiles_column
            )
            again = _all_again(found, config, inputs, wanted, lost, progress, guess, folder)
        exact &= _put_in_place(found, lost, again, folder)
    found = verify_store(store)
    _check(found)
    return RepairSummary((*files, *sorted(lost)), len(again.records), exact, extra)


@dataclass(frozen=True)
class _Again:
    """What was made again: molecules by row, and all failures if those are lost."""

    records: dict[int, MoleculeRecord]
    failures: tuple[Failure, ...]


def _check(found: Verification) -> None:
    left = [damage for damage in found.damaged if damage.problem != EXTRA]
    if left or found.contradictions:
        what = f"{left[0].name} is {left[0].problem}" if left else found.contradictions[0]
        raise StoreError(
            f"{found.path} is still damaged: {what}; run qmgen generate to another output"
        )


def _check_parts(store: Path, metadata: StoreMetadata, lost: Iterable[str]) -> None:
    """Refuse what only the parts of a store knew: their splits and failures."""
    for name in ("molecules/split", "failures/"):
        if metadata.parts and _has(lost, name):
            raise StoreError(
                f"{store} was made of {len(metadata.parts)} parts, whose {name.strip('/')} can't "
                "be made again; copy those files from an intact copy of the dataset"
            )


def _check_levels(store: Path, lost: Iterable[str]) -> None:
    at_levels = [name for name in lost if is_at_level(name)]
    if at_levels:
        raise StoreError(
            f"{store}: {at_levels[0]} is damaged, a label at another level, which repair does not "
            "make again; copy its files from an intact copy of the dataset"
        )


def _has(lost: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in lost)


def _wanted(found: Verification, lost: Iterable[str]) -> tuple[Rows, ...]:
    """Molecules to be labelled again."""
    assert found.metadata is not None
    names = {name for name in lost if name not in DERIVED}
    return affected_molecules(found.path, found.metadata, found.damaged, names)


@dataclass(frozen=True)
class _Inputs:
    """Input files by their SHA-256, and the column of SMILES in those that are tables."""

    files: dict[str, Path]
    smiles_column: str | None


def _all_again(
    found: Verification,
    config: RunConfig,
    inputs: _Inputs,
    wanted: Sequence[Rows],
    lost: Iterable[str],
    progress: Progress,
    guess: OrbitalGuess | None,
    folder: Path,
) -> _Again:
    """Label again what each part of the store has lost."""
    assert found.metadata is not None
    metadata, path = found.metadata, found.path
    other = {*inputs.files} - {part.source.sha256 for part in parts_of(metadata)}
    if other:
        names = ", ".join(part.source.name for part in parts_of(metadata))
        raise StoreMismatchError(
            f"{inputs.files[min(other)]} is not the file that {path} was made from ({names}, "
            f"SHA-256 {parts_of(metadata)[0].source.sha256}); give that one"
        )
    known = known_lines(found)
    records: dict[int, MoleculeRecord] = {}
    failures: tuple[Failure, ...] = ()
    for number, (part, rows, failed) in enumerate(rows_of_parts(metadata)):
        own = [Rows(max(r.start, rows.start), min(r.stop, rows.stop)) for r in wanted]
        own = [Rows(r.start - rows.start, r.stop - rows.start) for r in own if r.start < r.stop]
        if not own and not _has(lost, "failures/"):
            continue
        if part.source.sha256 not in inputs.files:
            raise InputError(
                f"{found.num_molecules} molecules of {path} have to be labelled again; give its "
                f"input file {part.source.name}"
            )
        source = inputs.files[part.source.sha256]
        progress.stage(f"reading {source.name}")
        refused = _refused(found, failed) if metadata.parts else {}
        plan = build_plan(
            source,
            folder / f"plan-{number}.sqlite",
            config,
            smiles_column=inputs.smiles_column,
            refused=partial(_reason, refused),
        )
        again = _label_again(
            plan, config, found, known[rows.start : rows.stop], own, lost, progress, guess
        )
        records |= {rows.start + row: record for row, record in again.records.items()}
        failures = again.failures
    return _Again(records, failures)


def _reason(refused: Mapping[int, str], molecule: Molecule) -> str | None:
    return refused.get(molecule.line)


def _refused(found: Verification, rows: range) -> dict[int, str]:
    """Lines that were left out of a part when it was appended, whose plan lacked them."""
    assert found.metadata is not None
    arrays = open_arrays(found.path, found.metadata)["failures"]
    lines, reasons = (read_span(arrays[n], rows.start, rows.stop) for n in ("line", "reason"))
    said = zip(lines.tolist(), reasons.tolist(), strict=True)
    return {line: reason for line, reason in said if reason in REFUSALS}


def _label_again(
    plan: Plan,
    config: RunConfig,
    found: Verification,
    known: Int64[np.ndarray, " nmol"],
    wanted: Sequence[Rows],
    lost: Iterable[str],
    progress: Progress,
    guess: OrbitalGuess | None,
) -> _Again:
    """Label again what some rows, of one input and with these lines, have lost."""
    planned = [*plan.lines()]
    numbers = planned_numbers(planned, known, wanted)
    failures_lost = _has(lost, "failures/")
    if failures_lost:
        suspects = doubtful(found, {line: most for _, line, most in planned})
        numbers |= {number for number, line, _ in planned if line in suspects}
    batches = plan.batches_of(numbers)
    sizes = dict(plan.batch_sizes())
    progress.start_labelling(sum(sizes[n] for n in batches), 0, len(numbers))
    pieces: dict[int, dict[int, LabelledSlice]] = {number: {} for number in numbers}
    with connect(config.cluster, len(batches)) as cluster:
        progress.stage(cluster.description)
        work = (plan.batch(number) for number in batches)
        for batch, slices in run_batches(cluster, work, config, guess):
            assert isinstance(slices, list)
            for part in slices:
                if part.number in pieces:
                    pieces[part.number][batch.number] = part
            progress.batch_done(batch.num_conformers)
    progress.end_labelling()
    ordered = {n: [pieces[n][batch] for batch in sorted(pieces[n])] for n in sorted(pieces)}
    if failures_lost:
        by_batch = sorted((b, n) for n, parts in pieces.items() for b in parts)
        plan.forget_label_failures()
        plan.add_label_failures(f for b, n in by_batch for f in pieces[n][b].failures)
    records = [joined([p.record for p in parts if p.record]) for parts in ordered.values()]
    whole = [record for record in records if record is not None]
    assert found.metadata is not None
    if {*spin_label_names(config.labels)} & {*found.metadata.optional_labels}:
        whole = [with_spin_columns(record, config.labels) for record in whole]
    failures = tuple(plan.failures()) if failures_lost else ()
    before = found.metadata.counts.failures
    if failures_lost and len(failures) != before:
        raise StoreError(
            f"{found.path} can't be repaired: it had {before} failures, and now there are "
            f"{len(failures)}; run qmgen generate to another output"
        )
    return _Again(by_row(whole, known, found.folder), failures)


def _put_in_place(
    found: Verification, lost: dict[str, list[Rows]], again: _Again, folder: Path
) -> bool:
    """Write the lost elements, or, if those differ, all labels of their molecules."""
    assert found.metadata is not None
    files = read_manifest(found.path, found.metadata.schema_version)
    made = patched_shards(found, lost, again.records, again.failures, folder)
    if all(entry_of(file) == files[name] for name, file in made.items()):
        put_all(found.folder, made)
        return True
    rows = merged(Rows(row, row + 1) for row in again.records)
    more = all_elements(found, rows)
    whole = {n: [*merged([*lost.get(n, ()), *more.get(n, ())])] for n in {*lost, *more}}
    made = patched_shards(found, whole, again.records, again.failures, folder)
    put_all(found.folder, made)
    some = ", ".join(str(record.line) for record in list(again.records.values())[:5])
    more_lines = ", ..." * (len(again.records) > 5)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    note = (
        f"{len(again.records)} molecules (lines {some}{more_lines}) were labelled again after "
        f"damage, and not bit for bit as before, with {versions}."
    )
    files |= {name: entry_of(found.folder / name) for name in made}
    metadata = with_note(found.metadata, note)
    counts = metadata.counts.model_copy(update={"converged": count_converged(found)})
    metadata = metadata.model_copy(update={"counts": counts})
    replace_root(found.folder, metadata, files, folder)
    return False
