"""Adds the molecules of another input to a finished store."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from qmgen.dataset import (
    Dataset,
    MoleculeRecord,
    Provenance,
    StoreMetadata,
    file_sha256,
    stored_records,
)
from qmgen.dataset.growth import Grown, complete, discard, stage, write_molecules
from qmgen.dataset.metadata import Counts, Part
from qmgen.dataset.places import local_folder
from qmgen.dataset.rounding import rounded
from qmgen.dataset.stored import stored_molecules
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import InputError, StoreError
from qmgen.generate.append_job import enter, growing, leave, unfinished
from qmgen.generate.assembly import finished_records
from qmgen.generate.config import ClusterConfig, RunConfig
from qmgen.generate.origin import stored_run_config
from qmgen.generate.parts import DamagedPartError
from qmgen.generate.plan import Plan
from qmgen.generate.planning import build_plan
from qmgen.generate.progress import Progress
from qmgen.generate.run import label_missing, run_provenance
from qmgen.generate.run_folder import PARTS, PLAN
from qmgen.generate.run_log import RunLog
from qmgen.generate.segments import (
    DUPLICATE,
    NO_SPINS,
    geometry_identity,
    has_geometries,
    identity_digest,
    joined_provenance,
    parts_of,
    segments,
    smiles_identity,
)
from qmgen.generate.spin import spin_label_names, with_spin_columns
from qmgen.molecules import Molecule
from qmgen.units import BOHR_PER_ANGSTROM


@dataclass(frozen=True)
class AppendSummary:
    """Outcome of an append.

    Attributes
    ----------
    metadata : StoreMetadata
        Of the store as it is now.
    molecules, conformers, failures : int
        How many were added.
    duplicates : int
        Molecules that the store had already; failures list them.
    already_complete : bool
        Whether there was nothing left to do.
    """

    metadata: StoreMetadata
    molecules: int = 0
    conformers: int = 0
    failures: int = 0
    duplicates: int = 0
    already_complete: bool = False


def append_molecules(
    store: str | os.PathLike[str],
    source: Path,
    cluster: ClusterConfig | None = None,
    *,
    smiles_column: str | None = None,
    progress: Progress | None = None,
    guess: OrbitalGuess | None = None,
    log: Path | None = None,
) -> AppendSummary:
    """Label the molecules of another input with a store's own configuration, and add them.

    What the store has stays as it is, but for the last shard of each array, the manifest and the
    root's metadata. Molecules that it has already, in the sense of `qmgen.generate.merge`, are left
    out and listed as failures, and so are open shells where the store has no labels of spins. A
    new molecule gets the split that the hash of its SMILES falls in, whatever else is appended.

    The folder ``growth`` of the store holds what is under way. Whatever ends it early, the store
    opens as it was or as it will be, and the same call goes on.

    Parameters
    ----------
    store
        The store.
    source
        Molecules: .smi, .csv, .sdf or .xyz.
    cluster
        Where to label; its ``parts`` is not used, as this process commits all batches.
    smiles_column
        Column of a csv file.
    progress
        Told how it goes on.
    guess
        Predicts orbitals to start from; that of the store's run, if it had one.
    log
        File that events are appended to as lines of JSON.

    Raises
    ------
    InputError
        The input can't be read, or nothing in it can be added.
    StoreMismatchError
        Another append is unfinished, another process is writing the store, or `guess` is not the
        run's.
    StoreError
        The store is damaged, incomplete, imported, of an early version or has labels at other
        levels; or the disk is full.
    """
    store = local_folder(store)
    progress, events = progress or Progress(), RunLog(log)
    try:
        digest = file_sha256(source)
    except OSError as error:
        raise InputError(
            f"can't read the input {source}: {error.strerror}; give a file of molecules"
        ) from error
    with growing(store) as dataset:
        metadata = dataset.metadata
        job = {"what": f"the molecules of {source.name}", "input": digest}
        job |= {"smiles_column": smiles_column or ""}
        if any(part.source.sha256 == digest for part in parts_of(metadata)):
            if unfinished(store) == job:
                leave(store)
            return AppendSummary(metadata, already_complete=True)
        config = stored_run_config(store, metadata, guess)
        config = config.model_copy(update={"cluster": cluster or ClusterConfig()})
        _check_levels(store, metadata)
        folder = enter(store, job)
        plan = _plan(store, dataset, source, folder, config, smiles_column, progress)
        events.event("start", output=str(store), input=str(source), **vars(plan.counts()))
        provenance = run_provenance(source, config, metadata.provenance.config)
        while True:
            label_missing(plan, folder / PARTS, config, progress, guess, events)
            progress.stage("writing the new shards")
            try:
                grown = write_molecules(
                    store, _records(plan, folder, config, metadata), plan.failures()
                )
                break
            except DamagedPartError as error:
                progress.stage(str(error))
                events.event("damaged", reason=str(error))
                discard(store)
        after, duplicates = _grown(metadata, grown, plan, provenance)
        stage(store, after)
        complete(store)
        leave(store)
        events.event("end", output=str(store), conformers=after.counts.conformers)
    return AppendSummary(after, grown.molecules, grown.conformers, grown.failures, duplicates)


def _check_levels(store: Path, metadata: StoreMetadata) -> None:
    if metadata.levels:
        names = ", ".join(level.name for level in metadata.levels)
        raise StoreError(
            f"{store} has labels at other levels ({names}), which further molecules would lack; "
            "make a dataset of those with qmgen generate, append the same labels to it, and join "
            "both with qmgen merge"
        )


def _plan(
    store: Path,
    dataset: Dataset,
    source: Path,
    folder: Path,
    config: RunConfig,
    smiles_column: str | None,
    progress: Progress,
) -> Plan:
    path = folder / PLAN
    if path.exists():
        return Plan(path)
    progress.stage(f"reading {source.name}")
    try:
        return build_plan(
            source,
            path,
            config,
            smiles_column=smiles_column,
            progress=progress.records_read,
            refused=_refused(dataset, source, config),
        )
    except BaseException:
        # Nothing was done yet, so a mistake in the command leaves nothing behind.
        leave(store)
        raise


def _refused(dataset: Dataset, source: Path, config: RunConfig) -> Callable[[Molecule], str | None]:
    """What says why a molecule can't be added; holds about 100 bytes for each of the store's."""
    geometries = has_geometries(source.name)
    known = {*_known(dataset, geometries)}
    has_spins = config.method != "dft" or "spin_square" in dataset.columns
    bound = config.storage.precision.get("pos")

    def refused(molecule: Molecule) -> str | None:
        charge, spin = molecule.charge, molecule.spin
        if molecule.positions_angstrom is None:
            identity = smiles_identity(molecule.smiles, charge, spin)
        else:
            positions = molecule.positions_angstrom * BOHR_PER_ANGSTROM
            if bound is not None:
                positions = rounded(positions, bound)
            z = molecule.atomic_numbers.astype(np.uint8)
            identity = geometry_identity(z, positions, charge, spin)
        if identity_digest(identity) in known:
            return DUPLICATE
        if spin and not has_spins:
            return NO_SPINS
        return None

    return refused


def _known(dataset: Dataset, geometries: bool) -> Iterator[bytes]:
    """Identities of the store's molecules, of those that were given as the new ones are."""
    alike = [s for s in segments(dataset) if has_geometries(s.part.source.name) == geometries]
    if not alike:
        return
    if geometries:
        rows = {row for segment in alike for row in segment.molecules}
        for row, record in enumerate(stored_records(str(dataset.path))):
            if row in rows and record.num_conformers:
                first = record.conformers["pos"][0]
                identity = geometry_identity(record.z, first, record.charge, record.spin)
                yield identity_digest(identity)
        return
    for segment in alike:
        columns = ("smile", "charge", "spin")
        for values in stored_molecules(str(dataset.path), columns, segment.molecules):
            yield identity_digest(smiles_identity(*values))


def _records(
    plan: Plan, folder: Path, config: RunConfig, metadata: StoreMetadata
) -> Iterator[MoleculeRecord]:
    records = finished_records(plan, folder / PARTS)
    if config.method == "dft" and {*spin_label_names(config.labels)} & {*metadata.optional_labels}:
        return (with_spin_columns(record, config.labels) for record in records)
    return records


def _grown(
    metadata: StoreMetadata, grown: Grown, plan: Plan, provenance: Provenance
) -> tuple[StoreMetadata, int]:
    """Metadata of the store as it will be, and the number of molecules that it had already."""
    rejected = plan.rejected_by_reason()
    duplicates = sum(failure.reason == DUPLICATE for failure in plan.failures())
    counts = metadata.counts
    part = Part(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=provenance.source,
        versions=provenance.versions,
        hardware=provenance.hardware,
        command=provenance.command,
        counts=Counts(
            molecules=grown.molecules + duplicates,
            conformers=grown.conformers,
            converged=grown.converged,
            failures=grown.failures - duplicates,
            rejected=rejected,
        ),
        duplicates=duplicates,
    )
    changes = {
        "created": part.created,
        "provenance": joined_provenance(
            [metadata.provenance, provenance], " ".join(["qmgen", *sys.argv[1:]])
        ),
        "parts": (*parts_of(metadata), part),
        "counts": Counts(
            molecules=counts.molecules + grown.molecules,
            conformers=counts.conformers + grown.conformers,
            converged=counts.converged + grown.converged,
            failures=counts.failures + grown.failures,
            rejected=dict(Counter(counts.rejected) + Counter(rejected)),
        ),
    }
    return metadata.model_copy(update=changes), duplicates
