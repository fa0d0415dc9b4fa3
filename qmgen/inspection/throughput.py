"""How fast a run went: conformers and failures over the time at work."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from qmgen.inspection.charts import TimeBar, TimeMark, number_text, time_chart
from qmgen.inspection.run_history import Attempt, RunHistory

# Widths of an interval, seconds.
_WIDTHS = (1, 2, 5, 10, 15, 30, *(60 * m for m in (1, 2, 5, 10, 15, 30)))
_WIDTHS += tuple(3600 * h for h in (1, 2, 4, 6, 12, 24))
# The first width counts that makes no more intervals than this, nor, as far as there are batches
# enough, fewer batches than three an interval on average, which would leave gaps in a steady run.
_MOST, _FEW = 80, 8
_BATCHES = 3
_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@dataclass(frozen=True, eq=False)
class Throughput:
    """What was finished in each interval of the time at work, pauses between attempts cut out.

    Attributes
    ----------
    edges : Float64[n + 1]
        Bounds of the intervals, in seconds at work; the last interval may be shorter.
    conformers, failures : Int64[n]
        Finished in each.
    breaks : Float64[nbreak]
        Where one attempt ended and the next began, in seconds at work.
    """

    edges: Float[np.ndarray, " bounds"]
    conformers: Int64[np.ndarray, " n"]
    failures: Int64[np.ndarray, " n"]
    breaks: Float[np.ndarray, " nbreak"]

    @property
    def per_minute(self) -> Float[np.ndarray, " n"]:
        """Conformers finished per minute in each interval."""
        return self.conformers / np.diff(self.edges) * 60.0


def throughput(history: RunHistory) -> Throughput:
    """Add up a run's batches by intervals of the time at work."""
    lengths = np.array([a.last - a.start for a in history.attempts])
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    # Of a log of a single moment something must be drawn, too.
    total = max(float(begins[-1]), 1.0)
    batches = [batch for attempt in history.attempts for batch in attempt.batches]
    most = min(max(len(batches) // _BATCHES, _FEW), _MOST)
    width = next((float(w) for w in _WIDTHS if total / w <= most), _days(total / most))
    number = max(1, int(-(-total // width)))
    # The last event lies on the last edge.
    edges = np.minimum(width * np.arange(number + 1), total)
    at = [
        begin + batch.seconds - attempt.start
        for begin, attempt in zip(begins.tolist(), history.attempts, strict=False)
        for batch in attempt.batches
    ]
    # A clock that was set back must not lead out of the chart.
    place = np.clip((np.array(at, dtype=np.float64) / width).astype(np.int64), 0, number - 1)

    def total_of(values: list[int]) -> Int64[np.ndarray, " n"]:
        return np.bincount(place, np.array(values, np.float64), number).astype(np.int64)

    return Throughput(
        edges,
        total_of([b.conformers for b in batches]),
        total_of([b.failures for b in batches]),
        begins[1:-1],
    )


def _days(seconds: float) -> float:
    """Whole days that hold so many seconds, in seconds."""
    return math.ceil(seconds / 86400) * 86400.0


def run_section(history: RunHistory) -> dict[str, Any]:
    """What the report shows of a run: two charts, and a table of its attempts."""
    found = throughput(history)
    total = float(found.edges[-1])
    seconds, unit = next((s, u) for s, u in _UNITS if total >= 2 * s or s == 1.0)
    edges, breaks = found.edges / seconds, found.breaks / seconds
    title = f"time at work ({unit})"
    marks = [
        TimeMark(place, f"interrupted {_clock(before.last)}\nwent on {_clock(after.start)}")
        for place, before, after in zip(
            breaks.tolist(), history.attempts[:-1], history.attempts[1:], strict=True
        )
    ]

    def bars(values: list[float], text: str) -> list[TimeBar]:
        spans = zip(edges[:-1].tolist(), edges[1:].tolist(), values, strict=True)
        return [
            TimeBar(a, b, v, f"{number_text(a)} to {number_text(b)} {unit}: {number_text(v)}{text}")
            for a, b, v in spans
        ]

    conformers, failures = int(found.conformers.sum()), int(found.failures.sum())
    interrupted = f"{len(marks)} interruption{'' if len(marks) == 1 else 's'}"
    return {
        "conformers": history.conformers,
        "mean": conformers / total * 60.0,
        "work": f"{number_text(total / seconds)} {unit}",
        "interrupted": interrupted,
        "rate": time_chart(
            bars(found.per_minute.tolist(), " a minute"),
            marks,
            title,
            "conformers per minute",
            f"Conformers finished per minute over {title}: {conformers} in all, {interrupted}",
        ),
        "failed": time_chart(
            bars(found.failures.astype(np.float64).tolist(), " failures"),
            marks,
            title,
            "failures",
            f"Failures over {title}: {failures} in all, {interrupted}",
            "integer",
        ),
        "failures": failures,
        "attempts": list(_rows(history.attempts)),
    }


def _rows(attempts: tuple[Attempt, ...]) -> Iterator[dict[str, Any]]:
    for i, attempt in enumerate(attempts, start=1):
        if attempt.ended:
            end = "finished"
        else:
            end = "interrupted" if i < len(attempts) else "the log stops here"
        yield {
            "start": _clock(attempt.start),
            "minutes": (attempt.last - attempt.start) / 60.0,
            "conformers": sum(b.conformers for b in attempt.batches),
            "failures": sum(b.failures for b in attempt.batches),
            "end": end,
        }


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
