"""One training step, in Lightning's terms."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from qmgen.training.checkpoint import KEY, describe_model
from qmgen.training.config import Plateau
from qmgen.training.inputs import Inputs, label_key
from qmgen.training.model import Outputs, PropertyModel
from qmgen.training.schedule import plateau_schedule, step_schedule
from qmgen.training.targets import Target, mae_name

VALIDATION_ERROR = "val_error"
"""The number that chooses the epoch: the targets' mean absolute errors on the validation split,
each in units of its spread, times their weights."""

_STATE = "qmgen_state"


class PropertyTask(pl.LightningModule):
    """Trains a model on standardised targets and takes down its errors in physical units.

    Errors are means over a split's conformers, for forces and dipoles over all components. Those
    of training are taken while the weights change. Offsets cancel in an error, so float32 loses
    nothing even for total energies.

    Parameters
    ----------
    model : PropertyModel
        What to train.
    versions : dict of str to str
        Versions of packages, for the checkpoint.

    Attributes
    ----------
    errors : dict of str to float
        Errors of the last epoch by their `mae_name`, and `VALIDATION_ERROR`.
    """

    def __init__(self, model: PropertyModel, versions: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.errors: dict[str, float] = {}
        self._versions = versions
        self._loss = {"l1": torch.nn.L1Loss(), "mse": torch.nn.MSELoss()}[model.config.loss]
        self._plateau: ReduceLROnPlateau | None = None
        self._restored: dict[str, Any] | None = None
        self._sums: dict[Target, torch.Tensor] = {}
        self._counts: dict[Target, int] = {}
        self._training_sums: tuple[dict[Target, torch.Tensor], dict[Target, int]] = ({}, {})

    def training_step(self, batch: Inputs) -> torch.Tensor:
        """Give the loss of a batch, in units of the standardised targets."""
        outputs = self.model(batch)
        self._add(outputs, batch, *self._training_sums)
        weights = self.model.config.targets
        losses = [w * self._loss(outputs[t], batch[label_key(t)]) for t, w in weights.items()]
        return torch.stack(losses).sum()

    def validation_step(self, batch: Inputs) -> None:
        """Add up the errors of a batch."""
        self._add(self.model(batch), batch, self._sums, self._counts)

    def test_step(self, batch: Inputs) -> None:
        """Add up the errors of a batch."""
        self._add(self.model(batch), batch, self._sums, self._counts)

    def on_validation_epoch_end(self) -> None:
        """Take down the errors of the validation split."""
        errors = self._finish("val", self._sums, self._counts)
        standardisation = self.model.standardisation
        total = sum(
            weight * errors[mae_name("val", target)] / standardisation[target].scale
            for target, weight in self.model.config.targets.items()
        )
        self.errors[VALIDATION_ERROR] = total
        self.log(VALIDATION_ERROR, total, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Take down the errors of the test split."""
        self._finish("test", self._sums, self._counts)

    def on_train_epoch_end(self) -> None:
        """Take down the errors of training; drop the rate if it is time."""
        self._finish("train", *self._training_sums)
        if self._plateau is not None:
            # Here, and not by Lightning, which would do it after the epoch's checkpoint is written.
            self._plateau.step(self.errors[VALIDATION_ERROR])

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule of its rate."""
        config = self.model.config
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        if isinstance(config.schedule, Plateau):
            self._plateau = plateau_schedule(optimizer, config.schedule)
            return optimizer
        scheduler = step_schedule(optimizer, config.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the model is, and what Lightning does not keep of the state."""
        checkpoint[KEY] = describe_model(self.model, self._versions)
        checkpoint[_STATE] = {
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
            "generator": torch.get_rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state until there is an optimiser."""
        self._restored = checkpoint[_STATE]

    def on_train_start(self) -> None:
        """Go on with the state of a checkpoint."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["generator"])
            if self._plateau is not None:
                self._plateau.load_state_dict(self._restored["plateau"])

    def _add(
        self,
        outputs: Outputs,
        batch: Inputs,
        sums: dict[Target, torch.Tensor],
        counts: dict[Target, int],
    ) -> None:
        for target in self.model.targets:
            error = (outputs[target].detach() - batch[label_key(target)]).abs()
            # Not all accelerators have float64; a split has more numbers than float32 can add up.
            wide = torch.float32 if error.device.type == "mps" else torch.float64
            sums[target] = sums.get(target, 0) + error.sum(dtype=wide)
            counts[target] = counts.get(target, 0) + error.numel()

    def _finish(
        self, split: str, sums: dict[Target, torch.Tensor], counts: dict[Target, int]
    ) -> dict[str, float]:
        errors = {
            mae_name(split, target): float(sums[target])
            / counts[target]
            * self.model.standardisation[target].scale
            for target in self.model.targets
        }
        sums.clear()
        counts.clear()
        self.errors |= errors
        self.log_dict(errors, prog_bar=True)
        return errors
