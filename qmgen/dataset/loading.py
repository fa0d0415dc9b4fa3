"""Batches of a dataset for training: shuffled, shared out, resumable, read ahead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from qmgen.dataset.batch import Batch, join_batches
from qmgen.dataset.prefetch import prefetched
from qmgen.dataset.reader import Dataset
from qmgen.dataset.row_mask import RowMask, mask_rows
from qmgen.dataset.shuffling import Window, WindowOrder, shard_bounds
from qmgen.errors import InputError


@dataclass(frozen=True, eq=False)
class BatchLoader:
    """Reads a dataset batch by batch; `batch_loader` makes one.

    An epoch gives every wanted row exactly once over all shards, in an order that is a function of
    the seed, the epoch and the shard (see `qmgen.dataset.shuffling`). Two windows of blocks are in
    memory at a time, and the batches that wait. It can be pickled for worker processes.

    Attributes
    ----------
    dataset : Dataset
        Store.
    mask : RowMask
        Wanted rows.
    columns : tuple of str
        Columns of a batch.
    batch_size : int
        Rows a batch; the last one of an epoch may have fewer.
    seed : int or None
        Shuffles; stored order if None.
    window_blocks : int
        Blocks that are mixed.
    equal_batches : bool
        Every shard gives the same number of batches, all full; see `batch_loader`.
    prefetch : int
        Batches that wait.
    shard, shards : int
        Which part of the rows, of how many.
    """

    dataset: Dataset
    mask: RowMask
    columns: tuple[str, ...]
    batch_size: int
    seed: int | None
    window_blocks: int
    equal_batches: bool
    prefetch: int
    shard: int = 0
    shards: int = 1

    def sharded(self, shard: int, shards: int) -> "BatchLoader":
        """Give the loader of one of several processes, which each get another part of the rows.

        Parameters
        ----------
        shard : int
            Number of the process, from 0; ``rank * workers + worker`` where each rank has several
            workers.
        shards : int
            Number of processes in all.

        Raises
        ------
        InputError
            There is no such shard, or by `equal_batches` none would have a batch.
        """
        if not 0 <= shard < shards:
            raise InputError(f"no shard {shard} of {shards}; they count from 0")
        loader = replace(self, shard=shard, shards=shards)
        if loader.equal_batches and not len(loader):
            raise InputError(
                f"{self.dataset.path}: {len(self.mask)} rows make no full batch of "
                f"{self.batch_size} for each of {shards} processes; choose a smaller batch_size or "
                "fewer processes"
            )
        return loader

    def __len__(self) -> int:
        """Give the number of batches of an epoch in this shard."""
        if self.equal_batches:
            return len(self.mask) // self.shards // self.batch_size
        return -(-shard_bounds(len(self.mask), self.shard, self.shards)[1] // self.batch_size)

    def batches(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch.

        After an interruption, the epoch and the number of batches that were used are all that it
        takes to go on with the same batches: of the windows before nothing is read.

        Parameters
        ----------
        epoch : int
            Epoch, from 0; each has another order.
        start_batch : int
            Leave out so many batches.

        Returns
        -------
        iterator of Batch
            Reads ahead in a thread, which ends with the iterator.

        Raises
        ------
        InputError
            A number is negative.
        StoreError
            On reading: the store is damaged.
        """
        if epoch < 0 or start_batch < 0:
            raise InputError(
                f"epoch and start_batch count from 0; they are {epoch} and {start_batch}"
            )
        left = max(0, len(self) - start_batch)
        return prefetched(islice(self._read(epoch, start_batch), left), self.prefetch)

    def _read(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        order = WindowOrder(self.window_blocks, self.seed, epoch, self.shard, self.shards)
        size = self.batch_size
        pending: Batch | None = None
        for window in order.windows(self.mask.counts, start_batch * size):
            block = self._window(window)
            start = 0
            if pending is not None:
                start = size - len(pending)
                pending = join_batches([pending, block.take(window.places[:start])])
                if len(pending) < size:
                    continue
                yield pending
                pending = None
            for place in range(start, len(window.places), size):
                batch = block.take(window.places[place : place + size])
                if len(batch) < size:
                    pending = batch
                else:
                    yield batch
            # Else it would stay until the next window is read.
            del block
        if pending is not None:
            yield pending

    def _window(self, window: Window) -> Batch:
        return join_batches(
            [
                self.dataset.batch(self.mask.rows(block)[first:stop], self.columns)
                for block, first, stop in window.pieces
            ]
        )


def batch_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    columns: Sequence[str] | None = None,
    split: str | None = None,
    converged_only: bool = True,
    labels: Sequence[str] = (),
    seed: int | None = None,
    block_rows: int = 2048,
    window_blocks: int = 16,
    equal_batches: bool = False,
    prefetch: int | None = None,
) -> BatchLoader:
    """Prepare to read a dataset batch by batch.

    Parameters
    ----------
    dataset : Dataset
        Store.
    batch_size : int
        Rows a batch; the last one of an epoch may have fewer.
    columns : sequence of str, optional
        Columns to read; all by default.
    split : {"train", "val", "test"}, optional
        Split; all by default.
    converged_only : bool
        Leave out conformers whose SCF did not converge.
    labels : sequence of str
        Leave out conformers of which one of these columns is missing or not finite.
    seed : int, optional
        Shuffles, anew each epoch; stored order by default.
    block_rows : int
        Neighbouring rows that are read together.
    window_blocks : int
        Blocks that are mixed. More mix better and take more memory: `block_rows` times
        `window_blocks` rows twice.
    equal_batches : bool
        Every shard gives ``rows // shards // batch_size`` batches, all of them full, as processes
        that wait for each other at each step need. What is left over, fewer than ``shards *
        (batch_size + 1)`` rows, is left out of the epoch; another epoch leaves out others. By
        default every row comes, and shards differ by at most one batch, the first having more.
    prefetch : int, optional
        Batches that a thread makes ahead; 0 for no thread. By default half a window, so that the
        next one is read while they are used.

    Returns
    -------
    BatchLoader
        For one process; `BatchLoader.sharded` is for several.

    Raises
    ------
    InputError
        There is no such split or column, no row is left, or a number is too small.

    Examples
    --------
    >>> loader = batch_loader(open_dataset("dataset.zarr"), 64, split="train", seed=0)
    ... # doctest: +SKIP
    >>> for batch in loader.batches(epoch=3, start_batch=100):  # doctest: +SKIP
    ...     batch["z"], batch["pos"], batch["energy"], batch.atom_offset
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("window_blocks", window_blocks, 1),
        ("prefetch", prefetch or 0, 0),
        ("seed", seed or 0, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    if prefetch is None:
        prefetch = max(2, block_rows * window_blocks // 2 // batch_size)
    names = dataset.columns if columns is None else tuple(columns)
    dataset.batch([], names)  # checks the names
    mask = mask_rows(dataset, block_rows, split=split, converged_only=converged_only, labels=labels)
    if not len(mask):
        raise InputError(
            f"{dataset.path}: no row is left to read; choose another split, fewer labels, or "
            "converged_only=False"
        )
    loader = BatchLoader(
        dataset, mask, names, batch_size, seed, window_blocks, equal_batches, prefetch
    )
    return loader.sharded(0, 1)
