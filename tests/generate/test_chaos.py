"""Random accidents, one after another: the dataset is that of a quiet run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from qmgen.dataset import open_dataset, store_digest, verify_store
from tests.generate.runs import (
    ROOT,
    Command,
    group_members,
    is_written,
    wait_for,
    write_smiles,
    write_yaml,
)

_SMILES = """
C CC CCO CO N O CN C=O CC=O C#N CCC COC C1CC1 OCC=O NC=O CF CCl CS C=C C#C CC#N CC(=O)O CNC OCO NCN
FCF CCF CCN C=CC C#CC CC=C N[C@@H](C)C(=O)O
"""
_ACCIDENTS = {
    "peace": 8,
    "worker killed": 8,
    "worker stopped": 4,
    "command killed": 1,
    "scheduler killed": 1,
}
_WORKER_MEMORY = "1300MB"


class Cluster:
    """A Dask cluster as its users start it, whose processes a test may hurt."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._starts = 0
        self.scheduler: subprocess.Popen[bytes] | None = None
        self._nannies: list[subprocess.Popen[bytes]] = []

    def start(self) -> Path:
        """Start what isn't running; gives the file that tells where the scheduler is."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.stop()
            self._starts += 1
            self.scheduler = self._process("scheduler", "--port", "0")
            assert wait_for(partial(is_written, self._file), self.scheduler)
        self._nannies = [nanny for nanny in self._nannies if nanny.poll() is None]
        preload = str(Path(__file__).with_name("chaos_worker.py"))
        while len(self._nannies) < 2:
            options = ["--nthreads", "1", "--memory-limit", _WORKER_MEMORY, "--preload", preload]
            self._nannies.append(self._process("worker", *options))
        return self._file

    def workers(self) -> list[psutil.Process]:
        """Processes that label; their nannies are spared."""
        found = []
        for nanny in self._nannies:
            try:
                found += [
                    child
                    for child in psutil.Process(nanny.pid).children(recursive=True)
                    if "spawn_main" in " ".join(child.cmdline())
                ]
            except psutil.NoSuchProcess:
                # It ended meanwhile.
                continue
        return found

    def stop(self) -> None:
        """End all processes, also those that are held up."""
        for process in (*self._nannies, self.scheduler):
            if process is None:
                continue
            for member in group_members(process.pid):
                member.kill()
            process.wait(30)
        self._nannies, self.scheduler = [], None

    @property
    def _file(self) -> Path:
        return self._folder / f"scheduler-{self._starts}.json"

    def _process(self, kind: str, *options: str) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "dask", kind, "--scheduler-file", str(self._file)]
        with (self._folder / "cluster.log").open("ab") as log:
            return subprocess.Popen(
                [*line, "--no-dashboard", *options],
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def cluster(folder: Path, environment: dict[str, str], seed: int) -> Iterator[Cluster]:
    troubled = {
        **environment,
        "CHAOS_SEED": str(seed),
        "PYTHONPATH": str(ROOT),
        # A worker that is held up is missed soon, and a worker may die often.
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20",
    }
    made = Cluster(folder, troubled)
    try:
        yield made
    finally:
        made.stop()


def address_of(file: Path) -> str:
    return json.loads(file.read_text(encoding="utf-8"))["address"]


@pytest.fixture(scope="module")
def quiet(qmgen: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, Path]:
    """Input, configuration and store of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    source = write_smiles(folder / "molecules.smi", {s: s for s in _SMILES.split()})
    config = {
        "seed": 4,
        "method": "mmff94",
        "labels": {"forces": True},
        "conformers": {"per_molecule": 20},
        "batch_conformers": 5,
    }
    written = write_yaml(folder / "run.yaml", config)
    done = qmgen("generate", source, folder / "store", "--config", written, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return source, config, folder / "store"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_chaos(
    qmgen: Command,
    quiet: tuple[Path, dict, Path],
    environment: dict[str, str],
    tmp_path: Path,
    seed: int,
) -> None:
    """Accidents befall workers, the scheduler, the command and the disk, until the run is done."""
    source, config, expected = quiet
    chance = random.Random(seed)
    output = tmp_path / "store"
    happened: list[str] = []
    with cluster(tmp_path, environment, seed) as dask:
        for _ in range(60):
            address = address_of(dask.start())
            here = {"scheduler": address}
            if seed % 2:
                # Workers commit their batches themselves.
                here["parts"] = str(tmp_path / "parts")
            run = write_yaml(tmp_path / "run.yaml", {**config, "cluster": here})
            line = ["generate", source, output, "--config", run, "--log", tmp_path / "log.jsonl"]
            if chance.random() < 0.1:
                happened.append("full disk")
                done = qmgen(*line, largest_file=chance.choice([1000, 6000, 20_000]))
                assert "Traceback" not in done.stderr
            else:
                process = qmgen.start(*line, log=tmp_path / "log")
                befall(process, dask, chance, happened, tmp_path / "log.jsonl")
                status = process.wait(240)
                told = (tmp_path / "log").read_text()
                assert "Traceback" not in told or status == -signal.SIGKILL, told
                if status == 0:
                    break
        else:
            pytest.fail(f"not done after 60 attempts: {happened}")
    assert happened
    assert store_digest(output) == store_digest(expected)
    assert verify_store(output).intact
    # One molecule of the input is there twice, which is all that went wrong.
    failures = [*open_dataset(output).failures()]
    assert failures == [*open_dataset(expected).failures()]
    assert [failure.stage for failure in failures] == ["read"]
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in output.iterdir()} == names


def befall(
    process: "subprocess.Popen[bytes]",
    dask: Cluster,
    chance: random.Random,
    happened: list[str],
    events: Path,
) -> None:
    """Let accidents happen while the command runs; returns once it is doomed, or ends by itself."""
    while process.poll() is None:
        # By batches rather than by the clock, so that a busy machine gets somewhere, too.
        wanted = lines(events) + chance.randint(0, 25)
        deadline = time.monotonic() + chance.uniform(10, 40)
        while process.poll() is None and lines(events) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = dask.workers()
        accident = chance.choices(list(_ACCIDENTS), [*_ACCIDENTS.values()])[0]
        if process.poll() is not None or accident == "peace":
            continue
        if accident == "command killed":
            os.killpg(process.pid, signal.SIGKILL)
        elif accident == "scheduler killed":
            assert dask.scheduler is not None
            dask.scheduler.kill()
        elif workers:
            stopped = accident == "worker stopped"
            with_pid = chance.choice(workers)
            try:
                with_pid.send_signal(signal.SIGSTOP if stopped else signal.SIGKILL)
            except psutil.NoSuchProcess:
                # Its nanny was faster.
                continue
        else:
            continue
        happened.append(accident)
        if accident in ("command killed", "scheduler killed"):
            return


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
