"""Keeps a cluster's workers busy with batches, a bounded number at a time."""

from collections.abc import Iterator

from distributed import Future, as_completed
from distributed.scheduler import KilledWorker

from qmgen.dataset import Failure
from qmgen.generate.cluster import Cluster
from qmgen.generate.config import RunConfig
from qmgen.generate.plan import Batch
from qmgen.generate.worker import LabelledSlice, label_batch
from qmgen.molecules import Molecule

# Batches handed out ahead for each worker, so that none waits for the network.
_AHEAD = 2


def run_batches(
    cluster: Cluster, batches: Iterator[Batch], config: RunConfig
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
    """
    client = cluster.client

    def submit(batch: Batch) -> Future:
        return client.submit(label_batch, batch, config, cluster.threads, pure=False)

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
        start_next()
        if future.status == "finished":
            yield batch.number, future.result()
        else:
            yield batch.number, _one_by_one(cluster, batch, config, future)
        future.release()


def _one_by_one(
    cluster: Cluster, batch: Batch, config: RunConfig, failed: Future
) -> list[LabelledSlice]:
    """Label the slices of a batch that failed as a whole, each in a task of its own."""
    if len(batch.slices) == 1:
        return [_blame(batch, failed)]
    results: list[LabelledSlice] = []
    for part in batch.slices:
        alone = Batch(batch.number, (part,))
        future = cluster.client.submit(label_batch, alone, config, cluster.threads, pure=False)
        error = future.exception()
        results.extend(future.result() if error is None else [_blame(alone, future)])
    return results


def _blame(batch: Batch, failed: Future) -> LabelledSlice:
    (part,) = batch.slices
    molecule = Molecule.from_json(part.molecule_json)
    error = failed.exception()
    if isinstance(error, KilledWorker):
        reason = "workers died while labelling it, most likely out of memory"
    else:
        reason = f"{type(error).__name__}: {error}"
    conformers = f" (conformers {part.start} to {part.stop - 1})"
    failure = Failure(
        molecule.line, molecule.source_id, molecule.smiles, -1, "label", reason + conformers
    )
    return LabelledSlice(part.number, None, (failure,))
