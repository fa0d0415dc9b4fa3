"""Keeps a cluster's workers busy with batches, a bounded number at a time."""

from collections.abc import Iterator
from concurrent.futures import CancelledError

from distributed import Future, as_completed
from distributed.comm import CommClosedError
from distributed.scheduler import KilledWorker

from qmgen.dataset import Failure
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import ClusterError
from qmgen.generate.cluster import Cluster
from qmgen.generate.config import RunConfig
from qmgen.generate.plan import Batch, Slice
from qmgen.generate.worker import LabelledSlice, label_batch, prepare_process
from qmgen.molecules import Molecule

# Batches handed out ahead for each worker, so that none waits for the network.
_AHEAD = 2


def run_batches(
    cluster: Cluster,
    batches: Iterator[Batch],
    config: RunConfig,
    guess: OrbitalGuess | None = None,
) -> Iterator[tuple[int, list[LabelledSlice]]]:
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
    """
    client = cluster.client

    def submit(batch: Batch) -> Future:
        return client.submit(label_batch, batch, config, cluster.threads, guess, pure=False)

    window = max(4, _AHEAD * len(client.scheduler_info(n_workers=-1)["workers"]))
    running: dict[str, Batch] = {}
    queue = as_completed()

    def start_next() -> None:
        batch = next(batches, None)
        if batch is not None:
            future = submit(batch)
            running[future.key] = batch
            queue.add(future)

    for _ in range(window):
        start_next()
    for future in queue:
        batch = running.pop(future.key)
        result = _outcome(future)
        start_next()
        if isinstance(result, Exception):
            _check_workers(cluster, result)
            result = _one_by_one(cluster, batch, config, guess, result)
        yield batch.number, result
        future.release()


def _outcome(future: Future) -> list[LabelledSlice] | Exception:
    """Result of a task, or the error that its molecules may be to blame for.

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
    outcome = _outcome(cluster.client.submit(prepare_process, cluster.threads, pure=False))
    if isinstance(outcome, Exception):
        raise ClusterError(
            f"the scheduler or its workers can't run qmgen ({outcome}); give them the same "
            "environment as this process, then run the same command again"
        ) from outcome


def _one_by_one(
    cluster: Cluster,
    batch: Batch,
    config: RunConfig,
    guess: OrbitalGuess | None,
    error: Exception,
) -> list[LabelledSlice]:
    """Label the slices of a batch that failed as a whole, each in a task of its own."""
    if len(batch.slices) == 1:
        return [_blame(batch.slices[0], error)]
    results: list[LabelledSlice] = []
    for part in batch.slices:
        alone = Batch(batch.number, (part,))
        future = cluster.client.submit(
            label_batch, alone, config, cluster.threads, guess, pure=False
        )
        outcome = _outcome(future)
        results.extend([_blame(part, outcome)] if isinstance(outcome, Exception) else outcome)
    return results


def _blame(part: Slice, error: Exception) -> LabelledSlice:
    molecule = Molecule.from_json(part.molecule_json)
    if isinstance(error, KilledWorker):
        reason = "workers died while labelling it, most likely out of memory"
    else:
        reason = f"{type(error).__name__}: {error}"
    conformers = f" (conformers {part.start} to {part.stop - 1})"
    failure = Failure(
        molecule.line, molecule.source_id, molecule.smiles, -1, "label", reason + conformers
    )
    return LabelledSlice(part.number, None, (failure,))
