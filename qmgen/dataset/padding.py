"""Batches of few shapes, for programs that are compiled for each: padded, with masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from qmgen.dataset.batch import Batch
from qmgen.dataset.loading import BatchLoader
from qmgen.dataset.schema import COLUMNS
from qmgen.errors import InputError

ATOM_BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Rows of a dataset in rectangular arrays; what is padding is 0.

    Attributes
    ----------
    rows : Int64[n]
        Row numbers in the dataset; -1 for padding.
    row_mask : Bool[n]
        False where a last batch had no more rows.
    atom_mask : Bool[n, nat]
        False for atoms that are padding.
    columns : dict of str to array
        Columns in atomic units: leading axes ``n``, or ``n, nat`` for values of atoms.
    """

    rows: Int64[np.ndarray, " n"]
    row_mask: Bool[np.ndarray, " n"]
    atom_mask: Bool[np.ndarray, "n nat"]
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        """Give a column.

        Raises
        ------
        KeyError
            The batch was read without it.
        """
        return self.columns[name]


def padded_batches(
    loader: BatchLoader,
    epoch: int = 0,
    start_batch: int = 0,
    *,
    atom_buckets: Sequence[int] = ATOM_BUCKETS,
) -> Iterator[PaddedBatch]:
    """Give the batches of `BatchLoader.batches`, padded: as many shapes as buckets, at most.

    Parameters
    ----------
    loader : BatchLoader
        Reads the batches, without text and without values of orbitals.
    epoch, start_batch : int
        As for `BatchLoader.batches`.
    atom_buckets : sequence of int
        Numbers of atoms to pad to; a batch takes the first that has room for its molecules.

    Raises
    ------
    InputError
        On reading: a molecule is larger than the last bucket, or a column can't be padded.
    """
    size = loader.batch_size
    return (pad_batch(b, size, atom_buckets) for b in loader.batches(epoch, start_batch))


def pad_batch(
    batch: Batch, batch_size: int, atom_buckets: Sequence[int] = ATOM_BUCKETS
) -> PaddedBatch:
    """Pad a batch to `batch_size` rows of as many atoms as one of the buckets.

    Raises
    ------
    InputError
        There are more rows, a molecule is larger than the last bucket, or a column is text or has
        values of orbitals.
    """
    if len(batch) > batch_size:
        raise InputError(f"{len(batch)} rows don't fit in a batch of {batch_size}")
    largest = int(batch.n_atoms.max(initial=0))
    nat = next((size for size in sorted(atom_buckets) if size >= largest), None)
    if nat is None:
        raise InputError(
            f"row {batch.rows[batch.n_atoms.argmax()]} has {largest} atoms, more than the largest "
            f"bucket, {max(atom_buckets)}; add a larger one to atom_buckets"
        )
    row_mask = np.arange(batch_size) < len(batch)
    counts = np.zeros(batch_size, dtype=np.int64)
    counts[row_mask] = batch.n_atoms
    atom_mask = np.arange(nat) < counts[:, None]
    rows = np.full(batch_size, -1)
    rows[row_mask] = batch.rows
    columns = {}
    for name, values in batch.columns.items():
        offset = COLUMNS[name].offset
        if values.dtype == object or offset not in (None, "atom_offset"):
            raise InputError(
                f"{name} can't be padded, as it is text or has values of orbitals; leave it out of "
                "columns"
            )
        mask = row_mask if offset is None else atom_mask
        padded = np.zeros((*mask.shape, *values.shape[1:]), dtype=values.dtype)
        padded[mask] = values
        columns[name] = padded
    return PaddedBatch(rows, row_mask, atom_mask, columns)
