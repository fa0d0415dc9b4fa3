"""Takes down each epoch, so that a training can be interrupted at any moment."""

import math
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from qmgen.training.checkpoint import save_model
from qmgen.training.ema import MovingAverage
from qmgen.training.files import write_in_one_go
from qmgen.training.learning_curve import append_row
from qmgen.training.task import VALIDATION_ERROR

MODEL_FILE = "model.ckpt"
STATE_FILE = "last.ckpt"
METRICS_FILE = "metrics.csv"
COSTS_FILE = "costs.csv"


@runtime_checkable
class RecordedTask(Protocol):
    """What a `Recorder` asks a task for: see `qmgen.training.task.PropertyTask`."""

    model: Any
    errors: dict[str, float]

    def description(self) -> dict[str, Any]:
        """Give what the model is, all but its weights."""


class Recorder(Checkpoint):
    """Writes the log, the best model so far and the state to resume from, in that order.

    The state comes last and is replaced in one go. A training that is killed before that does the
    epoch again, with the same outcome, from the state before it.

    Parameters
    ----------
    out : Path
        Folder to write to.
    average : MovingAverage, optional
        Whose weights to keep instead of the model's own.

    Attributes
    ----------
    best_error : float
        Lowest `VALIDATION_ERROR` so far; infinite if none is finite.
    best_epoch : int
        Its epoch, from 1.
    epochs, steps : int
        What has been trained.
    finished : bool
        Whether there is nothing left to train.
    """

    def __init__(self, out: Path, average: MovingAverage | None = None) -> None:
        self._out = out
        self._average = average
        self.best_error = math.inf
        self.best_epoch = 0
        self.epochs = 0
        self.steps = 0
        self.finished = False
        self._started = (0.0, 0.0)

    def setup(self, trainer: pl.Trainer, pl_module: RecordedTask, stage: str) -> None:
        """Look at the clocks, before the first batches are made."""
        self._started = (time.perf_counter(), time.process_time())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: RecordedTask) -> None:
        """Take down an epoch."""
        self.epochs, self.steps = trainer.current_epoch + 1, trainer.global_step
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": self.epochs, "step": self.steps, "learning_rate": rate, **pl_module.errors}
        append_row(row, self._out / METRICS_FILE)
        # Apart from the log, which comes out the same each time.
        now = (time.perf_counter(), time.process_time())
        wall, core = (after - before for before, after in zip(self._started, now, strict=True))
        self._started = now
        append_row(
            {"epoch": self.epochs, "seconds": wall, "core_seconds": core}, self._out / COSTS_FILE
        )
        if pl_module.errors[VALIDATION_ERROR] < self.best_error:
            self.best_error = pl_module.errors[VALIDATION_ERROR]
            self.best_epoch = self.epochs
            source = self._average.average.module if self._average else pl_module.model
            save_model(self._out / MODEL_FILE, source.state_dict(), pl_module.description())
        # No later epoch is better than one that is not finite.
        config = pl_module.model.config
        trainer.should_stop = (
            not math.isfinite(pl_module.errors[VALIDATION_ERROR])
            or self.epochs - self.best_epoch >= config.stop_patience
        )
        self.finished = trainer.should_stop or self.epochs >= config.epochs
        write_in_one_go(self._out / STATE_FILE, trainer.save_checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Give what has been reached, for the state."""
        names = ("best_error", "best_epoch", "epochs", "steps", "finished")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, value in state_dict.items():
            setattr(self, name, value)
