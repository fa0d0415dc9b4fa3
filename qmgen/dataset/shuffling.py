"""In which order rows are read: blocks at random, several mixed, shared out among processes.

The blocks of a store are put in a random order; their rows, one block after the other, are a
sequence that is cut into one part a shard, equal but for one row. A shard reads its part a few
blocks at a time, a window, and shuffles the rows of a window among each other. So each of the
window's rows is equally likely at each of its places, and a batch has rows from everywhere: two of
its rows come from the same block with probability 1 over the blocks of a window. What a full
shuffle has and this has not: rows of different windows never meet in an epoch (but for batches
across their border), while another epoch has other windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

Piece = tuple[int, int, int]
"""Block, and the first and one past the last place among its rows."""


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that are read and shuffled together.

    Attributes
    ----------
    pieces : tuple of (int, int, int)
        What to read.
    places : Int64[n]
        Places among the pieces' rows, in the order to take them.
    """

    pieces: tuple[Piece, ...]
    places: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class WindowOrder:
    """The order of an epoch in one shard.

    Attributes
    ----------
    window_blocks : int
        Blocks a window, at most.
    seed : int or None
        Shuffles; stored order if None.
    epoch : int
        Epoch, from 0; each has another order.
    shard, shards : int
        Which part of the rows, of how many.
    """

    window_blocks: int
    seed: int | None
    epoch: int = 0
    shard: int = 0
    shards: int = 1

    def windows(self, block_sizes: Int64[np.ndarray, " nblock"], skip: int = 0) -> Iterator[Window]:
        """Give the shard's windows one after the other.

        Parameters
        ----------
        block_sizes : Int64[nblock]
            Rows of each block.
        skip : int
            Leave out so many rows at the beginning; windows that have no other don't appear.
        """
        blocks = np.flatnonzero(block_sizes)
        if self.seed is not None:
            blocks = np.random.default_rng([self.seed, self.epoch]).permutation(blocks)
        ends = np.cumsum(block_sizes[blocks])
        begins = ends - block_sizes[blocks]
        start, size = shard_bounds(int(block_sizes.sum()), self.shard, self.shards)
        if not size:
            return
        low = int(np.searchsorted(ends, start, side="right"))
        high = int(np.searchsorted(begins, start + size, side="left"))
        # Windows of like size: a last one with few blocks would be badly mixed.
        number = -(-(high - low) // self.window_blocks)
        bounds = low + (high - low) * np.arange(number + 1) // number
        for i in range(number):
            part = slice(bounds[i], bounds[i + 1])
            first = np.maximum(start - begins[part], 0)
            stop = np.minimum(start + size - begins[part], block_sizes[blocks[part]])
            rows = int((stop - first).sum())
            if skip < rows:
                yield Window(
                    tuple(zip(blocks[part].tolist(), first.tolist(), stop.tolist(), strict=True)),
                    self._places(rows, i)[skip:],
                )
            skip = max(0, skip - rows)

    def _places(self, rows: int, number: int) -> Int64[np.ndarray, " rows"]:
        if self.seed is None:
            return np.arange(rows)
        key = [self.seed, self.epoch, self.shards, self.shard, number]
        return np.random.default_rng(key).permutation(rows)


def shard_bounds(rows: int, shard: int, shards: int) -> tuple[int, int]:
    """Give the first row and the number of rows of a shard; the first ones have one more."""
    size, more = divmod(rows, shards)
    return shard * size + min(shard, more), size + (shard < more)
