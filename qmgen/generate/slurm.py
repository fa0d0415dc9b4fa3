"""Workers as Slurm jobs, through dask-jobqueue."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tornado.ioloop import PeriodicCallback

from qmgen.errors import MissingExtraError
from qmgen.generate.config import SlurmConfig

# Seconds between two looks at the jobs, and how long one that had workers may have none: a worker
# that has died is started again by its job within some ten seconds.
_LOOK_S = 5.0
_PATIENCE_S = 30.0


def slurm_cluster(config: SlurmConfig) -> Any:
    """Cluster of Slurm jobs, not yet submitted (``dask_jobqueue.SLURMCluster``).

    Raises
    ------
    MissingExtraError
        dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise MissingExtraError(
            "Slurm runs need dask-jobqueue: pip install 'qmgen[slurm]'"
        ) from error
    return SLURMCluster(
        # Any free port; the usual one may be another user's on a login node.
        scheduler_options={"dashboard_address": ":0"},
        **job_options(config),
    )


def job_options(config: SlurmConfig) -> dict[str, Any]:
    """What a job asks Slurm for, as arguments of ``dask_jobqueue.slurm.SLURMJob``."""
    return {
        "queue": config.queue,
        "account": config.account,
        "cores": config.cores,
        "processes": config.processes,
        "memory": config.memory,
        "walltime": config.walltime,
        "interface": config.interface,
        "job_extra_directives": list(config.job_extra_directives),
        "job_script_prologue": list(config.job_script_prologue),
    }


@contextmanager
def jobs_kept(cluster: Any, fewest: int, most: int) -> Iterator[None]:
    """Keep jobs running: as many as the work asks for, others in the place of lost ones.

    Dask counts a job that it has submitted for ever, also when it was killed, or reached its time
    limit.

    Parameters
    ----------
    cluster
        From `slurm_cluster`.
    fewest, most
        Between how many jobs to choose; a fixed number if they are the same.
    """
    last_seen: dict[str, float] = {}

    async def replace_lost_jobs() -> None:
        now = time.monotonic()
        living = {str(worker["name"]) for worker in cluster.scheduler_info["workers"].values()}
        for name, job in list(cluster.worker_spec.items()):
            if living & {f"{name}{suffix}" for suffix in job.get("group", [""])}:
                last_seen[name] = now
        for name in last_seen.keys() - cluster.worker_spec.keys():
            del last_seen[name]
        lost = [name for name, seen in last_seen.items() if now - seen > _PATIENCE_S]
        if lost:
            await cluster.scale_down(lost)
        if fewest == most:
            cluster.scale(jobs=most)

    if fewest == most:
        cluster.scale(jobs=most)
    else:
        cluster.adapt(minimum_jobs=fewest, maximum_jobs=most)
    watch = PeriodicCallback(replace_lost_jobs, 1000 * _LOOK_S)
    cluster.loop.add_callback(watch.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(watch.stop)
