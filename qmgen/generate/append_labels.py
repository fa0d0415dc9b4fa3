"""Adds labels at another level of theory to the conformers of a finished store."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qmgen.dataset import Dataset, Failure, StoreMetadata, config_hash
from qmgen.dataset.growth import complete, discard, stage, write_labels
from qmgen.dataset.layout import layout
from qmgen.dataset.metadata import Level
from qmgen.dataset.places import local_folder
from qmgen.dataset.provenance import PACKAGES, describe_hardware, package_versions
from qmgen.dataset.schema import LEVEL_LABELS, SCHEMA_VERSION, Field, label_at
from qmgen.dataset.stored import stored_molecules, stored_sizes
from qmgen.dft.basis_file import basis_title
from qmgen.dft.dispersion import PACKAGE_OF, check_dispersion
from qmgen.errors import ConfigError, StoreMismatchError
from qmgen.generate.append import AppendSummary
from qmgen.generate.append_job import enter, growing, leave, unfinished
from qmgen.generate.assembly import finished_molecules
from qmgen.generate.config import LabelConfig, RunConfig
from qmgen.generate.parts import DamagedPartError
from qmgen.generate.plan import Batch, Plan
from qmgen.generate.planning import build_stored_plan
from qmgen.generate.progress import Progress
from qmgen.generate.run import label_missing
from qmgen.generate.run_folder import PARTS, PLAN
from qmgen.generate.run_log import RunLog
from qmgen.generate.segments import has_geometries, segments
from qmgen.molecules import Molecule


def append_labels(
    store: str | os.PathLike[str],
    labels: Sequence[str],
    config: RunConfig,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    log: Path | None = None,
) -> AppendSummary:
    """Compute labels of a store's conformers at another level, and add them as arrays.

    The arrays are called ``<label>@<level>``, have the store's rows, and NaN where a label failed,
    which the failures then list. Nothing that the store has changes, but for the failures, the
    manifest and the root's metadata; what is said of interruption in
    `qmgen.generate.append_molecules` holds here, too.

    Parameters
    ----------
    store
        The store.
    labels
        Some of `qmgen.dataset.schema.LEVEL_LABELS`.
    config
        Its sections ``dft`` and ``labels`` and its ``method`` are the level, ``cluster`` and
        ``batch_conformers`` say how the work is done; the rest is not used.
    name
        Of the level; functional, basis and grid level by default (`level_name`).
    progress
        Told how it goes on.
    log
        File that events are appended to as lines of JSON.

    Raises
    ------
    ConfigError
        There is no such label, or the level or its name can't be.
    StoreMismatchError
        The store has the label at a level of that name and another configuration, another append
        is unfinished, or another process is writing the store.
    StoreError
        The store is damaged, incomplete or of an early version; or the disk is full.
    """
    store = local_folder(store)
    progress, events = progress or Progress(), RunLog(log)
    config = _checked(labels, config)
    level = _level(labels, config, name or level_name(config))
    with growing(store) as dataset:
        metadata = dataset.metadata
        job = {"what": f"{', '.join(level.labels)} at the level {level.name}"}
        job |= {"level": level.name, "configuration": level.config_hash}
        job |= {"rows": str(metadata.counts.conformers)}
        if _has(store, metadata, level):
            if unfinished(store) == job:
                leave(store)
            return AppendSummary(metadata, already_complete=True)
        folder = enter(store, job)
        progress.stage("reading the molecules of the dataset")
        plan = build_stored_plan(_molecules(dataset), folder / PLAN, config)
        fields = _fields(metadata, level)
        while True:
            parts, given = folder / PARTS, _positions_of(dataset)
            label_missing(plan, parts, config, progress, None, events, complete=given)
            progress.stage("writing the new arrays")
            try:
                values = _values(dataset, plan, parts, level, fields)
                grown = write_labels(store, fields, values, _failures(plan, level))
                break
            except DamagedPartError as error:
                progress.stage(str(error))
                events.event("damaged", reason=str(error))
                discard(store)
        after = _after(metadata, level, grown.failures)
        stage(store, after)
        complete(store)
        leave(store)
        events.event("end", output=str(store), conformers=after.counts.conformers)
    return AppendSummary(after, failures=grown.failures)


def level_name(config: RunConfig) -> str:
    """Name of a level: functional, basis and grid level, such as ``b3lyp_def2-svp_3``.

    A star of a basis becomes an ``s``, other signs a hyphen; a basis from a file is called by the
    digest of its text.
    """
    if config.method != "dft":
        return config.method
    title = basis_title(config.dft.basis).lower().replace("*", "s")
    basis = re.sub(r"[^a-z0-9+.]+", "-", title.replace("from a file", "file")).strip("-")
    return f"{config.dft.functional}_{basis}_{config.dft.grid_level}"


def _checked(labels: Sequence[str], config: RunConfig) -> RunConfig:
    """Configuration that computes the labels and no others."""
    unknown = sorted(set(labels) - set(LEVEL_LABELS))
    if unknown or not labels:
        what = f"no label {unknown[0]!r} can be appended" if unknown else "no label is asked for"
        raise ConfigError(f"{what}; there are {', '.join(LEVEL_LABELS)}")
    dispersed = any(label.startswith("dispersion") for label in labels)
    if dispersed and config.labels.dispersion is None:
        raise ConfigError(
            "dispersion labels need a model: give a configuration with labels: {dispersion: d4}"
        )
    forces = "forces" in labels or "dispersion_forces" in labels
    own = LabelConfig(
        forces=forces,
        forces_grid_response=forces and config.labels.forces_grid_response,
        dispersion=config.labels.dispersion if dispersed else None,
    )
    if own.dispersion is not None:
        check_dispersion(own.dispersion, config.dft.functional)
    checked = config.model_dump() | {"labels": own.model_dump()}
    if config.method == "mmff94" and not {*labels} <= {"energy", "forces"}:
        raise ConfigError("method mmff94 has no labels but energies and forces")
    return RunConfig.model_validate(checked)


def _level(labels: Sequence[str], config: RunConfig, name: str) -> Level:
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ConfigError(
            f"{name!r} can't be the name of a level: letters, digits and the signs _ . + - only"
        )
    science = config.science()
    science = {part: science[part] for part in ("method", "dft", "labels") if part in science}
    versions: tuple[str, ...] = PACKAGES
    if config.labels.dispersion is not None:
        versions = (*versions, PACKAGE_OF[config.labels.dispersion])
    return Level(
        name=name,
        labels=tuple(label for label in LEVEL_LABELS if label in labels),
        config=science,
        config_hash=config_hash(science),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(versions),
        hardware=describe_hardware([f"{d.platform} {d.device_kind}" for d in jax.devices()]),
        command=" ".join(["qmgen", *sys.argv[1:]]),
    )


def _has(store: Path, metadata: StoreMetadata, level: Level) -> bool:
    """Whether the store has just these labels already."""
    for other in metadata.levels:
        if other.name == level.name:
            if (other.config_hash, other.labels) == (level.config_hash, level.labels):
                return True
            raise StoreMismatchError(
                f"{store} has {', '.join(other.labels)} at a level {level.name} already; choose "
                "another name with --name"
            )
    return False


def _fields(metadata: StoreMetadata, level: Level) -> dict[str, Field]:
    names = [label_at(label, level.name) for label in level.labels]
    conformers = layout((), (level,), metadata.precision)["conformers"]
    return {name: conformers[name] for name in names}


def _molecules(dataset: Dataset) -> Iterator[tuple[int, Molecule, int]]:
    """Row, molecule and conformers of each molecule of the store."""
    geometries = np.zeros(dataset.num_molecules, bool)
    for segment in segments(dataset):
        rows = slice(segment.molecules.start, segment.molecules.stop)
        geometries[rows] = has_geometries(segment.part.source.name)
    if dataset.metadata.provenance.imported is not None:
        geometries[:] = True
    columns = ("smile", "charge", "spin", "line", "source_id")
    path = str(dataset.path)
    known = zip(stored_molecules(path, columns), stored_sizes(path), strict=True)
    for row, (values, (z, conformers)) in enumerate(known):
        smile, charge, spin, line, source_id = values
        # That the atoms are in RDKit's order of the SMILES is certain only where that was given.
        given = np.zeros((len(z), 3)) if geometries[row] else None
        numbers = z.astype(np.int64)
        yield row, Molecule(smile, numbers, charge, spin, line, source_id, given), conformers


def _positions_of(dataset: Dataset) -> Callable[[Batch], Batch]:
    """What gives batches the positions that the store has."""

    def with_positions(batch: Batch) -> Batch:
        slices = []
        for part in batch.slices:
            first = dataset.conformers_of(part.number).start
            rows = slice(first + part.start, first + part.stop)
            block = dataset.batch(rows, ["pos", "index"])
            positions = block["pos"].reshape(part.stop - part.start, -1, 3)
            slices.append(replace(part, positions=positions, conformers=block["index"]))
        return replace(batch, slices=tuple(slices))

    return with_positions


def _values(
    dataset: Dataset, plan: Plan, parts: Path, level: Level, fields: Mapping[str, Field]
) -> Iterator[dict[str, np.ndarray]]:
    """Labels of each molecule's conformers; NaN where the SCF did not converge."""
    done = finished_molecules(plan, parts)
    following = next(done, None)
    for row, (z, conformers) in enumerate(stored_sizes(str(dataset.path))):
        values = {}
        for name, field in fields.items():
            inner = (len(z), *field.item_shape) if field.offset else field.item_shape
            values[name] = np.full((conformers, *inner), np.nan)
        if following is not None and following[0] == row:
            labelled = following[1].conformers
            good = labelled["converged"]
            for label, column in zip(level.labels, values.values(), strict=True):
                column[labelled["index"][good]] = labelled[label][good]
            following = next(done, None)
        yield {n: values[n].reshape(-1, *field.item_shape) for n, field in fields.items()}


def _failures(plan: Plan, level: Level) -> Iterator[Failure]:
    for failure in plan.failures():
        yield replace(failure, stage="label", reason=f"at the level {level.name}: {failure.reason}")


def _after(metadata: StoreMetadata, level: Level, failures: int) -> StoreMetadata:
    """Metadata of the store as it will be."""
    counts = metadata.counts
    changes: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created": level.created,
        "levels": (*metadata.levels, level),
        "counts": counts.model_copy(update={"failures": counts.failures + failures}),
    }
    if metadata.parts:
        # The failures come after those of the last part, and are told apart by their reasons.
        *before, last = metadata.parts
        more = last.counts.model_copy(update={"failures": last.counts.failures + failures})
        changes["parts"] = (*before, last.model_copy(update={"counts": more}))
    return metadata.model_copy(update=changes)
