"""One training step, in Lightning's terms."""

from typing import Any

import pytorch_lightning as pl
import torch
from schnetpack import properties

from qmgen.training.checkpoint import KEY, describe_model
from qmgen.training.inputs import TARGET, Inputs
from qmgen.training.model import PropertyModel


class PropertyTask(pl.LightningModule):
    """Trains a model on standardised targets and logs errors in eV.

    Logs ``train_mae_ev``, ``val_mae_ev`` and ``test_mae_ev``: means over a split's conformers.
    That of training is taken while the weights change. Offsets cancel in an error, so float32
    loses nothing even for total energies.

    Parameters
    ----------
    model : PropertyModel
        What to train.
    versions : dict of str to str
        Versions of packages, for the checkpoint.
    """

    def __init__(self, model: PropertyModel, versions: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self._versions = versions
        self._loss = {"l1": torch.nn.L1Loss(), "mse": torch.nn.MSELoss()}[model.config.loss]

    def training_step(self, batch: Inputs) -> torch.Tensor:
        """Give the loss of a batch, in units of the standardised target."""
        predicted = self.model(batch)
        self._log_error("train", predicted.detach(), batch)
        return self._loss(predicted, batch[TARGET])

    def validation_step(self, batch: Inputs) -> None:
        """Log the error of a batch."""
        self._log_error("val", self.model(batch), batch)

    def test_step(self, batch: Inputs) -> None:
        """Log the error of a batch."""
        self._log_error("test", self.model(batch), batch)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW whose rate drops when the validation error stops falling."""
        config = self.model.config
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=config.lr_factor, patience=config.lr_patience
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_mae_ev"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what makes the file stand alone."""
        checkpoint[KEY] = describe_model(self.model, self._versions)

    def _log_error(self, split: str, predicted: torch.Tensor, batch: Inputs) -> None:
        error = (predicted - batch[TARGET]).abs().mean()
        self.log(
            f"{split}_mae_ev",
            error * self.model.standardisation.scale_ev,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(batch[properties.n_atoms]),
        )
