"""Dask clusters: this machine, a scheduler that runs already, or Slurm jobs."""

import logging
import os
import signal
from asyncio import CancelledError
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from distributed.core import RPCClosed

from qmgen.errors import ClusterError, ConfigError, QmgenError
from qmgen.generate.config import ClusterConfig
from qmgen.generate.slurm import jobs_kept, slurm_cluster

# Workers that may die with one batch in hand before the batch is blamed.
_ALLOWED_DEATHS = 4


# What anything that is asked of a client may raise once its scheduler is gone.
LOST = (CommClosedError, RPCClosed, ClosedClientError, CancelledError, futures.CancelledError)


@dataclass(frozen=True)
class Cluster:
    """A connected cluster.

    Attributes
    ----------
    client
        Connection to its scheduler.
    threads
        Cores that each worker may use.
    description
        For the user.
    workers
        How many there may come to be, so that there is work for all of them; 0 if unknown.
    """

    client: Client
    threads: int
    description: str
    workers: int = 0


def available_cores() -> int:
    """Cores that this process may use; fewer than the machine's under a batch system."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connect(config: ClusterConfig, batches: int) -> Iterator[Cluster]:
    """Start or reach a cluster; what was started here ends with the context.

    Parameters
    ----------
    config
        Which cluster.
    batches
        Number of batches there are; no more local workers than that are started.

    Raises
    ------
    ConfigError
        The scheduler can't be reached, or the configuration names two clusters.
    ClusterError
        The scheduler is gone while the context lasts.
    MissingExtraError
        Slurm is asked for and dask-jobqueue is not installed.
    """
    if config.scheduler and config.slurm:
        raise ConfigError("cluster: give either scheduler or slurm, not both")
    with _quiet_client(), _started(config, batches) as cluster:
        try:
            yield cluster
        except (*LOST, OSError) as error:
            # Where a scheduler doesn't answer, Dask raises an OSError without a number.
            if not isinstance(error, LOST) and (error.errno or isinstance(error, QmgenError)):
                raise
            raise ClusterError(
                "lost the Dask scheduler; finished batches are kept, run the same command again"
            ) from error


@contextmanager
def _started(config: ClusterConfig, batches: int) -> Iterator[Cluster]:
    if config.scheduler:
        with _reach(config.scheduler) as client:
            threads = config.worker_threads or 1
            yield _connected(client, threads, config.scheduler, config.workers or 0)
    elif config.slurm:
        slurm = config.slurm
        with dask.config.set(_scheduler_settings(config)):
            cluster = slurm_cluster(slurm)
        fewest = slurm.jobs if slurm.fewest_jobs is None else min(slurm.fewest_jobs, slurm.jobs)
        threads = config.worker_threads or max(1, slurm.cores // slurm.processes)
        jobs = f"{slurm.jobs} Slurm job{'s' if slurm.jobs > 1 else ''}"
        name = jobs if fewest == slurm.jobs else f"up to {jobs}"
        with cluster, jobs_kept(cluster, fewest, slurm.jobs), Client(cluster) as client:
            yield _connected(client, threads, name, slurm.jobs * slurm.processes)
    else:
        cores = available_cores()
        workers = max(1, min(config.workers or cores, batches))
        threads = config.worker_threads or max(1, cores // (config.workers or cores))
        with _local(workers, threads, config) as cluster, Client(cluster) as client:
            client.register_plugin(_QuietWorker())
            yield _connected(client, threads, f"{workers} local workers", workers)


def _connected(client: Client, threads: int, name: str, workers: int) -> Cluster:
    link = client.dashboard_link
    dashboard = f", dashboard {link}" if link else ""
    description = f"labelling on {name}, {threads} threads each{dashboard}"
    return Cluster(client, threads, description, workers)


@contextmanager
def _reach(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout="15s")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"can't reach the Dask scheduler {address}: {error}; start one with "
            "`dask scheduler` and workers with `dask worker`"
        ) from error
    with client:
        yield client


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Leave out the traceback that a client logs when it gives its scheduler up.

    Its tasks are cancelled then, which is no error beside the one that the caller gets.
    """

    def is_told(record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, CancelledError)

    # Which of them says it depends on where the client is when it gives up.
    loggers = [logging.getLogger(f"distributed.{name}") for name in ("client", "utils")]
    for logger in loggers:
        logger.addFilter(is_told)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_told)


class _QuietWorker(WorkerPlugin):
    """Leaves it to the main process to stop a run and to say so."""

    def setup(self, worker: Worker) -> None:
        # A terminal sends Ctrl-C to workers as well.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Warns of every task that the end of a run cancels.
        logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)


def _scheduler_settings(config: ClusterConfig) -> dict[str, Any]:
    return {
        "distributed.scheduler.allowed-failures": _ALLOWED_DEATHS,
        "distributed.scheduler.worker-ttl": f"{config.silent_minutes * 60}s",
    }


@contextmanager
def _local(workers: int, threads: int, config: ClusterConfig) -> Iterator[LocalCluster]:
    limits = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
    settings = {
        **_scheduler_settings(config),
        "distributed.nanny.pre-spawn-environ": limits,
        # Large conformer batches take minutes and hold the interpreter's lock meanwhile.
        "distributed.admin.tick.limit": "60s",
        "distributed.comm.timeouts.connect": "60s",
        # Batches don't pile up on a worker; memory is the engine's, which Dask can't spill.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 1.0 if config.worker_memory else False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=config.worker_memory or 0,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        yield cluster
