"""Clusters that somebody else runs: a Dask scheduler, and Slurm's job scripts."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_jobqueue.slurm import SLURMJob
from distributed import Client

from qmgen.dataset import open_dataset, store_digest
from qmgen.errors import ConfigError
from qmgen.generate import RunConfig, generate
from qmgen.generate.cluster import available_cores, connect
from qmgen.generate.config import ClusterConfig, SlurmConfig
from qmgen.generate.slurm import job_options
from tests.generate.conftest import Long, dask_processes
from tests.generate.runs import Command, clear_message, parts, wait_for, write_smiles, write_yaml


@pytest.fixture(scope="module", autouse=True)
def unreachable(
    qmgen: Command, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple["subprocess.Popen[bytes]", Path, float]]:
    """A command whose scheduler isn't there; it waits 15 s for it while other tests run."""
    folder = tmp_path_factory.mktemp("unreachable")
    source = write_smiles(folder / "molecules.smi", {"O": "water"})
    arguments = ["generate", source, folder / "store", "--scheduler", "tcp://127.0.0.1:9"]
    start = time.monotonic()
    process = qmgen.start(*arguments, log=folder / "log")
    yield process, folder / "log", start
    process.kill()
    process.wait()


def test_the_command_labels_on_a_running_cluster(
    qmgen: Command, scheduler: str, tmp_path: Path
) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water", "N": "ammonia"})
    options = ["--functional", "hf", "--conformers", 2, "--scheduler", scheduler]
    done = qmgen("generate", source, tmp_path / "store", *options)
    assert done.returncode == 0, done.stderr
    assert f"labelling on {scheduler}" in done.stdout
    assert open_dataset(tmp_path / "store").column("converged").tolist() == [True] * 4
    with Client(scheduler, set_as_default=False) as client:
        # What others run is left running.
        assert len(client.scheduler_info()["workers"]) == 2


@pytest.mark.parametrize("address", ["nonsense://127.0.0.1:9", "127.0.0.1:port"])
def test_an_address_that_is_none(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="can't reach the Dask scheduler"),
        connect(ClusterConfig(scheduler=address), 1),
    ):
        pass


def test_two_clusters_at_once(tmp_path: Path) -> None:
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water"})
    both = ClusterConfig(scheduler="tcp://127.0.0.1:9", slurm=SlurmConfig())
    with pytest.raises(ConfigError, match="either scheduler or slurm, not both"):
        generate(source, tmp_path / "store", RunConfig(cluster=both))


def test_workers_share_the_cores() -> None:
    with connect(ClusterConfig(workers=1, worker_threads=3), 5) as cluster:
        assert cluster.threads == 3
        assert len(cluster.client.scheduler_info()["workers"]) == 1
    # No more workers than batches, which don't get more cores for that.
    with connect(ClusterConfig(workers=available_cores()), 1) as cluster:
        assert len(cluster.client.scheduler_info()["workers"]) == 1
        assert cluster.threads == 1


def test_slurm_job_scripts_ask_for_what_is_configured() -> None:
    config = SlurmConfig(
        jobs=3,
        queue="compute",
        account="chemistry",
        cores=12,
        processes=4,
        memory="48GB",
        walltime="07:30:00",
        job_extra_directives=("--constraint=avx2",),
        job_script_prologue=("source .venv/bin/activate",),
    )
    job = SLURMJob(scheduler="tcp://127.0.0.1:9", name="worker", **job_options(config))
    script = job.job_script()
    lines = script.splitlines()
    for line in (
        "#SBATCH -p compute",
        "#SBATCH -A chemistry",
        "#SBATCH --cpus-per-task=12",
        # 48e9 bytes in GiB, which Slurm calls G.
        "#SBATCH --mem=45G",
        "#SBATCH -t 07:30:00",
        "#SBATCH --constraint=avx2",
        "source .venv/bin/activate",
    ):
        assert line in lines, script
    assert "--nworkers 4" in script
    assert "--nthreads 3" in script


@pytest.mark.slow
def test_a_scheduler_that_dies_is_no_molecule_s_fault(
    qmgen: Command, undisturbed: Long, environment: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "store"
    (tmp_path / "dask").mkdir()
    with dask_processes(environment, tmp_path / "dask") as (address, process):
        config = write_yaml(
            tmp_path / "run.yaml",
            {
                **RunConfig.model_validate(
                    open_dataset(undisturbed.store).metadata.provenance.config
                ).science(),
                "cluster": {"scheduler": address},
            },
        )
        run = qmgen.start(
            "generate", undisturbed.source, output, "--config", config, log=tmp_path / "log"
        )
        assert wait_for(lambda: len(parts(output)) >= 4, run)
        process.kill()
        assert run.wait(90) == 1
    log = (tmp_path / "log").read_text()
    # Dask's client may log a traceback of its own; none comes from the command.
    assert "cli.py" not in log
    told = [line for line in log.splitlines() if line.startswith("qmgen: ")]
    assert told == [
        "qmgen: lost the Dask scheduler; finished batches are kept, run the same command again"
    ]
    assert 4 <= len(parts(output)) < undisturbed.batches
    done = qmgen(*undisturbed.arguments(output))
    assert done.returncode == 0, done.stderr
    assert store_digest(output) == store_digest(undisturbed.store)


def test_a_cluster_without_qmgen_is_no_molecule_s_fault(
    qmgen: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    # In its place these processes find a package that can't be imported.
    hidden = tmp_path / "hidden" / "qmgen"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(name='qmgen')\n")
    bare = environment | {"PYTHONPATH": str(hidden.parent)}
    source = write_smiles(tmp_path / "molecules.smi", {"O": "water", "N": "ammonia"})
    (tmp_path / "dask").mkdir()
    with dask_processes(bare, tmp_path / "dask") as (address, _):
        done = qmgen("generate", source, tmp_path / "store", "--scheduler", address)
    message = clear_message(done)
    assert "environment" in message
    assert not parts(tmp_path / "store")


def test_a_scheduler_that_is_not_there(
    unreachable: tuple["subprocess.Popen[bytes]", Path, float],
) -> None:
    process, log, start = unreachable
    # Where tests before this one took longer, it must have ended already.
    assert process.wait(max(0.1, start + 120 - time.monotonic())) == 1
    lines = log.read_text().splitlines()
    (message,) = [line for line in lines if line.startswith("qmgen: ")]
    assert "can't reach the Dask scheduler tcp://127.0.0.1:9" in message
    assert "start one with" in message
    assert message == lines[-1]
    assert not any("Traceback" in line for line in lines)
