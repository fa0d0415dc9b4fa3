"""Batches of a dataset for PyTorch's DataLoader, from any number of processes and ranks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from qmgen.dataset import Batch, BatchLoader
from qmgen.training.batches import tensor_batch
from qmgen.training.order import place_of_worker


class BatchStream(torch.utils.data.IterableDataset):
    """Whole batches, to be read with ``DataLoader(stream, batch_size=None, num_workers=...)``.

    Each worker of each rank reads its own part of the rows, and over all of them every row comes
    once an epoch. The order depends on the numbers of ranks and workers. With ``equal_batches`` of
    the loader, all ranks give the same number of batches.

    Parameters
    ----------
    loader : BatchLoader
        Reads the batches.
    convert : callable
        Makes of a `Batch` what the stream gives: `tensor_batch`, `pyg_batch`, a partial of
        `schnetpack_batch`, or your own.
    rank, ranks : int
        Number of this rank of torch.distributed, and how many there are.

    Examples
    --------
    >>> stream = BatchStream(batch_loader(dataset, 64, split="train", seed=0))  # doctest: +SKIP
    >>> stream.set_epoch(3)  # doctest: +SKIP
    >>> for batch in DataLoader(stream, batch_size=None, num_workers=2):  # doctest: +SKIP
    ...     batch["pos"], batch["energy"], batch["conformer_of_atom"]
    """

    def __init__(
        self,
        loader: BatchLoader,
        convert: Callable[[Batch], Any] = tensor_batch,
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        loader.sharded(rank, ranks)  # checks the numbers
        self._loader = loader
        self._convert = convert
        self._rank = rank
        self._ranks = ranks
        self._epoch = 0
        self._start_batch = 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Say what comes next; call it before an iterator of the DataLoader is made.

        Persistent workers don't hear of it.

        Parameters
        ----------
        epoch : int
            Epoch, from 0.
        start_batch : int
            How many batches of this rank to leave out: those that were used before an
            interruption. With the same numbers of ranks and workers, what follows is the same.
        """
        self._epoch = epoch
        self._start_batch = start_batch

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        process, given = place_of_worker(number, workers, self._start_batch)
        loader = self._loader.sharded(self._rank * workers + process, self._ranks * workers)
        return (self._convert(batch) for batch in loader.batches(self._epoch, given))
