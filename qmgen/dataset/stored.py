"""Gives a store's molecules as the records that it was written from."""

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from jaxtyping import UInt8

from qmgen.dataset.gather import read_span
from qmgen.dataset.layout import label_fields
from qmgen.dataset.opening import Arrays, open_checked
from qmgen.dataset.packed import pair_count
from qmgen.dataset.places import place_of
from qmgen.dataset.record import MoleculeRecord
from qmgen.dataset.schema import Field

_SCAN = 1 << 16
_MOLECULES = 4096
_CONFORMERS = 16_384
_PER_MOLECULE = ("line", "source_id", "smile", "charge", "spin", "nao")


def stored_records(path: str | os.PathLike[str]) -> Iterator[MoleculeRecord]:
    """Go over a store's molecules in stored order, with all labels; memory is bounded by a block.

    The store must be free of contradictions, see `qmgen.dataset.verify_store`.

    Parameters
    ----------
    path : path
        Folder of the store, or its URL.

    Raises
    ------
    StoreError
        There is no complete store, or it is damaged.
    """
    metadata, arrays = open_checked(place_of(path))
    fields = label_fields(metadata)
    for start in range(0, metadata.counts.molecules, _MOLECULES):
        stop = min(start + _MOLECULES, metadata.counts.molecules)
        bounds = read_span(arrays["molecules"]["conformer_offset"], start, stop + 1)
        while start < stop:
            fitting = np.searchsorted(bounds - bounds[0], _CONFORMERS, side="right") - 1
            count = min(max(1, int(fitting)), stop - start)
            yield from _records(arrays, fields.values(), start, bounds[: count + 1])
            start, bounds = start + count, bounds[count:]


def stored_molecules(
    path: str | os.PathLike[str], columns: Sequence[str], rows: range | None = None
) -> Iterator[tuple[Any, ...]]:
    """Go over a store's molecules in stored order, with some of their scalar columns.

    Parameters
    ----------
    path : path
        Folder of the store.
    columns : sequence of str
        Fields of `qmgen.dataset.schema.MOLECULE` that are not ragged.
    rows : range, optional
        Neighbouring rows; all by default.

    Raises
    ------
    StoreError
        There is no complete store, or it is damaged.
    """
    metadata, arrays = open_checked(place_of(path))
    rows = range(metadata.counts.molecules) if rows is None else rows
    for start in range(rows.start, rows.stop, _SCAN):
        stop = min(start + _SCAN, rows.stop)
        yield from zip(
            *(read_span(arrays["molecules"][name], start, stop).tolist() for name in columns),
            strict=True,
        )


def stored_sizes(path: str | os.PathLike[str]) -> Iterator[tuple[UInt8[np.ndarray, " nat"], int]]:
    """Atomic numbers and number of conformers of each molecule; raises as `stored_records`."""
    metadata, arrays = open_checked(place_of(path))
    molecules = arrays["molecules"]
    for start in range(0, metadata.counts.molecules, _SCAN):
        stop = min(start + _SCAN, metadata.counts.molecules)
        atoms = read_span(molecules["atom_offset"], start, stop + 1)
        conformers = np.diff(read_span(molecules["conformer_offset"], start, stop + 1))
        z = read_span(molecules["z"], int(atoms[0]), int(atoms[-1]))
        pieces = np.split(z, (atoms - atoms[0])[1:-1])
        yield from zip(pieces, conformers.tolist(), strict=True)


def stored_splits(path: str | os.PathLike[str]) -> UInt8[np.ndarray, " nmol"]:
    """Split of every molecule: 0 train, 1 validation, 2 test; raises as `stored_records`."""
    metadata, arrays = open_checked(place_of(path))
    return read_span(arrays["molecules"]["split"], 0, metadata.counts.molecules)


def _records(
    arrays: Arrays, fields: Collection[Field], start: int, bounds: np.ndarray
) -> Iterator[MoleculeRecord]:
    """Molecules from `start` on whose conformers have these bounds."""
    molecules, conformers = arrays["molecules"], arrays["conformers"]
    count = len(bounds) - 1
    columns = [read_span(molecules[n], start, start + count).tolist() for n in _PER_MOLECULE]
    atoms = read_span(molecules["atom_offset"], start, start + count + 1)
    z = read_span(molecules["z"], int(atoms[0]), int(atoms[-1]))
    first, last = int(bounds[0]), int(bounds[-1])
    values = {f.name: _values(conformers, f, first, last) for f in fields}
    places = dict.fromkeys(values, 0)
    for number, row in enumerate(zip(*columns, strict=True)):
        nat, nconf = int(atoms[number + 1] - atoms[number]), int(np.diff(bounds)[number])
        labels = dict(zip(_PER_MOLECULE, row, strict=True))
        sizes = {"nat": nat, "nmo": labels["nao"], "npair": pair_count(labels["nao"])}
        own = {}
        for field in fields:
            dims = [sizes[dim] if isinstance(dim, str) else dim for dim in field.dims]
            length = nconf * (dims[0] if field.offset else 1)
            place = places[field.name]
            own[field.name] = values[field.name][place : place + length].reshape(nconf, *dims)
            places[field.name] += length
        low = int(atoms[number] - atoms[0])
        yield MoleculeRecord(**labels, z=z[low : low + nat], conformers=own)


def _values(conformers: dict[str, zarr.Array], field: Field, first: int, last: int) -> np.ndarray:
    """Values of conformers `first` to `last`."""
    if field.offset:
        bounds = read_span(conformers[field.offset], first, last + 1)
        first, last = int(bounds[0]), int(bounds[-1])
    return read_span(conformers[field.name], first, last)
