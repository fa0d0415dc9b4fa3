"""Which rows of a dataset are wanted, one bit a row, so that a billion rows fit in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from qmgen.dataset.batch import Batch
from qmgen.dataset.reader import Dataset
from qmgen.errors import InputError

_SCAN_ROWS = 16384


@dataclass(frozen=True, eq=False)
class RowMask:
    """Wanted rows by blocks of neighbours.

    Attributes
    ----------
    bits : UInt8[nblock, nbyte]
        One bit a row, a block a line, padded with zeros.
    counts : Int64[nblock]
        Wanted rows of each block.
    block_rows : int
        Rows a block before selection.
    """

    bits: UInt8[np.ndarray, "nblock nbyte"]
    counts: Int64[np.ndarray, " nblock"]
    block_rows: int

    def __len__(self) -> int:
        """Give the number of wanted rows."""
        return int(self.counts.sum())

    def rows(self, block: int) -> Int64[np.ndarray, " n"]:
        """Wanted rows of a block, ascending."""
        return block * self.block_rows + np.flatnonzero(np.unpackbits(self.bits[block]))


def mask_rows(
    dataset: Dataset,
    block_rows: int,
    *,
    split: str | None = None,
    converged_only: bool = True,
    labels: Sequence[str] = (),
) -> RowMask:
    """Find the wanted rows; reads what the conditions need once, in blocks, or nothing.

    Parameters
    ----------
    dataset : Dataset
        Store.
    block_rows : int
        Rows a block.
    split : {"train", "val", "test"}, optional
        Split; all by default.
    converged_only : bool
        Leave out conformers whose SCF did not converge.
    labels : sequence of str
        Leave out conformers of which one of these columns is missing or not finite.

    Returns
    -------
    RowMask

    Raises
    ------
    InputError
        There is no such split or column, a label is text, or `block_rows` is not positive.
    """
    if block_rows < 1:
        raise InputError(f"block_rows must be at least 1, not {block_rows}")
    number = -(-len(dataset) // block_rows)
    wanted = np.zeros((number, block_rows), dtype=bool)
    counts = dataset.metadata.counts
    scan = dataset.iter_blocks(
        _SCAN_ROWS, split=split, converged_only=converged_only, columns=tuple(labels)
    )
    if split is None and not labels and (not converged_only or counts.converged == len(dataset)):
        wanted.ravel()[: len(dataset)] = True
    else:
        for block in scan:
            wanted.ravel()[block.rows[finite_rows(block, labels)]] = True
    return RowMask(np.packbits(wanted, axis=1), wanted.sum(axis=1, dtype=np.int64), block_rows)


def finite_rows(block: Batch, labels: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Tell which rows have every label; one without a value, or with NaN in it, is not there.

    Raises
    ------
    InputError
        A label is text, which is never missing.
    """
    keep = np.ones(len(block), dtype=bool)
    for name in labels:
        values = block[name]
        if values.dtype == object:
            raise InputError(f"{name} is text, of which none is missing; leave it out of labels")
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        offsets = block.offsets(name)
        if offsets is not None:
            # Sums of what is before a row, as reduceat has no empty parts.
            before = np.concatenate([[0], np.cumsum(finite)])
            sizes = np.diff(offsets)
            finite = (np.diff(before[offsets]) == sizes) & (sizes > 0)
        keep &= finite
    return keep
