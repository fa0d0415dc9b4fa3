"""One cache of compiled programs and one Dask cluster for all tests of this folder."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import pytest
from distributed import Client
from jax.experimental.compilation_cache import compilation_cache
from pyscf import lib

from qmgen.generate import RunConfig, RunSummary, generate, load_config
from tests.generate.runs import (
    HARTREE_FOCK,
    ONE_PROGRAM,
    ROOT,
    Command,
    is_written,
    wait_for,
    write_smiles,
    write_yaml,
)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="package", autouse=True)
def _this_process(environment: dict[str, str]) -> Iterator[None]:
    """Compiled programs of this process and of the workers that it starts, too."""
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in settings}
    threads = lib.num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS"):
            # `prepare_process` appends to XLA's flags; this puts them back at the end.
            patch.setenv(name, environment.get(name, ""))
        jax.config.update(settings[0], environment["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update(settings[1], 0.0)
        compilation_cache.reset_cache()
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        lib.num_threads(threads)


@pytest.fixture(scope="session")
def qmgen(environment: dict[str, str]) -> Command:
    """The command line, in processes of their own."""
    return Command(environment)


@contextmanager
def dask_processes(
    environment: dict[str, str], folder: Path
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A scheduler and two workers as a user starts them; gives address and scheduler process."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    lines = (
        ["scheduler", "--host", "127.0.0.1", "--port", "0", *common],
        ["worker", "--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", *common],
    )
    processes = []
    with open(folder / "log", "wb") as log:
        for line in lines:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *line],
                    env=environment,
                    cwd=folder,
                    stdout=log,
                    stderr=log,
                )
            )
            assert wait_for(partial(is_written, file), processes[0])
    try:
        with Client(scheduler_file=str(file), timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address, processes[0]
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def scheduler(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a running cluster, which labels without the wait for new workers."""
    with dask_processes(environment, tmp_path_factory.mktemp("dask")) as (address, _):
        yield address


@dataclass(frozen=True)
class Finished:
    """A run that came to its end: its input, configuration and outcome."""

    source: Path
    config: RunConfig
    summary: RunSummary

    @property
    def path(self) -> Path:
        return self.summary.path


@pytest.fixture(scope="session")
def finished(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """B3LYP labels of eight molecules of three programs, the largest neither first nor last."""
    folder = tmp_path_factory.mktemp("finished")
    molecules = {
        "O": "water",
        "N#N": "nitrogen",
        "[He]": "helium",
        "[OH3+]": "",
        "C#N": "hydrogen cyanide",
        "[H][H]": "hydrogen",
        "N": "ammonia",
        "B": "borane",
    }
    source = write_smiles(folder / "molecules.smi", molecules)
    config = load_config(
        None,
        {
            "": {"seed": 11, "batch_conformers": 6},
            "conformers": {"per_molecule": 3},
            "dft": {"functional": "b3lyp", "basis": "sto-3g", "grid_level": 0},
            "cluster": {"scheduler": scheduler},
        },
    )
    return Finished(source, config, generate(source, folder / "store", config))


@dataclass(frozen=True)
class Long:
    """A run of some seconds, and what it came to when nothing disturbed it."""

    source: Path
    config: Path
    store: Path
    seconds: float
    batches: int

    def arguments(self, output: Path) -> list[object]:
        return ["generate", self.source, output, "--config", self.config]


@pytest.fixture(scope="session")
def undisturbed(qmgen: Command, tmp_path_factory: pytest.TempPathFactory) -> Long:
    folder = tmp_path_factory.mktemp("undisturbed")
    source = write_smiles(folder / "molecules.smi", ONE_PROGRAM)
    config = write_yaml(
        folder / "run.yaml",
        {
            "conformers": {"per_molecule": 24},
            "dft": HARTREE_FOCK,
            "batch_conformers": 4,
            "cluster": {"workers": 2},
        },
    )
    store = folder / "store"
    start = time.monotonic()
    done = qmgen("generate", source, store, "--config", config)
    assert done.returncode == 0, done.stderr
    return Long(source, config, store, time.monotonic() - start, 6 * len(ONE_PROGRAM))
