"""Keeps a cluster's workers busy with batches, a bounded number at a time."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from distributed import Future, as_completed
from distributed.scheduler import KilledWorker

from qmgen.dataset import Failure
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import ClusterError, StoreError
from qmgen.generate.cluster import LOST, Cluster
from qmgen.generate.commit import (
    Receipt,
    SharedParts,
    WrongResultError,
    check_receipt,
    check_slices,
    label_and_commit,
)
from qmgen.generate.config import RunConfig
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.worker import LabelledSlice, label_batch, prepare_process
from qmgen.molecules import Molecule

# Batches handed out ahead for each worker, so that none waits for the network.
_AHEAD = 2
_FEWEST = 4
# Seconds between two counts of the workers.
_LOOK_S = 10.0
# What a passing trouble of a machine raises is gone at another attempt.
_RETRIES = 2


def run_batches(
    cluster: Cluster,
    batches: Iterator[Batch],
    config: RunConfig,
    guess: OrbitalGuess | None = None,
    parts: SharedParts | None = None,
) -> Iterator[tuple[Batch, list[LabelledSlice] | Receipt]]:
    """Label batches on a cluster and give each as it is done, in any order.

    A worker that dies costs only what it had in hand: Dask gives that to another. A batch that
    takes worker after worker down is taken apart, and the molecule that does it is recorded as a
    failure.

    Parameters
    ----------
    cluster
        Where to run; workers may come and go.
    batches
        In the order in which to start them; taken one by one.
    config
        Of the run.
    guess
        Predicts orbitals to start from.
    parts
        Where workers commit what they have done. They then give receipts, but for batches that
        were taken apart, whose labels come to be committed by the caller.
    """
    running: dict[str, _Task] = {}
    split: dict[int, _Split] = {}
    queue = as_completed()
    wanted = _Wanted(cluster)

    def submit(task: _Task) -> None:
        call: tuple[Any, ...] = (label_batch, task.batch, config, cluster.threads, guess)
        if parts is not None and task.position is None:
            call = (label_and_commit, *call[1:], parts)
        future = cluster.client.submit(*call, pure=False, retries=_RETRIES)
        running[future.key] = task
        queue.add(future)

    def fill() -> None:
        while len(running) < wanted.number():
            batch = next(batches, None)
            if batch is None:
                return
            submit(_Task(batch))

    fill()
    for future in queue:
        task = running.pop(future.key)
        batch, position = task.batch, task.position
        result = _outcome(future, batch, committed=parts is not None and position is None)
        if isinstance(result, WrongResultError) and task.attempt < _RETRIES:
            # What Dask does after an exception; to it this one was a success.
            submit(task._replace(attempt=task.attempt + 1))
            continue
        if isinstance(result, Exception):
            _check_workers(cluster, result)
            if position is not None or (
                len(batch.slices) == 1 and isinstance(result, KilledWorker)
            ):
                # Its workers have died often enough.
                result = [_blame(batch.slices[0], result)]
            else:
                split[batch.number] = _Split(batch, {})
                for i, part in enumerate(batch.slices):
                    submit(_Task(Batch(batch.number, (part,)), i))
                continue
        if position is not None:
            whole = split[batch.number]
            whole.done[position] = result[0]
            if len(whole.done) < len(whole.batch.slices):
                continue
            del split[batch.number]
            batch, result = whole.batch, [whole.done[i] for i in sorted(whole.done)]
        fill()
        yield batch, result
        future.release()


class _Task(NamedTuple):
    """A batch in hand, or one slice of a batch that failed as a whole, and which one that is."""

    batch: Batch
    position: int | None = None
    attempt: int = 0


class _Split(NamedTuple):
    """A batch whose slices are tasks of their own, and those of them that are done."""

    batch: Batch
    done: dict[int, LabelledSlice]


class _Wanted:
    """How many batches to have in hand; workers may join and leave while a run goes on."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._next_look = -np.inf
        self._number = _FEWEST

    def number(self) -> int:
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + _LOOK_S
            workers = max(len(self._cluster.client.nthreads()), self._cluster.workers)
            self._number = max(_FEWEST, _AHEAD * workers)
        return self._number


def _outcome(future: Future, batch: Batch, *, committed: bool) -> Any:
    """Result of a batch, or the error that its molecules may be to blame for."""
    result = _result(future)
    if isinstance(result, Exception):
        return result
    try:
        (check_receipt if committed else check_slices)(batch, result)
    except WrongResultError as error:
        return error
    return result


def _result(future: Future) -> Any:
    """Result of a task, or the error that it raised.

    Raises
    ------
    ClusterError
        The fault is the cluster's: the workers lack something.
    """
    try:
        return future.result()
    except LOST:
        # `qmgen.generate.cluster.connect` says so, from wherever it comes.
        raise
    except StoreError as error:
        raise ClusterError(f"a worker can't commit what it has done: {error}") from error
    except (ImportError, OSError) as error:
        raise ClusterError(
            f"a worker can't do its work ({type(error).__name__}: {error}); give the workers the "
            "same environment as this process, then run the same command again"
        ) from error
    except Exception as error:
        # Any other error is recorded with the molecule that raises it, by the caller.
        return error


def _check_workers(cluster: Cluster, error: Exception) -> None:
    """Make sure that a batch failed of itself, and not because qmgen can't run there at all."""
    if isinstance(error, KilledWorker):
        return
    trial = cluster.client.submit(prepare_process, cluster.threads, pure=False)
    outcome = _result(trial)
    if isinstance(outcome, Exception):
        raise ClusterError(
            f"the scheduler or its workers can't run qmgen ({outcome}); give them the same "
            "environment as this process, then run the same command again"
        ) from outcome


def _blame(part: Slice, error: Exception) -> LabelledSlice:
    molecule = Molecule.from_json(part.molecule_json)
    if isinstance(error, KilledWorker):
        reason = "workers died while labelling it, most likely out of memory or time"
    else:
        reason = f"{type(error).__name__}: {error}"
    conformers = f" (conformers {part.start} to {part.stop - 1})"
    failure = Failure(
        molecule.line, molecule.source_id, molecule.smiles, -1, "label", reason + conformers
    )
    return LabelledSlice(part.number, None, (failure,))
