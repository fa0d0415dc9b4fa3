"""A whole run: plan, label on Dask, commit batch by batch, and put the store together."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from qmgen.dataset import (
    RUN_FILE,
    Provenance,
    StoreMetadata,
    collect_provenance,
    config_hash,
    file_sha256,
    open_dataset,
    write_store,
)
from qmgen.dataset.manifest import LOCK
from qmgen.dataset.provenance import PACKAGES
from qmgen.dft.dispersion import PACKAGE_OF, check_dispersion
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import InputError, StoreError, StoreMismatchError
from qmgen.generate.assembly import finished_records
from qmgen.generate.cluster import connect
from qmgen.generate.config import RunConfig
from qmgen.generate.lock import store_lock
from qmgen.generate.parts import DamagedPartError, is_complete, save_part
from qmgen.generate.plan import Batch, Plan
from qmgen.generate.planning import build_plan
from qmgen.generate.progress import Progress
from qmgen.generate.run_log import RunLog, publish
from qmgen.generate.schedule import run_batches
from qmgen.generate.spin import spin_label_names, with_spin_columns
from qmgen.generate.worker import LabelledSlice

PLAN, PARTS = "plan.sqlite", "parts"


@dataclass(frozen=True)
class RunSummary:
    """Outcome of `generate`; ``resumed_batches`` had been finished by earlier attempts."""

    path: Path
    metadata: StoreMetadata
    unsuited_molecules: int
    resumed_batches: int
    batches: int
    already_complete: bool


def generate(
    source: Path,
    output: Path,
    config: RunConfig,
    *,
    smiles_column: str | None = None,
    progress: Progress | None = None,
    guess: OrbitalGuess | None = None,
    log: Path | None = None,
) -> RunSummary:
    """Label every molecule of a file and write the dataset.

    The folder ``output`` holds the run's own files until it becomes the store. Each batch is
    committed on its own; whatever ends the run early, the same call goes on from there, and the
    store's content is the same as without interruption.

    Parameters
    ----------
    source
        Molecules: .smi, .csv, .sdf or .xyz.
    output
        The store to make, or the folder of an unfinished run of it.
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

    Raises
    ------
    InputError
        The input can't be read, or nothing in it can be labelled.
    ConfigError, MissingExtraError
        Dispersion is asked for and can't be had, see `qmgen.dft.dispersion.check_dispersion`.
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
    identity = _identity(source, science, smiles_column)
    finished = _finished(output, identity)
    if finished is not None:
        unsuited = 0
        if (output / RUN_FILE).exists() or (output / LOCK).exists():
            with store_lock(output):
                unsuited = _tidy(output)
        return RunSummary(output, finished, unsuited, 0, 0, already_complete=True)
    events = RunLog(log)
    created = _enter(output, identity)
    with store_lock(output):
        try:
            plan = _plan(source, output, config, smiles_column, progress)
        except BaseException:
            if created:
                # Nothing was done yet, so a mistake in the command leaves nothing behind.
                shutil.rmtree(output, ignore_errors=True)
            raise
        counts = plan.counts()
        parts = output / PARTS
        events.event("start", output=str(output), input=str(source), **asdict(counts))
        resumed = label_missing(plan, parts, config, progress, guess, events)
        provenance = run_provenance(source, config, science)
        while True:
            progress.stage("writing the store")
            try:
                metadata = _assemble(plan, parts, output, config, provenance)
                break
            except DamagedPartError as error:
                progress.stage(str(error))
                events.event("damaged", reason=str(error))
                label_missing(plan, parts, config, progress, guess, events)
        events.event("end", output=str(output), conformers=metadata.counts.conformers)
        _tidy(output)
    return RunSummary(
        output, metadata, counts.unsuited, resumed, counts.batches, already_complete=False
    )


def _identity(source: Path, science: dict[str, Any], smiles_column: str | None) -> dict[str, str]:
    """Tell what two calls must share to be the same run."""
    try:
        digest = file_sha256(source)
    except OSError as error:
        raise InputError(
            f"can't read the input {source}: {error.strerror}; give a file of molecules"
        ) from error
    return {
        "configuration": config_hash(science),
        "input": digest,
        "smiles_column": smiles_column or "",
    }


def _finished(output: Path, identity: dict[str, str]) -> StoreMetadata | None:
    """Metadata of the store if it is there already and is what this run would make."""
    if not (output / "zarr.json").exists():
        return None
    metadata = open_dataset(output).metadata
    found = {
        "configuration": metadata.provenance.config_hash,
        "input": metadata.provenance.source.sha256,
    }
    _compare(output, found, identity)
    return metadata


def _compare(output: Path, found: dict[str, str], identity: dict[str, str]) -> None:
    other = [name for name, value in found.items() if identity[name] != value]
    if other:
        raise StoreMismatchError(
            f"{output} exists and was made with another {' and '.join(other)}; choose another "
            "output, delete it, or repeat the command that made it"
        )


def _enter(output: Path, identity: dict[str, str]) -> bool:
    """Make the run's folder, or check that it is this run's; says whether it was made."""
    marker = output / RUN_FILE
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StoreError(
                f"{marker} is damaged ({error}); delete {output} to start again"
            ) from error
        _compare(output, found, identity)
        return False
    # All that a process leaves which was killed while it made the marker.
    temporary = marker.with_suffix(".tmp")
    if output.exists() and (not output.is_dir() or any(p != temporary for p in output.iterdir())):
        raise StoreError(f"{output} exists and is no qmgen dataset; choose another output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
        os.replace(temporary, marker)
    except OSError as error:
        raise StoreError(f"can't make {output}: {error.strerror}; choose another output") from error
    return True


def _plan(
    source: Path, output: Path, config: RunConfig, smiles_column: str | None, progress: Progress
) -> Plan:
    progress.stage(f"reading {source.name}")
    return build_plan(
        source,
        output / PLAN,
        config,
        smiles_column=smiles_column,
        progress=progress.records_read,
    )


def label_missing(
    plan: Plan,
    parts: Path,
    config: RunConfig,
    progress: Progress,
    guess: OrbitalGuess | None,
    events: RunLog,
    complete: Callable[[Batch], Batch] = lambda batch: batch,
) -> int:
    """Label what no earlier attempt finished; gives the number of batches that one did.

    Parameters
    ----------
    plan
        What there is to do.
    parts
        Folder of finished batches.
    config
        Of the run.
    progress
        Told how the labelling goes on.
    guess
        Predicts orbitals to start from.
    events
        Told of each batch.
    complete
        Gives a batch what the plan does not have of it, just before it is handed out.

    Raises
    ------
    ClusterError
        The cluster was lost.
    StoreError
        The disk is full.
    """
    counts = plan.counts()
    done = Counter[str]()
    for number, conformers in plan.batch_sizes():
        if is_complete(parts, number):
            done.update(batches=1, conformers=conformers)
    missing = counts.batches - done["batches"]
    progress.start_labelling(counts.conformers, done["conformers"], counts.molecules)
    if missing:
        with connect(config.cluster, missing) as cluster:
            progress.stage(cluster.description)
            batches = (
                complete(plan.batch(number))
                for number, _ in plan.batch_sizes()
                if not is_complete(parts, number)
            )
            committed = done["conformers"]
            for batch, slices in run_batches(cluster, batches, config, guess):
                save_part(parts, batch.number, slices)
                committed += batch.num_conformers
                progress.batch_done(batch.num_conformers)
                events.event("batch", batch=batch.number, **_outcome(slices))
                publish(
                    cluster.client,
                    {"conformers_committed": committed, "conformers_planned": counts.conformers},
                )
    progress.end_labelling()
    return done["batches"]


def _outcome(slices: list[LabelledSlice]) -> dict[str, Any]:
    """What the log says of a batch."""
    failures = [failure for part in slices for failure in part.failures]
    return {
        "conformers": sum(part.record.num_conformers for part in slices if part.record),
        "failures": [{"line": f.line, "stage": f.stage, "reason": f.reason} for f in failures],
    }


def _assemble(
    plan: Plan, parts: Path, output: Path, config: RunConfig, provenance: Provenance
) -> StoreMetadata:
    records, optional_labels = finished_records(plan, parts), config.labels.optional_labels
    if config.method == "dft" and plan.has_open_shells():
        records = (with_spin_columns(record, config.labels) for record in records)
        optional_labels += spin_label_names(config.labels)
    return write_store(
        output,
        records,
        plan.failures(),
        provenance,
        split_seed=config.split.seed,
        split_fractions=config.split.fractions,
        optional_labels=optional_labels,
        precision=config.storage.precision,
        notes=config.notes(),
        rejected=plan.rejected_by_reason(),
        into_run=True,
    )


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


def _tidy(output: Path) -> int:
    """Remove the run's own files from a finished store."""
    unsuited = Plan(output / PLAN).counts().unsuited if (output / PLAN).exists() else 0
    shutil.rmtree(output / PARTS, ignore_errors=True)
    for name in (PLAN, f"{PLAN}-journal", RUN_FILE):
        (output / name).unlink(missing_ok=True)
    return unsuited
