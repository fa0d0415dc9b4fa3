"""Labels the molecules again that damaged files of a store held, and puts them in place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import (
    Failure,
    MoleculeRecord,
    StoreMetadata,
    Verification,
    file_sha256,
    package_versions,
    verify_store,
)
from qmgen.dataset.damage import EXTRA, Rows, affected_molecules, merged
from qmgen.dataset.growth import settle
from qmgen.dataset.manifest import MANIFEST, entry_of, read_manifest
from qmgen.dataset.patch import (
    DERIVED,
    all_elements,
    count_converged,
    doubtful,
    known_lines,
    lost_elements,
    patched_shards,
)
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
from qmgen.generate.assembly import joined
from qmgen.generate.cluster import connect
from qmgen.generate.config import ClusterConfig, RunConfig
from qmgen.generate.lock import store_lock
from qmgen.generate.origin import stored_run_config
from qmgen.generate.plan import Plan
from qmgen.generate.planning import build_plan
from qmgen.generate.progress import Progress
from qmgen.generate.schedule import run_batches
from qmgen.generate.spin import with_spin_columns
from qmgen.generate.worker import LabelledSlice


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
    store: Path,
    source: Path | None,
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
    source
        Its input file; needed where labels are lost.
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
        The input file is not the run's, or another process is writing the store.
    StoreError
        What is lost can't be made again.
    """
    if not (store / MANIFEST).is_file() and not (store / "zarr.json").is_file():
        # Explains what there is instead of a store.
        verify_store(store)
    with store_lock(store):
        settle(store)
        return _repair(store, source, cluster, smiles_column, progress, guess)


def _repair(
    store: Path,
    source: Path | None,
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
    _check_origin(store, found.metadata)
    progress = progress or Progress()
    with workplace(found.path) as folder:
        again = _Again({}, ())
        wanted = _wanted(found, lost)
        if wanted or _has(lost, "failures/"):
            plan, config = _plan(store, source, found, smiles_column, progress, guess, folder)
            config = config.model_copy(update={"cluster": cluster or ClusterConfig()})
            again = _label_again(plan, config, found, wanted, lost, progress, guess)
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


def _check_origin(store: Path, metadata: StoreMetadata) -> None:
    if metadata.parts:
        raise StoreError(
            f"{store} was merged from {len(metadata.parts)} datasets; repair those, and merge them "
            "again"
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


def _plan(
    store: Path,
    source: Path | None,
    found: Verification,
    smiles_column: str | None,
    progress: Progress,
    guess: OrbitalGuess | None,
    folder: Path,
) -> tuple[Plan, RunConfig]:
    """Plan of the run that made the store, and its configuration."""
    assert found.metadata is not None
    origin = found.metadata.provenance
    config = stored_run_config(store, found.metadata, guess)
    if source is None:
        raise InputError(
            f"{found.num_molecules} molecules of {store} have to be labelled again; give its input "
            f"file {origin.source.name}"
        )
    try:
        digest = file_sha256(source)
    except OSError as error:
        raise InputError(f"can't read the input {source}: {error.strerror}") from error
    if digest != origin.source.sha256:
        raise StoreMismatchError(
            f"{source} is not the file that {store} was made from ({origin.source.name}, SHA-256 "
            f"{origin.source.sha256}); give that one"
        )
    progress.stage(f"reading {source.name}")
    path = folder / "plan.sqlite"
    return build_plan(source, path, config, smiles_column=smiles_column), config


def _label_again(
    plan: Plan,
    config: RunConfig,
    found: Verification,
    wanted: Sequence[Rows],
    lost: Iterable[str],
    progress: Progress,
    guess: OrbitalGuess | None,
) -> _Again:
    known = known_lines(found)
    planned = [*plan.lines()]
    numbers = _numbers(planned, known, wanted)
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
    if config.method == "dft" and plan.has_open_shells():
        whole = [with_spin_columns(record, config.labels) for record in whole]
    failures = tuple(plan.failures()) if failures_lost else ()
    assert found.metadata is not None
    before = found.metadata.counts.failures
    if failures_lost and len(failures) != before:
        raise StoreError(
            f"{found.path} can't be repaired: it had {before} failures, and now there are "
            f"{len(failures)}; run qmgen generate to another output"
        )
    return _Again(_by_row(whole, known, found.path), failures)


def _numbers(
    planned: Sequence[tuple[int, int, int]],
    known: Int64[np.ndarray, " nmol"],
    wanted: Sequence[Rows],
) -> set[int]:
    """Planned molecules that may be in some rows of the store."""
    numbers, lines, _ = np.array(planned).T
    found: set[int] = set()
    for start, stop in wanted:
        rows = known[start:stop]
        found.update(numbers[np.isin(lines, rows[rows >= 0])].tolist())
        if (rows < 0).any():
            before, after = _neighbours(known, start, stop)
            found.update(numbers[(lines > before) & (lines < after)].tolist())
    return found


def _neighbours(known: Int64[np.ndarray, " nmol"], start: int, stop: int) -> tuple[float, float]:
    """Lines of the nearest molecules before and after some rows that are known."""
    before, after = known[:start][known[:start] >= 0], known[stop:][known[stop:] >= 0]
    return (before[-1] if before.size else -np.inf), (after[0] if after.size else np.inf)


def _by_row(
    records: Sequence[MoleculeRecord], known: Int64[np.ndarray, " nmol"], path: Path
) -> dict[int, MoleculeRecord]:
    """Rows of the store that molecules belong to."""
    rows = {int(line): row for row, line in enumerate(known) if line >= 0}
    result = {rows[r.line]: r for r in records if r.line in rows}
    unknown = np.flatnonzero(known < 0)
    for run in np.split(unknown, np.flatnonzero(np.diff(unknown) > 1) + 1) if unknown.size else ():
        start, stop = int(run[0]), int(run[-1]) + 1
        before, after = _neighbours(known, start, stop)
        between = [record for record in records if before < record.line < after]
        if len(between) != stop - start:
            raise StoreError(
                f"{path} can't be repaired: {stop - start} molecules are lost, and {len(between)} "
                "were made again; run qmgen generate to another output"
            )
        result |= dict(zip(range(start, stop), between, strict=True))
    return result


def _put_in_place(
    found: Verification, lost: dict[str, list[Rows]], again: _Again, folder: Path
) -> bool:
    """Write the lost elements, or, if those differ, all labels of their molecules."""
    assert found.metadata is not None
    files = read_manifest(found.path, found.metadata.schema_version)
    made = patched_shards(found, lost, again.records, again.failures, folder)
    if all(entry_of(file) == files[name] for name, file in made.items()):
        put_all(found.path, made)
        return True
    rows = merged(Rows(row, row + 1) for row in again.records)
    more = all_elements(found, rows)
    whole = {n: [*merged([*lost.get(n, ()), *more.get(n, ())])] for n in {*lost, *more}}
    made = patched_shards(found, whole, again.records, again.failures, folder)
    put_all(found.path, made)
    some = ", ".join(str(record.line) for record in list(again.records.values())[:5])
    more_lines = ", ..." * (len(again.records) > 5)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    note = (
        f"{len(again.records)} molecules (lines {some}{more_lines}) were labelled again after "
        f"damage, and not bit for bit as before, with {versions}."
    )
    files |= {name: entry_of(found.path / name) for name in made}
    metadata = with_note(found.metadata, note)
    counts = metadata.counts.model_copy(update={"converged": count_converged(found)})
    metadata = metadata.model_copy(update={"counts": counts})
    replace_root(found.path, metadata, files, folder)
    return False
