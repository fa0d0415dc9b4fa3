"""Joins datasets that were made with the same configuration."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from qmgen.dataset import (
    OPTIONAL,
    Dataset,
    Failure,
    MoleculeRecord,
    StoreMetadata,
    open_dataset,
    verify_store,
    write_store,
)
from qmgen.dataset.splits import split_digest, split_key
from qmgen.dataset.stored import stored_records, stored_splits
from qmgen.errors import InputError, StoreError, StoreMismatchError
from qmgen.generate.segments import (
    Segment,
    geometry_identity,
    has_geometries,
    identity_digest,
    joined_provenance,
    segments,
    smiles_identity,
)
from qmgen.generate.spin import spin_label_names, with_spin_columns
from qmgen.generate.validate import stored_labels

# The first version of the layout that has every label that all datasets have now.
_COMPLETE_SINCE = 2


@dataclass(frozen=True)
class MergeSummary:
    """Outcome of `merge`.

    Attributes
    ----------
    metadata : StoreMetadata
        Of the merged dataset; ``parts`` tells what each part held.
    moved : int
        Molecules whose split is another than in their part, because a part before it has their
        SMILES in that split.
    """

    metadata: StoreMetadata
    moved: int


def merge(output: str | os.PathLike[str], stores: Sequence[str | os.PathLike[str]]) -> MergeSummary:
    """Join datasets of one configuration into one.

    Molecules come in the order of the parts. One that a part before has as well is left out and
    recorded as a failure: the same SMILES, charge and spin, or, for parts that were made from
    ``.sdf`` or ``.xyz`` files and for molecules without SMILES, the same elements and positions
    (first conformer, to 1e-3 Bohr), charge and spin. Every molecule keeps the split of the first
    part that has its SMILES.

    Streams the labels; memory is that of `write_store` and about 100 bytes a molecule.

    Parameters
    ----------
    output
        The dataset to make.
    stores
        Datasets, which may be merged ones themselves.

    Raises
    ------
    InputError
        No dataset is given.
    StoreMismatchError
        The configurations differ; the message names in what.
    StoreError
        A part is damaged or of the first version of the layout, or the output exists or can't be
        written.
    """
    if not stores:
        raise InputError("nothing to merge; give one dataset or more")
    datasets = [_checked(store) for store in stores]
    _compare(datasets)
    parts = [segment for dataset in datasets for segment in segments(dataset)]
    owners, keys, split_keys, codes = _scan(datasets, parts)
    first = _first_with(keys)
    duplicate = owners > owners[first]
    own_codes, codes = codes, codes[_first_with(split_keys)]
    moved = int((codes != own_codes)[~duplicate].sum())
    left_out = np.bincount(owners[duplicate], minlength=len(parts)).tolist()
    failed: list[list[Failure]] = [[] for _ in parts]
    optional = {name for dataset in datasets for name in dataset.metadata.optional_labels}
    metadata = datasets[0].metadata
    notes = dict.fromkeys(note for dataset in datasets for note in dataset.metadata.notes)
    written = write_store(
        output,
        _records(datasets, optional, owners, duplicate, failed),
        _failures(parts, failed),
        joined_provenance(
            [dataset.metadata.provenance for dataset in datasets],
            " ".join(["qmgen", *sys.argv[1:]]),
        ),
        split_seed=metadata.split.seed,
        split_fractions=metadata.split.fractions,
        split_codes=codes[~duplicate],
        optional_labels=[name for name in OPTIONAL if name in optional],
        notes=[*notes],
        levels=metadata.levels,
        precision=metadata.precision,
        rejected=_rejected(datasets, sum(left_out)),
        parts=[
            segment.part.model_copy(update={"duplicates": segment.part.duplicates + number})
            for segment, number in zip(parts, left_out, strict=True)
        ],
    )
    return MergeSummary(written, moved)


def _checked(store: str | os.PathLike[str]) -> Dataset:
    """Open a part and make sure of every byte of it."""
    found = verify_store(store)
    if not found.intact:
        raise StoreError(f"{store} is damaged; qmgen verify says what, qmgen repair mends it")
    dataset = open_dataset(store)
    if dataset.metadata.schema_version < _COMPLETE_SINCE:
        raise StoreError(
            f"{store} has schema version {dataset.metadata.schema_version}, which lacks labels "
            "that others have; run qmgen generate again for its input"
        )
    return dataset


def _compare(datasets: Sequence[Dataset]) -> None:
    def identity(dataset: Dataset) -> dict[str, Any]:
        metadata = dataset.metadata
        return {
            **metadata.provenance.config,
            "split": metadata.split.model_dump(mode="json"),
            "levels": {
                level.name: {"labels": [*level.labels], **level.config} for level in metadata.levels
            },
            "imported": metadata.provenance.model_dump(mode="json")["imported"],
        }

    first = datasets[0]
    for other in datasets[1:]:
        different = [*_differences(identity(first), identity(other))]
        if different:
            raise StoreMismatchError(
                f"{first.path} and {other.path} were made with other configurations "
                f"({'; '.join(different)}); merge datasets of one configuration only"
            )


def _differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            inner = f"{place}.{name}" if place else name
            yield from _differences(one.get(name), other.get(name), inner)
    elif one != other:
        yield f"{place}: {one!r} and {other!r}"


def _scan(
    datasets: Sequence[Dataset], parts: Sequence[Segment]
) -> tuple[
    Int64[np.ndarray, " nmol"],
    UInt64[np.ndarray, "nmol 2"],
    UInt64[np.ndarray, "nmol 1"],
    UInt8[np.ndarray, " nmol"],
]:
    """Segment, key, split key and split of every molecule of all parts."""
    total = sum(dataset.num_molecules for dataset in datasets)
    owners = np.repeat(np.arange(len(parts)), [len(s.molecules) for s in parts])
    keys = np.zeros((total, 2), np.uint64)
    split_keys = np.zeros((total, 1), np.uint64)
    for row, record in enumerate(r for d in datasets for r in stored_records(str(d.path))):
        source = parts[owners[row]].part.source.name
        keys[row] = np.frombuffer(identity_digest(_identity(record, source, row)), "<u8")
        seed = datasets[0].metadata.split.seed
        split_keys[row] = split_digest(split_key(record.smile, record.source_id, record.line), seed)
    codes = np.concatenate([stored_splits(str(dataset.path)) for dataset in datasets])
    return owners, keys, split_keys, codes


def _identity(record: MoleculeRecord, source: str, row: int) -> str:
    """What makes molecules of two parts the same."""
    if record.smile and not has_geometries(source):
        return smiles_identity(record.smile, record.charge, record.spin)
    if not record.num_conformers:
        return f"row {row}"
    first = record.conformers["pos"][0]
    return geometry_identity(record.z, first, record.charge, record.spin)


def _first_with(keys: UInt64[np.ndarray, "nmol size"]) -> Int64[np.ndarray, " nmol"]:
    """Row of the first molecule with the key of each."""
    if not len(keys):
        return np.zeros(0, np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def _records(
    datasets: Sequence[Dataset],
    optional: set[str],
    owners: Int64[np.ndarray, " nmol"],
    duplicate: Bool[np.ndarray, " nmol"],
    failed: Sequence[list[Failure]],
) -> Iterator[MoleculeRecord]:
    """Molecules of all parts but the duplicates, which are noted in `failed` by segment."""
    reason = "duplicate of a molecule of a dataset merged before"
    row = 0
    for dataset in datasets:
        labels = stored_labels(dataset)
        # Some part has open shells, whose labels this one's closed shells get as well.
        lacking = optional - {*dataset.metadata.optional_labels}
        assert lacking <= {*spin_label_names(labels)}
        for record in stored_records(str(dataset.path)):
            if duplicate[row]:
                line, source_id, smile = record.line, record.source_id, record.smile
                failed[owners[row]].append(Failure(line, source_id, smile, -1, "read", reason))
            else:
                yield with_spin_columns(record, labels) if lacking else record
            row += 1


def _failures(
    parts: Sequence[Segment], duplicates: Sequence[Sequence[Failure]]
) -> Iterator[Failure]:
    """Failures of each segment, then its duplicates."""
    for segment, more in zip(parts, duplicates, strict=True):
        rows = segment.failures
        yield from islice(segment.dataset.failures(), rows.start, rows.stop)
        yield from more


def _rejected(datasets: Sequence[Dataset], duplicates: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for dataset in datasets:
        counts.update(dataset.metadata.counts.rejected)
    counts.update({"duplicate": duplicates} if duplicates else {})
    return dict(counts)
