"""A moving average of the weights, which is validated and kept instead of them."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.swa_utils import AveragedModel

from qmgen.training.task import PropertyTask


class MovingAverage(pl.Callback):
    r"""Averages the weights after each step and lends the average to the validation.

    $\bar w \leftarrow d \bar w + (1 - d) w$ with $d = \min(d_{max}, (1 + n) / (10 + n))$ after $n$
    steps, so that the average forgets random initial weights soon, as in TensorFlow's and
    torch_ema's averages that count updates.

    Parameters
    ----------
    decay : float
        $d_{max}$.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: AveragedModel | None = None

    def setup(self, trainer: pl.Trainer, pl_module: PropertyTask, stage: str) -> None:
        """Start from the weights as they are; Lightning restores a checkpoint after this."""
        if stage == "fit":
            self._average = AveragedModel(pl_module.model, avg_fn=self._blend)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: PropertyTask) -> None:
        """Follow the model to its device."""
        self.average.to(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: PropertyTask, *_: Any) -> None:
        """Take a step into account."""
        self.average.update_parameters(pl_module.model)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: PropertyTask) -> None:
        """Put the average in the place of the weights."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: PropertyTask) -> None:
        """Put the weights back."""
        self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Give the average for a checkpoint."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the average of a checkpoint."""
        self.average.load_state_dict(state_dict)

    @property
    def average(self) -> AveragedModel:
        """The averaged model."""
        assert self._average is not None, "there is no average before a training is set up"
        return self._average

    def _blend(
        self, average: torch.Tensor, weight: torch.Tensor, updates: torch.Tensor | int
    ) -> torch.Tensor:
        # The first step copies the weights, and is not counted here. A tensor stays on the device,
        # which need not wait for this process.
        number = torch.as_tensor(updates)
        decay = ((1 + number) / (10 + number)).clamp(max=self._decay)
        return average * decay + weight * (1 - decay)

    def _swap(self, task: PropertyTask) -> None:
        for average, weight in zip(
            self.average.module.parameters(), task.model.parameters(), strict=True
        ):
            average.data, weight.data = weight.data, average.data
