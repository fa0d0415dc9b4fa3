"""Inputs of tests, and runs of the command as its users start them."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from qmgen.errors import ConfigError
from qmgen.generate import RunConfig, generate
from qmgen.generate.config import ClusterConfig, SlurmConfig

ROOT = Path(__file__).parents[2]

# In STO-3G all of them have 5 to 8 orbitals on at most 4 atoms, so one program labels them all.
ONE_PROGRAM = {
    "O": "water",
    "N": "ammonia",
    "F": "hydrogen fluoride",
    "[OH-]": "hydroxide",
    "[OH3+]": "hydronium",
    "[NH2-]": "amide",
    "B": "borane",
    "[LiH]": "lithium hydride",
}
HARTREE_FOCK = {"functional": "hf", "basis": "sto-3g", "grid_level": 0}


def write_smiles(path: Path, molecules: Mapping[str, str]) -> Path:
    """Write a .smi file."""
    lines = (f"{smiles} {name}\n" for smiles, name in molecules.items())
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_yaml(path: Path, values: Mapping[str, Any]) -> Path:
    """Write a configuration."""
    path.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
    return path


def clear_message(done: "subprocess.CompletedProcess[str]") -> str:
    """Give the one line that a failed command says on stderr."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("qmgen: ")
    return lines[0]


def abandon(source: Path, output: Path, config: RunConfig) -> None:
    """Begin a run whose cluster can't be had, which leaves its plan."""
    contradiction = ClusterConfig(scheduler="tcp://127.0.0.1:9", slurm=SlurmConfig())
    with pytest.raises(ConfigError, match="not both"):
        generate(source, output, config.model_copy(update={"cluster": contradiction}))
    assert (output / "plan.sqlite").exists()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write no file beyond a size (bytes), as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


_LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Command:
    """The `qmgen` command in an environment of its own."""

    environment: dict[str, str]

    def __call__(
        self, *arguments: object, largest_file: int | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run it to its end; `largest_file` (bytes) makes the disk full beyond that."""
        line = self._line(arguments)
        if largest_file is not None:
            line = [sys.executable, "-c", _LIMITED, str(largest_file), *line]
        return subprocess.run(
            line,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def start(self, *arguments: object, log: Path) -> "subprocess.Popen[bytes]":
        """Start it in a process group of its own, as a terminal does."""
        with open(log, "wb") as stream:
            return subprocess.Popen(
                self._line(arguments),
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _line(self, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "qmgen.cli", *map(str, arguments)]


def parts(output: Path) -> list[Path]:
    """Committed batches of an unfinished run."""
    return sorted(output.glob("parts/*/*.npz"))


def wait_for(
    condition: Callable[[], object], process: "subprocess.Popen[bytes]", seconds: float = 120
) -> bool:
    """Wait until something holds, or the process or the time has ended; says whether it held."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def is_written(scheduler_file: Path) -> bool:
    """Whether Dask's file of a scheduler has its address; it is there before it is written."""
    try:
        return "address" in json.loads(scheduler_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def group_members(group: int) -> list[psutil.Process]:
    """Living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            # It ended meanwhile.
            continue
    return found


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End a run and its workers at once, as a power cut does, and wait until they are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 30
    while group_members(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def dask_workers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Worker processes of a run on this machine."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
