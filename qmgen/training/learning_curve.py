"""Reads the errors that a training logged, and draws them."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True)
class LearningCurve:
    """Mean absolute errors by epoch, eV.

    Attributes
    ----------
    train, val : dict of int to float
        Error by epoch, from 0; epochs that a run did not finish are missing.
    """

    train: dict[int, float]
    val: dict[int, float]


def read_learning_curve(metrics_csv: Path) -> LearningCurve:
    """Read the errors from a log of Lightning's ``CSVLogger``."""
    curves: dict[str, dict[int, float]] = {"train_mae_ev": {}, "val_mae_ev": {}}
    with metrics_csv.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, values in curves.items():
                if row.get(name):
                    values[int(row["epoch"])] = float(row[name])
    return LearningCurve(curves["train_mae_ev"], curves["val_mae_ev"])


def plot_learning_curve(
    curve: LearningCurve, baselines_ev: Mapping[str, float], target: str, path: Path
) -> None:
    """Draw errors against epochs, and baselines as dashed lines.

    Parameters
    ----------
    curve : LearningCurve
        Errors.
    baselines_ev : mapping of str to float
        Errors of predictors to beat by name, eV.
    target : str
        Name of the label.
    path : Path
        PNG file to write.
    """
    # No pyplot: it would keep the figure and choose a backend for the whole process.
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, values in (("training", curve.train), ("validation", curve.val)):
        epochs = [epoch + 1 for epoch in values]
        axes.plot(epochs, list(values.values()), marker="o", markersize=2.5, label=name)
    for i, (name, error_ev) in enumerate(baselines_ev.items()):
        axes.axhline(error_ev, color=f"{0.2 + 0.3 * i}", linestyle="--", linewidth=1, label=name)
    shown = [*curve.train.values(), *curve.val.values(), *baselines_ev.values()]
    if all(math.isfinite(value) and value > 0 for value in shown):
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"mean absolute error of {target} (eV)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=150)
