"""Reads scattered rows of plain and ragged Zarr arrays with few chunk decodings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int64

from qmgen.dataset.manifest import damaged
from qmgen.dataset.zarr_stores import place_of_array
from qmgen.errors import StoreError, StoreUnreachableError

_DENSE = 8
"""Read the whole span and drop the rest where at least one in this many rows is wanted."""


def take(array: zarr.Array, rows: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Give rows of an array, in any order, repeated or not.

    Parameters
    ----------
    array : zarr.Array
        Array to read.
    rows : Int64[n]
        Row numbers, not negative.

    Returns
    -------
    array
        Values, leading axis ``n``; strings as objects.

    Raises
    ------
    StoreError
        A chunk that holds some of them is damaged, or there is no such row.
    """
    if rows.size == 0:
        return _objects(read_span(array, 0, 0))
    low, high = int(rows.min()), int(rows.max()) + 1
    if high - low <= _DENSE * rows.size:
        _check_span(array, low, high)
        span = _objects(read_span(array, low, high))
        contiguous = high - low == rows.size and bool((np.diff(rows) == 1).all())
        return span if contiguous else span[rows - low]
    unique, inverse = np.unique(rows, return_inverse=True)
    _check_span(array, low, high)
    try:
        values = array.oindex[unique]
    except StoreUnreachableError:
        raise
    except Exception as error:
        raise damaged_array(array, f"unreadable between elements {low} and {high}") from error
    return _objects(values)[inverse]


def read_span(array: zarr.Array, start: int, stop: int) -> np.ndarray:
    """Give elements `start` to `stop` of an array.

    Raises
    ------
    StoreError
        A chunk that holds some of them is damaged.
    """
    try:
        return np.asarray(array[start:stop])
    except StoreUnreachableError:
        raise
    except Exception as error:
        # A changed bit can be met by the checksum, the decompression or the decoding of strings.
        raise damaged_array(array, f"unreadable between elements {start} and {stop}") from error


def row_numbers(rows: slice | Sequence[int] | np.ndarray, size: int) -> Int64[np.ndarray, " n"]:
    """Numbers, from 0, of rows of a dataset of a size; negative ones count from the end.

    Raises
    ------
    IndexError
        There is no such row.
    """
    if isinstance(rows, slice):
        return np.arange(*rows.indices(size), dtype=np.int64)
    index = np.asarray(rows)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise IndexError(
            f"rows must be a vector of integers, not {index.dtype} of shape {index.shape}"
        )
    index = index.astype(np.int64)
    for extreme in (index.min(), index.max()) if index.size else ():
        checked_row(int(extreme), size, "row")
    return np.where(index < 0, index + size, index)


def checked_row(index: int, size: int, what: str) -> int:
    """Number, from 0, of a row of a dataset of a size; raises IndexError if there is none."""
    if not -size <= index < size:
        raise IndexError(f"{what} {index} is out of range: the dataset has {size}")
    return index % size


def _check_span(array: zarr.Array, low: int, high: int) -> None:
    if low < 0 or high > array.shape[0]:
        raise damaged_array(
            array, f"{array.shape[0]} elements long, and others point to {low} to {high} of it"
        )


def damaged_array(array: zarr.Array, what: str) -> StoreError:
    """Error for a store with a bad array."""
    root, place = place_of_array(array)
    return damaged(root, place, what)


def ragged_rows(
    starts: Int64[np.ndarray, " n"], stops: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " n+1"]]:
    """Element numbers of ragged rows, concatenated, and the offsets that cut them again.

    No row's stop may be below its start.
    """
    lengths = stops - starts
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    elements = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return elements, offsets


def _objects(values: Any) -> np.ndarray:
    # NumPy's StringDType is foreign to pandas, torch's collate and pickles of older NumPy.
    values = np.asarray(values)
    return values.astype(object) if values.dtype.kind == "T" else values
