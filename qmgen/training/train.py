"""From a store to a trained model: one call."""

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmgen.dataset import Dataset, open_dataset, package_versions
from qmgen.errors import ConfigError, InputError
from qmgen.training.checkpoint import load_model
from qmgen.training.config import TrainConfig
from qmgen.training.data import ConformerDataModule
from qmgen.training.learning_curve import LearningCurve, plot_learning_curve, read_learning_curve
from qmgen.training.model import build_schnet
from qmgen.training.selection import blocks_of
from qmgen.training.task import PropertyTask

MODEL_FILE = "model.ckpt"
_PACKAGES = ("qmgen", "torch", "schnetpack", "pytorch-lightning", "numpy")
# What is meant to be so here, and a deprecated function of torch that Lightning calls.
_EXPECTED_WARNINGS = (
    ".*does not have many workers.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*available but not used.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
)


@dataclass(frozen=True)
class SplitSize:
    """What a split has that could be used.

    Attributes
    ----------
    conformers : int
        Converged conformers with a finite target.
    molecules : int
        Molecules they belong to.
    left_out : int
        Further conformers with an element that the training split lacks.
    """

    conformers: int
    molecules: int
    left_out: int


@dataclass(frozen=True)
class TrainResult:
    """How good a model is, and where it lies.

    Attributes
    ----------
    test_mae_ev : float
        Mean absolute error of the best epoch's model on the test split, eV.
    val_mae_ev : float
        The same on the validation split, by which the epoch was chosen.
    baseline_mae_ev : float
        Error on the test split of predicting the training split's mean, eV.
    composition_mae_ev : float or None
        Error on the test split of the atom references alone, eV; None unless the target is the
        energy, of which they explain nearly all.
    best_epoch : int
        Epoch of the model, from 1.
    epochs : int
        Epochs that were trained.
    train, val, test : SplitSize
        Sizes of the splits.
    checkpoint, plot, metrics_csv, metrics_json, config_json : Path
        Files written.
    """

    test_mae_ev: float
    val_mae_ev: float
    baseline_mae_ev: float
    composition_mae_ev: float | None
    best_epoch: int
    epochs: int
    train: SplitSize
    val: SplitSize
    test: SplitSize
    checkpoint: Path
    plot: Path
    metrics_csv: Path
    metrics_json: Path
    config_json: Path


def train_model(
    dataset_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: TrainConfig,
) -> TrainResult:
    """Train a SchNet on a store's training split and test it on its test split.

    On the CPU, the same store, configuration, versions and number of threads give the same
    result. ``model.ckpt`` is written after each epoch with a lower validation error, so an
    interrupted training leaves the best model so far. The caller's random numbers are untouched.

    Parameters
    ----------
    dataset_path : path
        Folder of the store.
    out_dir : path
        Folder to write ``model.ckpt``, ``config.json``, ``metrics.csv``, ``metrics.json`` and
        ``learning_curve.png`` to; made if missing.
    config : TrainConfig
        What to train, and how.

    Returns
    -------
    TrainResult

    Raises
    ------
    InputError
        `out_dir` has a model or can't be made, or a split is of no use, or training diverged.
    StoreError
        There is no complete store.
    ConfigError
        There is no such accelerator.
    KeyboardInterrupt
        The user interrupted the training.
    """
    out = Path(os.path.abspath(out_dir))
    if os.path.lexists(out / MODEL_FILE):
        raise InputError(f"{out / MODEL_FILE} exists; choose another output or delete it")
    dataset = open_dataset(dataset_path)
    data = ConformerDataModule(dataset, config)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"can't write to {out}: {error.strerror or error}; choose another output"
        ) from error
    with _quiet_lightning(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return _train(dataset, data, config, out)


def _train(
    dataset: Dataset, data: ConformerDataModule, config: TrainConfig, out: Path
) -> TrainResult:
    model = build_schnet(config, data.standardisation, _origin(dataset))
    task = PropertyTask(model, package_versions(_PACKAGES))
    best = ModelCheckpoint(
        dirpath=out,
        filename=Path(MODEL_FILE).stem,
        monitor="val_mae_ev",
        save_weights_only=True,
        enable_version_counter=False,
    )
    stop = EarlyStopping("val_mae_ev", patience=config.stop_patience)
    trainer = _trainer(config, out, [best, stop], streamed=data.streamed)
    with _interruptible(trainer):
        trainer.fit(task, datamodule=data)
    if best.best_model_score is None or not np.isfinite(float(best.best_model_score)):
        (out / MODEL_FILE).unlink(missing_ok=True)
        raise InputError(
            f"training diverged: no epoch has a finite validation error; use a learning rate "
            f"below {config.learning_rate:g}"
        )
    model.load_state_dict(load_model(out / MODEL_FILE).state_dict())
    with _interruptible(trainer):
        (tested,) = trainer.test(task, datamodule=data, verbose=False)
    curve = read_learning_curve(out / "metrics.csv")
    baseline_ev = float(np.abs(data.test.target_ev - data.train.target_ev.mean()).mean())
    result = TrainResult(
        test_mae_ev=float(tested["test_mae_ev"]),
        val_mae_ev=float(best.best_model_score),
        baseline_mae_ev=baseline_ev,
        composition_mae_ev=_composition_mae_ev(dataset, data),
        best_epoch=_best_epoch(curve),
        epochs=len(curve.val),
        train=_size(data, "train"),
        val=_size(data, "val"),
        test=_size(data, "test"),
        checkpoint=out / MODEL_FILE,
        plot=out / "learning_curve.png",
        metrics_csv=out / "metrics.csv",
        metrics_json=out / "metrics.json",
        config_json=out / "config.json",
    )
    baselines_ev = {"mean of the training split": baseline_ev}
    if result.composition_mae_ev is not None:
        baselines_ev["atom references"] = result.composition_mae_ev
    plot_learning_curve(curve, baselines_ev, config.target, result.plot)
    _write_metrics(result, config, model.dataset)
    return result


def _trainer(config: TrainConfig, out: Path, callbacks: list[Any], *, streamed: bool) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=1,
            # One process trains. A Slurm job's variables would make Lightning wait for others.
            plugins=[LightningEnvironment()],
            max_epochs=config.epochs,
            gradient_clip_val=config.gradient_clip,
            callbacks=callbacks,
            logger=CSVLogger(out, name="", version="", flush_logs_every_n_steps=1),
            log_every_n_steps=1,
            # A stream is shuffled by the number of the epoch at which it is made.
            reload_dataloaders_every_n_epochs=int(streamed),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"can't train on the accelerator {config.accelerator!r}: {error}; use auto or cpu"
        ) from error


def _origin(dataset: Dataset) -> dict[str, Any]:
    """Say what the training set is, without where it lies."""
    metadata = dataset.metadata
    return {
        "config_hash": metadata.provenance.config_hash,
        "config": metadata.provenance.config,
        "seed": metadata.provenance.seed,
        "source_sha256": metadata.provenance.source.sha256,
        "created": metadata.created,
        "split": metadata.split.model_dump(mode="json"),
    }


def _composition_mae_ev(dataset: Dataset, data: ConformerDataModule) -> float | None:
    if not data.standardisation.per_atom:
        return None
    total = 0.0
    for part, block in blocks_of(dataset, data.test.rows, ("z",)):
        offset_ev = data.standardisation.offset_ev(block["z"], block.atom_offset)
        total += float(np.abs(data.test.target_ev[part] - offset_ev).sum())
    return total / len(data.test)


def _best_epoch(curve: LearningCurve) -> int:
    finite = {epoch: error for epoch, error in curve.val.items() if np.isfinite(error)}
    return min(finite, key=lambda epoch: finite[epoch]) + 1


def _size(data: ConformerDataModule, split: str) -> SplitSize:
    selection = getattr(data, split)
    return SplitSize(len(selection), selection.num_molecules, selection.num_left_out)


def _write_metrics(result: TrainResult, config: TrainConfig, origin: dict[str, Any]) -> None:
    splits = {name: vars(getattr(result, name)) for name in ("train", "val", "test")}
    names = ("test_mae_ev", "val_mae_ev", "baseline_mae_ev", "composition_mae_ev")
    content = {
        "target": config.target,
        **{name: getattr(result, name) for name in (*names, "best_epoch", "epochs")},
        "splits": splits,
        "dataset_config_hash": origin["config_hash"],
    }
    result.metrics_json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's greetings, and warnings of what is meant to be so."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Turn what Lightning makes of Ctrl-C back into a `KeyboardInterrupt`.

    It exits the process or returns as if nothing had happened, depending on its release, and
    ignores later interrupts for good.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if trainer.state.status == "interrupted":
            raise KeyboardInterrupt from error
        raise
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    if trainer.state.status == "interrupted":
        raise KeyboardInterrupt
