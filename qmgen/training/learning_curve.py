"""Writes, reads and draws the errors of a training, epoch by epoch."""

import csv
import math
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qmgen.training.files import write_in_one_go
from qmgen.training.targets import TARGETS, Target, mae_name

Row = dict[str, float]
"""``epoch`` (from 1), ``step``, ``learning_rate``, and errors by their `mae_name`."""


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a log."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{n: float(value) for n, value in row.items()} for row in csv.DictReader(stream)]


def keep_epochs(path: Path, number: int) -> None:
    """Cut a log after so many epochs, in one go; without any there is no log."""
    if not number:
        path.unlink(missing_ok=True)
        return
    with path.open("rb") as stream:
        lines = list(islice(stream, 1 + number))
    write_in_one_go(path, lambda part: part.write_bytes(b"".join(lines)))


def append_row(row: Mapping[str, float | int], path: Path) -> None:
    """Add an epoch to a log; it is on the disk when this returns."""
    header = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if header:
            writer.writerow(row)
        writer.writerow(row.values())
        stream.flush()
        os.fsync(stream.fileno())


def plot_learning_curve(
    rows: list[Row], trivial: Mapping[Target, tuple[str, float]], path: Path
) -> None:
    """Draw errors against epochs, one panel a target.

    Parameters
    ----------
    rows : list of dict
        Errors.
    trivial : mapping of str to (str, float)
        Name and error of a predictor to beat by target, in the target's unit; a dashed line.
    path : Path
        PNG file to write.
    """
    # No pyplot: it would keep the figure and choose a backend for the whole process.
    figure = Figure(figsize=(6.4, 1.0 + 3.0 * len(trivial)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(trivial), squeeze=False, sharex=True)[:, 0]
    for axes, (target, baseline) in zip(panels, trivial.items(), strict=True):
        _draw(axes, rows, target, *baseline)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, rows: list[Row], target: Target, name: str, error: float) -> None:
    epochs = [row["epoch"] for row in rows]
    shown = [error]
    for split, label in (("train", "training"), ("val", "validation")):
        values = [row[mae_name(split, target)] for row in rows]
        axes.plot(epochs, values, marker="o", markersize=2.5, label=label)
        shown += values
    axes.axhline(error, color="0.2", linestyle="--", linewidth=1, label=name)
    if all(math.isfinite(value) and value > 0 for value in shown):
        axes.set_yscale("log")
    axes.set_ylabel(f"mean absolute error of {target} ({TARGETS[target].unit})", fontsize="small")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
