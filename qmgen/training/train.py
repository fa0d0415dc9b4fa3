"""From a store to a trained model: one call."""

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmgen.dataset import Dataset, open_dataset, package_versions
from qmgen.errors import ConfigError, InputError
from qmgen.training.checkpoint import load_model
from qmgen.training.config import TrainConfig
from qmgen.training.data import ConformerDataModule
from qmgen.training.ema import MovingAverage
from qmgen.training.files import PART
from qmgen.training.fine_tuning import copy_weights, load_initial
from qmgen.training.interruption import interruptible, quiet_lightning
from qmgen.training.learning_curve import keep_epochs, plot_learning_curve, read_rows
from qmgen.training.model import PropertyModel, build_model
from qmgen.training.recorder import COSTS_FILE, METRICS_FILE, MODEL_FILE, STATE_FILE, Recorder
from qmgen.training.result import TrainResult, size_of, target_errors, write_metrics
from qmgen.training.resume import CONFIG_FILE, RESULT_FILE, Unfinished, find_unfinished
from qmgen.training.task import PropertyTask

_PACKAGES = ("qmgen", "torch", "schnetpack", "pytorch-lightning", "numpy")


def train_model(
    dataset_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: TrainConfig,
) -> TrainResult:
    """Train a network on a store's training split and test it on its test split.

    On the CPU, the same store, configuration, versions and number of threads give the same
    result. After each epoch the state is written, and the best model so far. A training that was
    interrupted goes on when it is called again in the same way, and comes to the same result as
    without interruption. The caller's random numbers are untouched.

    Parameters
    ----------
    dataset_path : path
        Folder of the store.
    out_dir : path
        Folder to write ``model.ckpt``, ``config.json``, ``metrics.csv``, ``costs.csv``,
        ``metrics.json`` and ``learning_curve.png`` to, and until the end ``last.ckpt``; made if
        missing.
    config : TrainConfig
        What to train, and how.

    Returns
    -------
    TrainResult

    Raises
    ------
    InputError
        `out_dir` has a complete training or can't be made, or a split is of no use, or training
        diverged.
    StoreError
        There is no complete store; `StoreMismatchError` if an interrupted training in `out_dir`
        was on another one.
    ConfigError
        There is no such accelerator, the initial model doesn't fit, or an interrupted training in
        `out_dir` had another configuration.
    KeyboardInterrupt
        The user interrupted the training.
    """
    out = Path(os.path.abspath(out_dir))
    dataset = open_dataset(dataset_path)
    origin = _origin(dataset)
    unfinished = find_unfinished(out, config, origin)
    data = ConformerDataModule(dataset, config)
    with quiet_lightning(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = _new_model(config, data, origin, unfinished)
        _prepare(out, config, unfinished)
        versions = package_versions(_PACKAGES)
        average = MovingAverage(config.ema_decay) if config.ema_decay else None
        recorder = Recorder(out, average)
        trainer = _trainer(config, out, recorder, average, streamed=data.streamed)
        task = PropertyTask(model, versions)
        if unfinished is not None:
            recorder.load_state_dict(unfinished.recorded)
        if not recorder.finished:
            with interruptible(trainer):
                trainer.fit(
                    task,
                    datamodule=data,
                    ckpt_path=unfinished.state if unfinished else None,
                    weights_only=True,
                )
        if not recorder.best_epoch:
            for name in (STATE_FILE, METRICS_FILE, COSTS_FILE):
                (out / name).unlink(missing_ok=True)
            raise InputError(
                f"training diverged: no epoch has a finite validation error; use a learning rate "
                f"below {config.learning_rate:g}"
            )
        return _finish(dataset, data, recorder, task, trainer, out)


def _new_model(
    config: TrainConfig,
    data: ConformerDataModule,
    origin: dict[str, Any],
    unfinished: Unfinished | None,
) -> PropertyModel:
    if unfinished is not None:  # its weights come with the state
        return build_model(config, data.standardisation, origin, unfinished.initial)
    if config.init_from is None:
        return build_model(config, data.standardisation, origin)
    source, initial = load_initial(config.init_from, config)
    model = build_model(config, data.standardisation, origin, initial)
    copy_weights(source, model)
    return model


def _prepare(out: Path, config: TrainConfig, unfinished: Unfinished | None) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for half in out.glob(f"*{PART}"):
            half.unlink()
        (out / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # The logs may be an epoch ahead of the state.
        for name in (METRICS_FILE, COSTS_FILE):
            keep_epochs(out / name, unfinished.recorded["epochs"] if unfinished else 0)
    except OSError as error:
        raise InputError(
            f"can't write to {out}: {error.strerror or error}; choose another output"
        ) from error


def _finish(
    dataset: Dataset,
    data: ConformerDataModule,
    recorder: Recorder,
    task: PropertyTask,
    trainer: pl.Trainer,
    out: Path,
) -> TrainResult:
    model = task.model
    model.load_state_dict(load_model(out / MODEL_FILE).state_dict())
    with interruptible(trainer):
        trainer.test(task, datamodule=data, verbose=False)
    rows = read_rows(out / METRICS_FILE)
    best = rows[recorder.best_epoch - 1]
    result = TrainResult(
        errors=target_errors(dataset, data, task.errors | best),
        val_error=recorder.best_error,
        best_epoch=recorder.best_epoch,
        epochs=recorder.epochs,
        steps=recorder.steps,
        train=size_of(data.train),
        val=size_of(data.val),
        test=size_of(data.test),
        checkpoint=out / MODEL_FILE,
        plot=out / "learning_curve.png",
        metrics_csv=out / METRICS_FILE,
        metrics_json=out / RESULT_FILE,
        config_json=out / CONFIG_FILE,
    )
    trivial = {target: errors.trivial for target, errors in result.errors.items()}
    plot_learning_curve(rows, trivial, result.plot)
    write_metrics(result, model.dataset)
    (out / STATE_FILE).unlink(missing_ok=True)
    return result


def _trainer(
    config: TrainConfig,
    out: Path,
    recorder: Recorder,
    average: MovingAverage | None,
    *,
    streamed: bool,
) -> pl.Trainer:
    precision = "32-true" if config.precision == 32 else config.precision
    try:
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            devices=1,
            precision=precision,
            # One process trains. A Slurm job's variables would make Lightning wait for others.
            plugins=[LightningEnvironment()],
            max_epochs=config.epochs,
            gradient_clip_val=config.gradient_clip,
            callbacks=[*([average] if average else []), recorder],
            logger=TensorBoardLogger(out, "", "tensorboard") if config.tensorboard else False,
            log_every_n_steps=1,
            # A stream is shuffled by the number of the epoch at which it is made.
            reload_dataloaders_every_n_epochs=int(streamed),
            num_sanity_val_steps=0,
            # Forces are gradients, also in validation.
            inference_mode=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"can't train on the accelerator {config.accelerator!r} with precision "
            f"{config.precision}: {error}; use auto or cpu, and 32"
        ) from error
    if trainer.precision != precision:  # Lightning takes another with a warning
        raise ConfigError(
            f"the accelerator {config.accelerator!r} has no precision {config.precision} here; use "
            f"{trainer.precision} or 32"
        )
    return trainer


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
