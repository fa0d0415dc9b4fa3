"""The history of a run: read from its log, cut at interruptions, refused where it is none."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import Dataset
from qmgen.inspection import read_run_history
from qmgen.inspection.run_history import Attempt, FinishedBatch, RunHistory
from qmgen.inspection.throughput import run_section, throughput
from tests.inspection.conftest import HOSTILE, fails, log_line, text_of, write_log

START = {"output": "runs/store.zarr"}
BATCH = {"batch": 0, "conformers": 3, "failures": []}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_attempts_follow_each_other(dataset: Dataset, tmp_path: Path) -> None:
    history = read_run_history(write_log(tmp_path / "run.jsonl", dataset), dataset)
    first, second = history.attempts
    assert (first.last - first.start, second.start - first.last) == (720.0, 3600.0)
    assert (first.ended, second.ended) == (False, True)
    assert [b.number for b in first.batches] == list(range(12))
    assert history.conformers == len(dataset)
    found = throughput(history)
    # What is lost in the pause is not drawn, and nothing else is lost.
    assert found.edges[-1] == 60.0 * -(-len(dataset) // 2)
    assert found.breaks.tolist() == [720.0]
    assert (found.conformers.sum(), found.failures.sum()) == (len(dataset), 1)
    np.testing.assert_allclose(found.per_minute @ np.diff(found.edges) / 60, len(dataset))
    # Batch 5 was finished after 360 s at work.
    assert np.searchsorted(found.edges, 360.0, side="right") == found.failures.argmax() + 1


@pytest.mark.parametrize("seconds", [0.0, 0.4, 75.0, 86400.0, 3e8])
def test_a_chart_has_few_intervals_whatever_the_run_took(seconds: float) -> None:
    batches = tuple(FinishedBatch(5.0 + seconds * k / 9, k, 2, k % 2) for k in range(10))
    found = throughput(RunHistory((Attempt(5.0, 5.0 + seconds, True, batches),)))
    assert 1 <= len(found.conformers) <= 80
    assert (found.conformers.sum(), found.failures.sum()) == (20, 5)
    assert (np.diff(found.edges) > 0).all()
    section = run_section(RunHistory((Attempt(5.0, 5.0 + seconds, True, batches),)))
    assert section["conformers"] == 20


def test_a_clock_that_was_set_back(dataset: Dataset, tmp_path: Path) -> None:
    lines = log_line(100, "start", **START), log_line(40, "batch", **BATCH)
    history = read_run_history(write(tmp_path / "log", *lines), dataset)
    assert throughput(history).conformers.tolist() == [3]


def test_the_last_run_of_the_store_counts(dataset: Dataset, tmp_path: Path) -> None:
    mine = {"output": f"/runs/{dataset.path.name}"}
    lines = [
        log_line(0, "start", **mine),
        log_line(1, "batch", **BATCH),
        log_line(2, "end"),
        # In the same place, after the first one was deleted; another run goes on meanwhile.
        log_line(10, "start", **mine),
        log_line(11, "start", process=8, **START),
        log_line(12, "batch", process=8, **BATCH),
        log_line(13, "batch", **BATCH | {"conformers": 5}),
        log_line(14, "damaged", reason="a part"),
        log_line(15, "batch", **BATCH | {"conformers": 5}),
    ]
    log = write(tmp_path / "log", *lines, "\n")
    (attempt,) = read_run_history(log, dataset).attempts
    assert [b.conformers for b in attempt.batches] == [5, 5]
    assert read_run_history(log, dataset).conformers == 5
    assert run_section(read_run_history(log, dataset))["attempts"][0]["end"] == "the log stops here"
    # A store that was renamed is found if the log has no other.
    assert read_run_history(write(log, *lines[4:6]), dataset).conformers == 3
    # So is a log whose beginning was moved away.
    assert read_run_history(write(log, *lines[5:6]), dataset).conformers == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("C methane\n", "no JSON"),
        ("12\n", "not an object"),
        ('{"event": "start", "process": 7}\n', "without event, process or time"),
        (log_line(1, "start").replace("2026", "in 26"), "is no ISO 8601"),
        (log_line(1, "start", **START).replace("+00:00", ""), "has no time zone"),
        (log_line(1, "start"), "a start without output"),
        (log_line(1, "batch", batch=1), "a batch without number, conformers or failures"),
        (log_line(1, "batch", **BATCH)[:-20], "no JSON"),
    ],
)
def test_what_is_no_log(dataset: Dataset, tmp_path: Path, line: str, words: str) -> None:
    log = write(tmp_path / "log", log_line(0, "start", **START), line)
    told = fails(lambda: read_run_history(log, dataset))
    assert told.startswith(f"{log}, line 2: no event of a run (")
    assert words in told
    assert "qmgen generate --log" in told


def test_logs_of_others(dataset: Dataset, tmp_path: Path) -> None:
    log = tmp_path / "log"
    many = log_line(1, "batch", **BATCH | {"conformers": 1000})
    starts = [log_line(0, "start", output=name) for name in ("a.zarr", "b.zarr")]
    for lines, words in (
        ([starts[0], many], f"1000 labelled conformers, more than the {len(dataset)}"),
        (starts, "the log of runs that make a.zarr, b.zarr"),
        ([], "no events"),
    ):
        assert words in fails(lambda lines=lines: read_run_history(write(log, *lines), dataset))
    log.write_bytes(b"\xff\xfe\x00")
    assert "is no text" in fails(lambda: read_run_history(log, dataset))
    assert "can't read the log" in fails(lambda: read_run_history(tmp_path, dataset))


def test_command(dataset: Dataset, tmp_path: Path) -> None:
    log, out = write_log(tmp_path / "run.jsonl", dataset), tmp_path / "report.html"
    line = ["report", str(dataset.path), "--out", str(out), "--log", str(log)]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = text_of(out)
    assert f"The log has {len(dataset)} of the {len(dataset)} conformers: " in page
    assert "1 interruption." in page
    assert "2026-01-01 01:12:00 UTC" in page
    assert HOSTILE not in page
