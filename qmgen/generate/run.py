"""A whole run: plan, label on Dask, commit batch by batch, and put the store together."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from qmgen.dataset import (
    Place,
    Provenance,
    RemotePath,
    StoreMetadata,
    collect_provenance,
    place_of,
    write_store,
)
from qmgen.dataset.provenance import PACKAGES
from qmgen.dft.dispersion import PACKAGE_OF, check_dispersion
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.generate.assembly import finished_records
from qmgen.generate.claim import Claim, claimed
from qmgen.generate.cluster import connect
from qmgen.generate.commit import Receipt, SharedParts, leave_mark, receipt_of
from qmgen.generate.config import RunConfig
from qmgen.generate.lock import store_lock
from qmgen.generate.parts import DamagedPartError, save_part, with_completeness
from qmgen.generate.plan import Batch, Plan
from qmgen.generate.planning import build_plan
from qmgen.generate.progress import Progress
from qmgen.generate.run_folder import (
    RunFolder,
    discard,
    enter,
    finished_store,
    folder_of,
    identity_of,
    tidy,
    tidy_finished,
)
from qmgen.generate.run_log import RunLog, publish
from qmgen.generate.schedule import run_batches
from qmgen.generate.spin import spin_label_names, with_spin_columns

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RunSummary:
    """Outcome of `generate`; ``resumed_batches`` had been finished by earlier attempts."""

    path: Place
    metadata: StoreMetadata
    unsuited_molecules: int
    resumed_batches: int
    batches: int
    already_complete: bool


def generate(
    source: Path,
    output: str | os.PathLike[str],
    config: RunConfig,
    *,
    smiles_column: str | None = None,
    progress: Progress | None = None,
    guess: OrbitalGuess | None = None,
    log: Path | None = None,
    work: Path | None = None,
) -> RunSummary:
    """Label every molecule of a file and write the dataset.

    The folder ``output`` holds the run's own files until it becomes the store; of a URL, the folder
    ``work`` does. Each batch is committed on its own, by the workers themselves if the
    configuration says where; whatever ends the run early, the same call goes on from there, and
    the store's content is the same as without interruption.

    Parameters
    ----------
    source
        Molecules: .smi, .csv, .sdf or .xyz.
    output
        The store to make, or the folder of an unfinished run of it; or a URL that fsspec knows,
        such as ``s3://bucket/name.zarr``.
    config
        Of the run.
    smiles_column
        Column of a csv file.
    progress
        Told how the run goes on.
    guess
        Predicts orbitals that the SCF of each molecule's first conformers starts from. It is part
        of what the dataset is made with, as labels depend on it within the thresholds.
    log
        File that events are appended to as lines of JSON.
    work
        Folder for the run's own files if the output is a URL; by default one of its name, followed
        by ``.qmgen-run``, in the current directory.

    Raises
    ------
    InputError
        The input can't be read, or nothing in it can be labelled.
    ConfigError, MissingExtraError
        Dispersion is asked for and can't be had, see `qmgen.dft.dispersion.check_dispersion`; or
        the package is missing that a URL needs, or ``work`` is given for a folder.
    StoreMismatchError
        The output exists and comes from another configuration or input, or another process is
        writing it.
    StoreError
        The output exists and is something else, or the disk is full.
    """
    progress = progress or Progress()
    if config.labels.dispersion is not None:
        check_dispersion(config.labels.dispersion, config.dft.functional)
    science = config.science() | ({} if guess is None else {"guess": guess.identity})
    identity = identity_of(source, science, smiles_column)
    place = place_of(output)
    path = folder_of(place, work)
    finished = finished_store(place, identity)
    if finished is not None:
        unsuited = tidy_finished(place, path)
        return RunSummary(place, finished, unsuited, 0, 0, already_complete=True)
    events = RunLog(log)
    folder = enter(path, place, identity, config.cluster.parts)
    shared = SharedParts(folder.parts, folder.run) if folder.shared else None
    with ExitStack() as stack:
        stack.enter_context(store_lock(path))
        claim = None
        try:
            if isinstance(place, RemotePath):
                claim = stack.enter_context(claimed(place, identity, folder.run))
            if shared is not None:
                leave_mark(shared)
            plan = _plan(source, folder, config, smiles_column, progress)
        except BaseException:
            if folder.created:
                # Nothing was done yet, so a mistake in the command leaves nothing behind.
                discard(folder)
                if claim is not None:
                    claim.withdraw()
            raise
        counts = plan.counts()
        events.event("start", output=str(output), input=str(source), **asdict(counts))

        def label() -> int:
            parts = folder.parts
            return label_missing(
                plan, parts, config, progress, guess, events, shared=shared, claim=claim
            )

        resumed = label()
        provenance = run_provenance(source, config, science)
        while True:
            progress.stage("writing the store")
            try:
                metadata = _assemble(plan, folder.parts, place, config, provenance, claim)
                break
            except DamagedPartError as error:
                progress.stage(str(error))
                events.event("damaged", reason=str(error))
                label()
        events.event("end", output=str(output), conformers=metadata.counts.conformers)
        if claim is not None:
            claim.withdraw()
        tidy(place, path)
    return RunSummary(
        place, metadata, counts.unsuited, resumed, counts.batches, already_complete=False
    )


def _plan(
    source: Path,
    folder: RunFolder,
    config: RunConfig,
    smiles_column: str | None,
    progress: Progress,
) -> Plan:
    progress.stage(f"reading {source.name}")
    return build_plan(
        source,
        folder.plan,
        config,
        smiles_column=smiles_column,
        progress=progress.records_read,
    )


def label_missing(
    plan: Plan,
    parts: Place,
    config: RunConfig,
    progress: Progress,
    guess: OrbitalGuess | None,
    events: RunLog,
    *,
    shared: SharedParts | None = None,
    claim: Claim | None = None,
    complete: Callable[[Batch], Batch] = lambda batch: batch,
) -> int:
    """Label what no earlier attempt finished; gives the number of batches that one did.

    Parameters
    ----------
    plan
        What there is to do.
    parts
        Where finished batches are.
    config
        Of the run.
    progress
        Told how the labelling goes on.
    guess
        Predicts orbitals to start from.
    events
        Told of each batch.
    shared
        Those parts, if workers put batches there themselves.
    claim
        What says that the output is still this run's.
    complete
        Gives a batch what the plan does not have of it, just before it is handed out.

    Raises
    ------
    ClusterError
        The cluster was lost.
    StoreError
        The disk is full.
    StoreMismatchError
        Another run has taken the output.
    """
    counts = plan.counts()
    done = Counter[str]()
    for _, conformers, finished in with_completeness(parts, plan.batch_sizes()):
        if finished:
            done.update(batches=1, conformers=conformers)
    missing = counts.batches - done["batches"]
    progress.start_labelling(counts.conformers, done["conformers"], counts.molecules)
    if missing:
        batches = (
            complete(plan.batch(number))
            for number, _, finished in with_completeness(parts, plan.batch_sizes())
            if not finished
        )
        # SQLite wants the plan closed in the thread that opened it.
        with connect(config.cluster, missing) as cluster, closing(batches):
            progress.stage(cluster.description)
            committed = done["conformers"]
            for batch, result in run_batches(cluster, batches, config, guess, shared):
                if claim is not None:
                    claim.check()
                if not isinstance(result, Receipt):
                    save_part(parts, batch.number, result)
                    result = receipt_of(batch.number, result)
                committed += batch.num_conformers
                progress.batch_done(batch.num_conformers)
                events.event("batch", batch=batch.number, **_outcome(result))
                publish(
                    cluster.client,
                    {"conformers_committed": committed, "conformers_planned": counts.conformers},
                )
    progress.end_labelling()
    return done["batches"]


def _outcome(receipt: Receipt) -> dict[str, Any]:
    """What the log says of a batch."""
    return {
        "conformers": sum(count for _, count in receipt.conformers),
        "failures": [
            {"line": f.line, "stage": f.stage, "reason": f.reason} for f in receipt.failures
        ],
    }


def _assemble(
    plan: Plan,
    parts: Place,
    output: Place,
    config: RunConfig,
    provenance: Provenance,
    claim: Claim | None,
) -> StoreMetadata:
    records, optional_labels = finished_records(plan, parts), config.labels.optional_labels
    if config.method == "dft" and plan.has_open_shells():
        records = (with_spin_columns(record, config.labels) for record in records)
        optional_labels += spin_label_names(config.labels)
    return write_store(
        str(output),
        _while_ours(records, claim),
        _while_ours(plan.failures(), claim),
        provenance,
        split_seed=config.split.seed,
        split_fractions=config.split.fractions,
        optional_labels=optional_labels,
        precision=config.storage.precision,
        notes=config.notes(),
        rejected=plan.rejected_by_reason(),
        into_run=True,
    )


def _while_ours(items: Iterator[_Item], claim: Claim | None) -> Iterator[_Item]:
    """Give the same items as long as the output is this run's; make sure at the end."""
    for item in items:
        if claim is not None:
            claim.check()
        yield item
    if claim is not None:
        claim.check(ask=True)


def run_provenance(source: Path, config: RunConfig, science: dict[str, Any]) -> Provenance:
    """Facts about this run, for the store to keep."""
    model = config.labels.dispersion
    return collect_provenance(
        config=science,
        seed=config.seed,
        source=source,
        command=" ".join(["qmgen", *sys.argv[1:]]),
        devices=[f"{d.platform} {d.device_kind}" for d in jax.devices()],
        packages=PACKAGES if model is None else (*PACKAGES, PACKAGE_OF[model]),
    )
