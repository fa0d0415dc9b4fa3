"""Whatever ends a run early, the same command goes on and the dataset is the same."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import open_dataset, store_digest, verify_store
from qmgen.errors import StoreIncompleteError, StoreMismatchError
from qmgen.generate import RunConfig, generate, load_config
from qmgen.generate.parts import part_path, save_part
from qmgen.generate.plan import Plan
from qmgen.generate.worker import label_batch
from tests.generate.conftest import Long
from tests.generate.runs import (
    Command,
    abandon,
    clear_message,
    dask_workers,
    group_members,
    kill_group,
    parts,
    wait_for,
)


def finish(qmgen: Command, run: Long, output: Path) -> str:
    """Run the same command to its end; gives what it printed."""
    done = qmgen(*run.arguments(output))
    assert done.returncode == 0, done.stderr
    check(run, output)
    return done.stdout


def check(run: Long, output: Path) -> None:
    assert store_digest(output) == store_digest(run.store)
    assert verify_store(output).intact
    assert {path.name for path in output.iterdir()} == {path.name for path in run.store.iterdir()}


@pytest.mark.slow
def test_killed_three_times(qmgen: Command, undisturbed: Long, tmp_path: Path) -> None:
    """Once, for certain, while it labels, and twice at random moments."""
    output = tmp_path / "store"
    moments = np.random.default_rng(20).uniform(0.1, 0.6, 2) * undisturbed.seconds
    kept = 0
    for moment in (None, *moments):
        process = qmgen.start(*undisturbed.arguments(output), log=tmp_path / "log")
        if moment is None:
            assert wait_for(lambda: len(parts(output)) >= 4, process)
        else:
            wait_for(lambda: False, process, seconds=moment)
        kill_group(process)
        if (output / "zarr.json").exists():
            # The programs are compiled by now, so it may be faster than the undisturbed run.
            break
        assert kept <= len(parts(output)) < undisturbed.batches
        kept = len(parts(output))
        with pytest.raises(StoreIncompleteError):
            open_dataset(output)
    text = finish(qmgen, undisturbed, output)
    before = f"{kept} of {undisturbed.batches} batches were done before"
    assert before in text or "is complete already" in text


@pytest.mark.slow
def test_the_main_process_alone_is_killed(
    qmgen: Command, undisturbed: Long, tmp_path: Path
) -> None:
    """Its workers end by themselves; a second process meanwhile is told to wait."""
    output = tmp_path / "store"
    process = qmgen.start(*undisturbed.arguments(output), log=tmp_path / "log")
    assert wait_for(lambda: len(parts(output)) >= 4, process)
    with pytest.raises(StoreMismatchError, match="another qmgen process is writing"):
        generate(undisturbed.source, output, load_config(undisturbed.config))
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 60
    while group_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_members(process.pid)


@pytest.mark.slow
def test_a_worker_dies(qmgen: Command, undisturbed: Long, tmp_path: Path) -> None:
    output = tmp_path / "store"
    process = qmgen.start(*undisturbed.arguments(output), log=tmp_path / "log")
    assert wait_for(lambda: len(parts(output)) >= 4, process)
    workers = dask_workers(process)
    assert len(workers) == 2
    workers[0].kill()
    assert len(parts(output)) < undisturbed.batches
    assert process.wait(120) == 0, (tmp_path / "log").read_text()
    check(undisturbed, output)


@pytest.mark.slow
def test_interrupted_from_the_keyboard(qmgen: Command, undisturbed: Long, tmp_path: Path) -> None:
    """A terminal sends the signal to the command and its workers alike."""
    output = tmp_path / "store"
    process = qmgen.start(*undisturbed.arguments(output), log=tmp_path / "log")
    assert wait_for(lambda: len(parts(output)) >= 4, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert not group_members(process.pid)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    told = [line for line in log.splitlines() if line.startswith("qmgen: ")]
    assert told == ["qmgen: interrupted; what is finished is kept and the same command goes on"]
    assert 4 <= len(parts(output)) < undisturbed.batches
    text = finish(qmgen, undisturbed, output)
    assert "batches were done before" in text


@pytest.mark.parametrize(
    "where", ["plan", *(pytest.param(x, marks=pytest.mark.slow) for x in ("part", "store"))]
)
def test_the_disk_is_full(qmgen: Command, undisturbed: Long, tmp_path: Path, where: str) -> None:
    """No room for the plan, for the batches of the second molecule, or for the store."""
    output, config = tmp_path / "store", load_config(undisturbed.config)
    largest_file = 6_000
    if where != "plan":
        abandon(undisturbed.source, output, config)
        water, ammonia = (
            part_bytes(Plan(output / "plan.sqlite"), number, config, tmp_path) for number in (0, 6)
        )
        assert water < ammonia
        largest_file = water if where == "part" else 8_000
    done = qmgen(*undisturbed.arguments(output), largest_file=largest_file)
    message = clear_message(done)
    assert "ree disk space" in message
    if where == "plan":
        assert not output.exists()
        return
    if where == "part":
        assert "parts" in message
        assert 0 < len(parts(output)) < undisturbed.batches
    else:
        assert "writing the dataset" in message
        assert len(parts(output)) == undisturbed.batches
    kept = len(parts(output))
    text = finish(qmgen, undisturbed, output)
    assert f"{kept} of {undisturbed.batches} batches were done before" in text


def part_bytes(plan: Plan, number: int, config: RunConfig, folder: Path) -> int:
    save_part(folder, number, label_batch(plan.batch(number), config, 1))
    return part_path(folder, number).stat().st_size
