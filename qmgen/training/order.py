"""In which order rows are learnt from: shuffled anew each pass, the same for the same seed."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffledRows(Sampler[int]):
    """Places of rows in memory, an epoch at a time.

    The passes follow one another without a gap, and an epoch is a piece of that sequence. Which
    piece depends on the epoch's number alone, not on how often the order was asked for.

    Parameters
    ----------
    number : int
        Rows.
    seed : int
        Seed.
    epoch_rows : int, optional
        Rows an epoch; all, and so one pass, by default.
    """

    def __init__(self, number: int, seed: int, epoch_rows: int | None = None) -> None:
        self._number = number
        self._seed = seed
        self._epoch_rows = number if epoch_rows is None else epoch_rows
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, from 0; Lightning does."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._epoch_rows

    def __iter__(self) -> Iterator[int]:
        left = self._epoch_rows
        number, skip = divmod(self._epoch * self._epoch_rows, self._number)
        while left:
            order = np.random.default_rng([self._seed, number]).permutation(self._number)
            part = order[skip : skip + left].tolist()
            yield from part
            left, number, skip = left - len(part), number + 1, 0


def batches_of_worker(worker: int, workers: int, epoch: int, steps: int) -> tuple[int, int, int]:
    """Share out the batches of an epoch among processes that each have their own rows.

    Batch ``n`` since the start of training is the next one of process ``n % workers``. A loader
    begins each epoch with its first process, which therefore stands for another one each time.

    Parameters
    ----------
    worker, workers : int
        Number of the loader's process, and how many there are.
    epoch : int
        Epoch, from 0.
    steps : int
        Batches an epoch.

    Returns
    -------
    int, int, int
        Which process it stands for, how many batches that one has given before, and how many it
        is to give now.
    """
    before = epoch * steps
    process, given = place_of_worker(worker, workers, before)
    return process, given, _given(process, workers, before + steps) - given


def place_of_worker(worker: int, workers: int, before: int) -> tuple[int, int]:
    """Say which process a loader's one stands for, and how many batches that one has given.

    Parameters
    ----------
    worker, workers : int
        Number of the loader's process, and how many there are.
    before : int
        Batches that were given in all.
    """
    process = (worker + before) % workers
    return process, _given(process, workers, before)


def _given(process: int, workers: int, batches: int) -> int:
    return (batches - process + workers - 1) // workers
