"""Reads scattered rows of plain and ragged Zarr arrays with few chunk decodings."""

from typing import Any

import numpy as np
import zarr
from jaxtyping import Int64

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
    """
    if rows.size == 0:
        return _objects(array[0:0])
    low, high = int(rows.min()), int(rows.max()) + 1
    if high - low <= _DENSE * rows.size:
        span = _objects(array[low:high])
        contiguous = high - low == rows.size and bool((np.diff(rows) == 1).all())
        return span if contiguous else span[rows - low]
    unique, inverse = np.unique(rows, return_inverse=True)
    return _objects(array.oindex[unique])[inverse]


def ragged_rows(
    starts: Int64[np.ndarray, " n"], stops: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " n+1"]]:
    """Element numbers of ragged rows, concatenated, and the offsets that cut them again."""
    lengths = stops - starts
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    elements = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return elements, offsets


def _objects(values: Any) -> np.ndarray:
    # NumPy's StringDType is foreign to pandas, torch's collate and pickles of older NumPy.
    values = np.asarray(values)
    return values.astype(object) if values.dtype.kind == "T" else values
