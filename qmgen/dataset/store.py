"""Writes a dataset store: streamed, in whole shards, put in place only when complete."""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from jaxtyping import UInt8

from qmgen.dataset.arrays import ArrayWriter, Chunking, create_array
from qmgen.dataset.layout import labels_at_levels, layout
from qmgen.dataset.metadata import Counts, Level, Part, Provenance, Split, StoreMetadata
from qmgen.dataset.packed import pair_count
from qmgen.dataset.places import Place, place_of
from qmgen.dataset.publishing import disk_errors, unpublished
from qmgen.dataset.record import Failure, MoleculeRecord, check_record
from qmgen.dataset.schema import OPTIONAL, Field, conformer_fields
from qmgen.dataset.splits import check_fractions, split_digest, split_key, splits_of_digests

DEFAULT_CHUNKING = Chunking()

_DESCRIPTIONS = {
    "molecules": "one row a molecule; z is flat, cut by atom_offset",
    "conformers": "one row a conformer; what has several values an atom, orbital or pair of "
    "orbitals is flat, cut by the array that its attribute offset names",
    "failures": "what got no label, or a label that is not converged",
}


def write_store(
    path: str | os.PathLike[str],
    records: Iterable[MoleculeRecord],
    failures: Iterable[Failure],
    provenance: Provenance,
    *,
    split_seed: int,
    split_fractions: Sequence[float] = (0.8, 0.1, 0.1),
    optional_labels: Sequence[str] = (),
    levels: Sequence[Level] = (),
    precision: Mapping[str, float] = MappingProxyType({}),
    notes: Sequence[str] = (),
    rejected: Mapping[str, int] | None = None,
    created: str | None = None,
    into_run: bool = False,
    split_codes: UInt8[np.ndarray, " nmol"] | None = None,
    parts: Sequence[Part] = (),
    chunking: Chunking = DEFAULT_CHUNKING,
) -> StoreMetadata:
    """Write a dataset store.

    Holds one shard of each array in memory, and 8 bytes a molecule. The store is written beside
    its place and renamed at the end, so `path` never holds half a store; of objects the root
    metadata come last, without which they are no store. All files but the root
    metadata and the manifest are a function of the records and failures alone.

    Parameters
    ----------
    path : path
        Folder to make, or URL to write objects below.
    records : iterable of MoleculeRecord
        Molecules in the order to store them; each is checked.
    failures : iterable of Failure
        Read after `records`.
    provenance : Provenance
        How the labels were made.
    split_seed : int
        Seed of the split into train, validation and test.
    split_fractions : sequence of float
        Shares of train, validation and test among the distinct molecules.
    optional_labels : sequence of str
        Fields of `qmgen.dataset.schema.OPTIONAL` that the records have.
    levels : sequence of Level
        Other levels of theory, whose labels the records have as well.
    precision : mapping of str to float
        Largest error by which labels may be rounded, in their units.
    notes : sequence of str
        What a user of the labels should know.
    rejected : mapping of str to int, optional
        Number of rejected input records by reason.
    created : str, optional
        Time of writing (ISO 8601); now by default.
    into_run : bool
        `path` is the working folder of the run (it holds ``qmgen-run.json`` and no store). The
        store's root metadata come last, so until then it still counts as a run in progress;
        removing the run's own files is left to the caller.
    split_codes : UInt8[nmol], optional
        Splits of the molecules, in place of those that their keys give.
    parts : sequence of Part
        Stores that this one is merged from.
    chunking : Chunking
        Sizes of chunks and shards.

    Returns
    -------
    StoreMetadata
        What was written to the root group.

    Raises
    ------
    StoreError
        `path` exists (or, with `into_run`, is no run's folder), or the disk is full or unwritable.
    InputError
        A record doesn't fit the schema, or there is no such optional label.
    ConfigError
        The split fractions don't have sum 1.
    """
    place = place_of(path)
    check_fractions(split_fractions)
    groups = layout(optional_labels, levels, precision)
    train, val, test = split_fractions
    with unpublished(place, groups, into_run) as target:
        with disk_errors(place):
            root = zarr.create_group(target.store, zarr_format=3)
            writers = {
                name: _new_group(root, name, fields, chunking) for name, fields in groups.items()
            }
        labels = (*optional_labels, *labels_at_levels(levels))
        digests, converged = write_records(place, records, writers, split_seed, labels)
        for failure in failures:
            with disk_errors(place):
                writers["failures"].append_row(vars(failure))
        metadata = StoreMetadata(
            created=created or datetime.now(UTC).isoformat(timespec="seconds"),
            provenance=provenance,
            counts=Counts(
                molecules=len(digests),
                conformers=len(writers["conformers"]["molecule"]),
                converged=converged,
                failures=len(writers["failures"]["line"]),
                rejected=dict(rejected or {}),
            ),
            split=Split(seed=split_seed, fractions=(train, val, test)),
            optional_labels=tuple(name for name in OPTIONAL if name in optional_labels),
            parts=tuple(parts),
            levels=tuple(levels),
            precision=dict(precision),
            notes=tuple(notes),
        )
        with disk_errors(place):
            codes = split_codes
            if codes is None:
                codes = splits_of_digests(np.array(digests, dtype=np.uint64), split_fractions)
            writers["molecules"]["split"].append(codes)
            for writer in writers.values():
                writer.flush()
            attributes = metadata.model_dump(mode="json")
            root.update_attributes(attributes)
            target.publish(attributes)
    return metadata


class GroupWriter:
    """The array writers of one group."""

    def __init__(self, writers: Mapping[str, ArrayWriter]) -> None:
        self._writers = writers

    def __getitem__(self, name: str) -> ArrayWriter:
        return self._writers[name]

    def __contains__(self, name: str) -> bool:
        return name in self._writers

    def end(self, offset: str, fields: Mapping[str, Field]) -> int:
        """Length of the arrays that an array of offsets cuts."""
        return len(self[next(name for name, field in fields.items() if field.offset == offset)])

    def append_row(self, values: Mapping[str, Any]) -> None:
        """Add one element to each of some arrays; raises as `ArrayWriter.append`."""
        for name, value in values.items():
            self[name].append(np.array([value], dtype=object))

    def flush(self) -> None:
        """Write what is held; raises as `ArrayWriter.flush`."""
        for writer in self._writers.values():
            writer.flush()


def _new_group(
    root: zarr.Group, name: str, fields: Mapping[str, Field], chunking: Chunking
) -> GroupWriter:
    group = create_group(root, name, fields)
    writer = GroupWriter(
        {n: ArrayWriter(create_array(group, f, chunking), f) for n, f in fields.items()}
    )
    for field_name in fields:
        if field_name.endswith("_offset"):
            writer[field_name].append(np.zeros(1, np.int64))
    return writer


def create_group(root: zarr.Group, name: str, fields: Mapping[str, Field]) -> zarr.Group:
    """Make one of a store's groups, without its arrays."""
    return root.create_group(
        name, attributes={"description": _DESCRIPTIONS[name], "qm1b_columns": _qm1b(fields)}
    )


def _qm1b(fields: Mapping[str, Field]) -> dict[str, str]:
    return {field.qm1b: name for name, field in fields.items() if field.qm1b}


def write_records(
    path: Place,
    records: Iterable[MoleculeRecord],
    writers: Mapping[str, GroupWriter],
    split_seed: int,
    labels: Sequence[str],
) -> tuple["array[int]", int]:
    """Write all molecules but their split; gives their split digests and the converged count.

    Parameters
    ----------
    path : Place
        The store, for messages.
    records : iterable of MoleculeRecord
        Each is checked.
    writers : mapping of str to GroupWriter
        By group; what they have written before is counted in.
    split_seed : int
        Seed of the split.
    labels : sequence of str
        Labels of the records beyond those that all have.

    Raises
    ------
    StoreError
        The disk is full or unwritable.
    InputError
        A record doesn't fit the schema.
    """
    molecules, conformers = writers["molecules"], writers["conformers"]
    fields = conformer_fields(labels)
    digests = array("Q")
    converged = 0
    for record in records:
        check_record(record, labels)
        nconf, nat = record.num_conformers, record.z.size
        with disk_errors(path):
            molecules.append_row(
                {n: getattr(record, n) for n in _PER_MOLECULE}
                | {"atom_offset": len(molecules["z"]) + nat}
            )
            molecules["z"].append(record.z)
            conformers["molecule"].append(np.full(nconf, len(molecules["line"]) - 1))
            sizes = {
                "atom_offset": nat,
                "orbital_offset": record.nao,
                "pair_offset": pair_count(record.nao),
            }
            for offset, size in sizes.items():
                if offset in conformers:
                    end = conformers.end(offset, fields)
                    conformers[offset].append(end + size * np.arange(1, nconf + 1))
            for name, field in fields.items():
                values = record.conformers[name]
                conformers[name].append(values.reshape(-1, *field.item_shape))
            molecules["conformer_offset"].append(np.array([len(conformers["molecule"])]))
        digests.append(
            split_digest(split_key(record.smile, record.source_id, record.line), split_seed)
        )
        converged += int(record.conformers["converged"].sum())
    return digests, converged


_PER_MOLECULE = ("smile", "source_id", "line", "charge", "spin", "nao")
