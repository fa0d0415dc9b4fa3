"""How the test error falls with the size of the training set: one training a size, and fits."""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError, InputError
from qmgen.training.config import TrainConfig
from qmgen.training.power_law import PowerLaw, fit_power_law, fit_power_law_with_floor
from qmgen.training.resume import CONFIG_FILE, RESULT_FILE
from qmgen.training.targets import TARGETS, Target
from qmgen.training.train import train_model

_SECONDS_FILE = "seconds.json"


@dataclass(frozen=True)
class ScalingPoint:
    """One training of the study.

    Attributes
    ----------
    size : int
        Conformers that were asked for.
    conformers, molecules : int
        What the network learnt from: whole molecules, so a few conformers less.
    epochs, best_epoch, steps : int
        Epochs and optimiser steps that were trained, and the epoch of the model.
    seconds : float
        Wall time, of all attempts where it was interrupted by Ctrl-C; a killed process leaves none.
    test_mae, val_mae, baseline_mae : dict of str to float
        By target in its unit, see `qmgen.training.TargetErrors`. All sizes have the same test rows.
    """

    size: int
    conformers: int
    molecules: int
    epochs: int
    best_epoch: int
    steps: int
    seconds: float
    test_mae: dict[Target, float]
    val_mae: dict[Target, float]
    baseline_mae: dict[Target, float]


@dataclass(frozen=True)
class ScalingLaw:
    """Outcome of `scaling_law`.

    Attributes
    ----------
    points : tuple of ScalingPoint
        One a size, ascending.
    fits : dict of str to PowerLaw
        Power law of each target's test error by number of conformers.
    with_floor : dict of str to PowerLaw
        The same with a constant, for targets that show one.
    csv, json, plot : Path
        Files written.
    """

    points: tuple[ScalingPoint, ...]
    fits: dict[Target, PowerLaw]
    with_floor: dict[Target, PowerLaw]
    csv: Path
    json: Path
    plot: Path


def scaling_law(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: TrainConfig,
    sizes: Sequence[int],
    progress: Callable[[ScalingPoint], object] = lambda _: None,
) -> ScalingLaw:
    """Train at each size and fit power laws to the test errors.

    A smaller training set is part of every larger one, and all are tested on the same rows. An
    epoch has the same number of steps at every size, by default a pass over the largest training
    set, so that no size is cut short: all have the same steps, validations and rates. A study that
    was interrupted goes on when it is called again in the same way, or with more sizes below the
    largest.

    Parameters
    ----------
    store : path
        Folder of the store.
    out : path
        Folder to write to: a training in each ``size-...``, ``scaling_law.csv``,
        ``scaling_law.json`` and ``scaling_law.png``.
    config : TrainConfig
        What to train, and how, at the largest size.
    sizes : sequence of int
        Conformers of the training split to learn from, at least two sizes.
    progress : callable
        Called with each point when it is there.

    Returns
    -------
    ScalingLaw

    Raises
    ------
    ConfigError
        `config` says itself how much to learn from, or a size is larger than the training split,
        or `out` has a study of another configuration.
    InputError
        There are fewer than two sizes, or as for `train_model`.
    StoreError
        There is no complete store.
    """
    if config.train_size is not None or config.train_molecules is not None:
        raise ConfigError(
            "a scaling law has the sizes of its training sets from --sizes; leave train_size and "
            "train_molecules out of the configuration"
        )
    ordered = sorted(set(sizes))
    if len(ordered) < 2 or ordered[0] < 1:
        raise InputError(f"a scaling law needs two sizes or more, above 0, not {list(sizes)}")
    out = Path(out)
    steps = config.epoch_steps or -(-ordered[-1] // config.batch_size)
    points = []
    # The largest first: that it is too large is known before hours of training.
    for size in reversed(ordered):
        own = config.model_copy(update={"train_size": size, "epoch_steps": steps})
        points.append(_point(store, out / f"size-{size:06d}", own, size))
        progress(points[-1])
    points.reverse()
    fits: dict[Target, PowerLaw] = {}
    with_floor: dict[Target, PowerLaw] = {}
    conformers = [point.conformers for point in points]
    for target in points[0].test_mae:
        errors = [point.test_mae[target] for point in points]
        fits[target] = fit_power_law(conformers, errors)
        if (law := fit_power_law_with_floor(conformers, errors)) is not None:
            with_floor[target] = law
    study = ScalingLaw(
        points=tuple(points),
        fits=fits,
        with_floor=with_floor,
        csv=out / "scaling_law.csv",
        json=out / "scaling_law.json",
        plot=out / "scaling_law.png",
    )
    _write(study)
    return study


def _point(
    store: str | os.PathLike[str], folder: Path, config: TrainConfig, size: int
) -> ScalingPoint:
    if (folder / RESULT_FILE).exists():
        _check(store, folder, config)
    else:
        with _timed(folder / _SECONDS_FILE):
            train_model(store, folder, config)
    result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    errors = result["errors"]
    return ScalingPoint(
        size=size,
        conformers=result["train"]["conformers"],
        molecules=result["train"]["molecules"],
        epochs=result["epochs"],
        best_epoch=result["best_epoch"],
        steps=result["steps"],
        seconds=_seconds(folder / _SECONDS_FILE),
        test_mae={target: values["test_mae"] for target, values in errors.items()},
        val_mae={target: values["val_mae"] for target, values in errors.items()},
        baseline_mae={target: values["baseline_mae"] for target, values in errors.items()},
    )


def _check(store: str | os.PathLike[str], folder: Path, config: TrainConfig) -> None:
    """Check that a complete training is of this study."""
    remedy = "choose another output or repeat the command that made it"
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        before = TrainConfig.model_validate_json(text)
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} has a training that can't be read ({error}); {remedy}"
        ) from error
    if before != config:
        raise ConfigError(f"{folder} has a training of another configuration; {remedy}")
    if result["dataset_config_hash"] != open_dataset(store).metadata.provenance.config_hash:
        raise ConfigError(f"{folder} has a training on another store than {store}; {remedy}")


@contextmanager
def _timed(path: Path) -> Iterator[None]:
    """Add the wall time of a block to a file, however it ends."""
    start = time.monotonic()
    try:
        yield
    finally:
        if path.parent.is_dir():
            seconds = _seconds(path) + time.monotonic() - start
            path.write_text(json.dumps(seconds), encoding="utf-8")


def _seconds(path: Path) -> float:
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else 0.0


def _write(study: ScalingLaw) -> None:
    with study.csv.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        plain = ("size", "conformers", "molecules", "epochs", "best_epoch", "steps", "seconds")
        errors = ("test_mae", "val_mae", "baseline_mae")
        writer.writerow([*plain, "target", "unit", *errors])
        for point in study.points:
            for target in point.test_mae:
                values = [getattr(point, name)[target] for name in errors]
                own = [getattr(point, name) for name in plain]
                writer.writerow([*own, target, TARGETS[target].unit, *values])
    content = {
        "points": [asdict(point) for point in study.points],
        "fits": {target: asdict(fit) for target, fit in study.fits.items()},
        "fits_with_floor": {target: asdict(fit) for target, fit in study.with_floor.items()},
    }
    study.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _plot(study)


def _plot(study: ScalingLaw) -> None:
    figure = Figure(figsize=(6.4, 1.0 + 3.4 * len(study.fits)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(study.fits), squeeze=False, sharex=True)[:, 0]
    sizes = [point.conformers for point in study.points]
    for axes, (target, fit) in zip(panels, study.fits.items(), strict=True):
        axes.plot(sizes, [point.test_mae[target] for point in study.points], "o", label="test")
        error = "" if fit.exponent_error is None else f" ± {fit.exponent_error:.2f}"
        axes.plot(sizes, fit(sizes), "-", lw=1, label=f"exponent {fit.exponent:.2f}{error}")
        if (bent := study.with_floor.get(target)) is not None:
            axes.plot(sizes, bent(sizes), "--", lw=1, label=f"floor {bent.floor:.3g}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(ScalarFormatter())
        axes.set_ylabel(f"mean absolute error of {target} ({TARGETS[target].unit})")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    panels[-1].set_xlabel("training conformers")
    figure.savefig(study.plot, dpi=150)
