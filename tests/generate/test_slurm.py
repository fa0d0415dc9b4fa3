"""Slurm runs, with commands of Slurm that start a job's script on this machine."""

import os
import signal
import time
from pathlib import Path

import pytest

from qmgen.dataset import store_digest
from tests.generate.runs import Command, wait_for, write_smiles, write_yaml

_SBATCH = """#!/bin/sh
setsid sh "$1" >> {folder}/jobs.log 2>&1 < /dev/null &
echo $! >> {folder}/submitted
echo "Submitted batch job $!"
"""
_SCANCEL = """#!/bin/sh
kill -- -"$1"
"""
_CONFIG = {
    "method": "mmff94",
    "conformers": {"per_molecule": 40},
    "batch_conformers": 5,
}


@pytest.fixture
def slurm(environment: dict[str, str], tmp_path: Path) -> Command:
    """The command where `sbatch` and `scancel` are; a job's number is that of its process group."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, script in (("sbatch", _SBATCH), ("scancel", _SCANCEL)):
        (folder / name).write_text(script.format(folder=folder), encoding="utf-8")
        (folder / name).chmod(0o755)
    return Command({**environment, "PATH": f"{folder}:{environment['PATH']}"})


def submitted(tmp_path: Path) -> list[int]:
    written = tmp_path / "slurm" / "submitted"
    return [int(line) for line in written.read_text().split()] if written.exists() else []


@pytest.mark.parametrize("fewest", [None, 0])
def test_a_lost_job_is_replaced(
    slurm: Command, qmgen: Command, tmp_path: Path, fewest: int | None
) -> None:
    """Jobs come when there is work, another one instead of one that ended, and all end with it."""
    source = write_smiles(
        tmp_path / "molecules.smi", {s: s for s in ("CCO", "CCN", "CCC", "CCF", "COC", "CNC")}
    )
    config = {
        **_CONFIG,
        "cluster": {
            "slurm": {
                "jobs": 1,
                "fewest_jobs": fewest,
                "cores": 1,
                "processes": 1,
                "memory": "2GB",
                "interface": "lo",
            }
        },
    }
    written = write_yaml(tmp_path / "run.yaml", config)
    line = ["generate", source, tmp_path / "store", "--config", written]
    process = slurm.start(*line, log=tmp_path / "log")
    assert wait_for(lambda: [*tmp_path.glob("store/parts/*/*.npz")], process)
    first = submitted(tmp_path)
    assert len(first) == 1
    os.killpg(first[0], signal.SIGKILL)
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    told = (tmp_path / "log").read_text()
    assert f"labelling on {'' if fewest is None else 'up to '}1 Slurm job," in told
    assert "Traceback" not in told
    for job in submitted(tmp_path):
        assert ended(job), (tmp_path / "slurm" / "jobs.log").read_text()
    assert len(submitted(tmp_path)) > 1

    here = write_yaml(tmp_path / "here.yaml", {**_CONFIG, "cluster": {"workers": 1}})
    done = qmgen("generate", source, tmp_path / "quiet", "--config", here)
    assert done.returncode == 0, done.stderr
    assert store_digest(tmp_path / "store") == store_digest(tmp_path / "quiet")


def ended(group: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
