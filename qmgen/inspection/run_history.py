"""What the log of `qmgen generate --log` tells of a dataset's run."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qmgen.dataset import Dataset
from qmgen.errors import InputError


@dataclass(frozen=True)
class FinishedBatch:
    """A batch that was committed.

    Attributes
    ----------
    seconds : float
        When, in seconds since 1970.
    number : int
        Number of the batch in the run's plan.
    conformers : int
        Conformers with labels.
    failures : int
        What got no label, or one that is not converged.
    """

    seconds: float
    number: int
    conformers: int
    failures: int


@dataclass(frozen=True)
class Attempt:
    """One process's part of a run.

    Attributes
    ----------
    start, last : float
        Its first and its last event, in seconds since 1970.
    ended : bool
        Whether it wrote the store.
    batches : tuple of FinishedBatch
        In the order of the log.
    """

    start: float
    last: float
    ended: bool
    batches: tuple[FinishedBatch, ...]


@dataclass(frozen=True)
class RunHistory:
    """The attempts at a run, in the order of their starts.

    Attributes
    ----------
    attempts : tuple of Attempt
        At least one; with several, all but the last were interrupted.
    """

    attempts: tuple[Attempt, ...]

    @property
    def conformers(self) -> int:
        """Conformers of the batches that the log has; one that was done again counts once."""
        last = {b.number: b.conformers for attempt in self.attempts for b in attempt.batches}
        return sum(last.values())


@dataclass(frozen=True)
class _Event:
    line: int
    seconds: float
    kind: str
    process: int
    values: dict[str, Any]


class _Collected:
    """An attempt while its events are read."""

    def __init__(self, output: str | None, start: float) -> None:
        self.output = output
        self.start = self.last = start
        self.ended = False
        self.batches: list[FinishedBatch] = []


def read_run_history(path: str | os.PathLike[str], dataset: Dataset) -> RunHistory:
    """Read the history of a dataset's run from a log that `qmgen generate --log` appended to.

    Of a log of several runs it is the last one whose output had the store's name; a log of one run
    may be of a store that has been renamed.

    Parameters
    ----------
    path : path
        The log.
    dataset : Dataset
        The store that the run made.

    Returns
    -------
    RunHistory

    Raises
    ------
    InputError
        The file can't be read, a line of it is no event of a run, or it is about another store.
    """
    path = Path(path)
    attempts = _attempts(path)
    outputs = {a.output for a in attempts if a.output is not None}
    if len(outputs) > 1:
        attempts = [a for a in attempts if a.output and Path(a.output).name == dataset.path.name]
    if not attempts:
        raise InputError(
            f"{path}: {_what(outputs)}, none of which is {dataset.path.name}; give the log of the "
            "run that made it"
        )
    # What comes after an end is another run in the same place.
    ends = [i for i, attempt in enumerate(attempts[:-1]) if attempt.ended]
    attempts = attempts[ends[-1] + 1 :] if ends else attempts
    history = RunHistory(
        tuple(Attempt(a.start, a.last, a.ended, tuple(a.batches)) for a in attempts)
    )
    if history.conformers > len(dataset):
        raise InputError(
            f"{path} has {history.conformers} labelled conformers, more than the {len(dataset)} of "
            f"{dataset.path}; give the log of the run that made it"
        )
    return history


def _what(outputs: set[str]) -> str:
    return f"the log of runs that make {', '.join(sorted(outputs))}" if outputs else "no events"


def _attempts(path: Path) -> list[_Collected]:
    found: list[_Collected] = []
    current: dict[int, _Collected] = {}
    for event in _events(path):
        if event.kind == "start" or event.process not in current:
            # A log that was moved away during the run goes on without a start.
            output = _text(path, event, "output") if event.kind == "start" else None
            current[event.process] = _Collected(output, event.seconds)
            found.append(current[event.process])
        attempt = current[event.process]
        attempt.last = max(attempt.last, event.seconds)
        if event.kind == "batch":
            attempt.batches.append(_batch(path, event))
        elif event.kind == "end":
            attempt.ended = True
            del current[event.process]
    return sorted(found, key=lambda attempt: attempt.start)


def _events(path: Path) -> Iterator[_Event]:
    try:
        with path.open(encoding="utf-8") as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    yield _event(path, line, text)
    except OSError as error:
        raise InputError(
            f"can't read the log {path}: {error.strerror or error}; give the file that "
            "qmgen generate --log wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text; give the file that qmgen generate --log wrote"
        ) from error


def _event(path: Path, line: int, text: str) -> _Event:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _no_event(path, line, f"no JSON: {error}") from error
    if not isinstance(values, dict):
        raise _no_event(path, line, "not an object")
    kind, process, time = (values.get(name) for name in ("event", "process", "time"))
    if not isinstance(kind, str) or type(process) is not int or not isinstance(time, str):
        raise _no_event(path, line, "without event, process or time")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError as error:
        raise _no_event(path, line, f"time {time!r} is no ISO 8601") from error
    if moment.tzinfo is None:
        raise _no_event(path, line, f"time {time!r} has no time zone")
    return _Event(line, moment.timestamp(), kind, process, values)


def _batch(path: Path, event: _Event) -> FinishedBatch:
    number, conformers, failures = (
        event.values.get(name) for name in ("batch", "conformers", "failures")
    )
    if type(number) is not int or type(conformers) is not int or not isinstance(failures, list):
        raise _no_event(path, event.line, "a batch without number, conformers or failures")
    return FinishedBatch(event.seconds, number, conformers, len(failures))


def _text(path: Path, event: _Event, name: str) -> str:
    value = event.values.get(name)
    if not isinstance(value, str):
        raise _no_event(path, event.line, f"a {event.kind} without {name}")
    return value


def _no_event(path: Path, line: int, why: str) -> InputError:
    return InputError(
        f"{path}, line {line}: no event of a run ({why}); give the file that qmgen generate --log "
        "wrote, or delete the line if a crash cut it"
    )
