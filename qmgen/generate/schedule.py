"""Keeps a cluster's workers busy with batches, a bounded number at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

from distributed import Future, as_completed
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from qmgen.dataset import Failure
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import ClusterError, StoreError
from qmgen.generate.cluster import Cluster
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

    def submit(batch: Batch) -> Future:
        return cluster.client.submit(
            label_batch, batch, config, cluster.threads, guess, pure=False, retries=_RETRIES
        )

    def submit_whole(batch: Batch) -> Future:
        if parts is None:
            return submit(batch)
        task = (label_and_commit, batch, config, cluster.threads, guess, parts)
        return cluster.client.submit(*task, pure=False, retries=_RETRIES)

    workers = cluster.client.scheduler_info(n_workers=-1)["workers"]
    window = max(4, _AHEAD * len(workers))
    running: dict[str, Batch] = {}
    queue = as_completed()

    def start_next() -> None:
        batch = next(batches, None)
        if batch is not None:
            future = submit_whole(batch)
            running[future.key] = batch
            queue.add(future)

    for _ in range(window):
        start_next()
    for future in queue:
        batch = running.pop(future.key)
        result = _outcome(future, batch, committed=parts is not None)
        start_next()
        if isinstance(result, Exception):
            _check_workers(cluster, result)
            result = _one_by_one(submit, batch, result)
        yield batch, result
        future.release()


def _outcome(future: Future, batch: Batch, *, committed: bool = False) -> Any:
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
        The fault is the cluster's: the scheduler is gone, or the workers lack something.
    """
    try:
        return future.result()
    except (CancelledError, CommClosedError) as error:
        raise ClusterError(
            "lost the Dask scheduler; finished batches are kept, run the same command again"
        ) from error
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


def _one_by_one(
    submit: Callable[[Batch], Future], batch: Batch, error: Exception
) -> list[LabelledSlice]:
    """Label the slices of a batch that failed as a whole, each in a task of its own."""
    if len(batch.slices) == 1 and isinstance(error, KilledWorker):
        # Its workers have died often enough.
        return [_blame(batch.slices[0], error)]
    results: list[LabelledSlice] = []
    for part in batch.slices:
        alone = Batch(batch.number, (part,))
        outcome = _outcome(submit(alone), alone)
        results.extend([_blame(part, outcome)] if isinstance(outcome, Exception) else outcome)
    return results


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
