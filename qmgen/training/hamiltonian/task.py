"""One training step of a network of Hamiltonians, in Lightning's terms."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR

from qmgen.training.checkpoint import KEY
from qmgen.training.dft_loss import kohn_sham_energy
from qmgen.training.hamiltonian.inputs import ConformerBatch
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.task import VALIDATION_ERROR

TRAIN_ENERGY, VAL_ENERGY = "train_mha_per_atom", "val_mha_per_atom"
"""Energies above those of the guess, millihartree an atom; the lower the better."""

_MHA = 1e3


class HamiltonianTask(pl.LightningModule):
    """Trains a network of Hamiltonians and takes down the energies of what it predicts.

    Energies are upper bounds, so that the lowest one on the validation split, which needs no
    labels, chooses the epoch.

    Parameters
    ----------
    model : HamiltonianModel
        What to train.
    total_steps : int
        Steps until the learning rate is zero.
    description : dict
        All but the weights, for the checkpoint.

    Attributes
    ----------
    errors : dict of str to float
        `TRAIN_ENERGY`, ``train_loss``, `VAL_ENERGY` and `VALIDATION_ERROR` of the last epoch.
    """

    def __init__(
        self, model: HamiltonianModel, total_steps: int, description: dict[str, Any]
    ) -> None:
        super().__init__()
        self.model = model
        self.errors: dict[str, float] = {}
        self._total_steps = total_steps
        self._description = description
        self._losses: list[float] = []
        self._energies: dict[str, list[float]] = {TRAIN_ENERGY: [], VAL_ENERGY: []}

    def training_step(self, batch: ConformerBatch) -> torch.Tensor:
        """Give the loss of a batch: millihartree an atom, or squared millihartree an element."""
        if self.model.config.loss == "energy":
            energies = self._above_guess(batch)
            self._energies[TRAIN_ENERGY] += energies.tolist()
            loss = energies.mean()
        else:
            squares = []
            for conformer, change in zip(batch.conformers, self.model(batch), strict=True):
                assert conformer.fock_change is not None, "conformers of loss fock are labelled"
                error = change - conformer.fock_change.to(change.device)
                squares.append((error * _MHA).square().mean())
            loss = torch.stack(squares).mean()
        self._losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: ConformerBatch) -> None:
        """Take down the energies of a batch."""
        self._energies[VAL_ENERGY] += self._above_guess(batch).tolist()

    def on_validation_epoch_end(self) -> None:
        """Take down the mean of the validation split."""
        self.errors[VALIDATION_ERROR] = self._take(VAL_ENERGY)
        self.log(VAL_ENERGY, self.errors[VAL_ENERGY], prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Take down the means of training, while the weights changed."""
        if self.model.config.loss == "energy":
            self._take(TRAIN_ENERGY)
        self.errors["train_loss"] = math.fsum(self._losses) / len(self._losses)
        self._losses.clear()

    def configure_optimizers(self) -> Any:
        """AdamW, with a rate that rises linearly and falls as a cosine."""
        config = self.model.config
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

        def factor(step: int) -> float:
            progress = min(step / self._total_steps, 1.0)
            return min((1 + step) / config.warmup_steps, 0.5 * (1 + math.cos(math.pi * progress)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: ConformerBatch, device: torch.device, dataloader_idx: int
    ) -> ConformerBatch:
        """Bring what the network reads to its device."""
        return batch.to(device)

    def description(self) -> dict[str, Any]:
        """Give what the model is, all but its weights."""
        return self._description

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the model is."""
        checkpoint[KEY] = self._description

    def _above_guess(self, batch: ConformerBatch) -> torch.Tensor:
        problems = [conformer.energy_problem for conformer in batch.conformers]
        energies = kohn_sham_energy("hamiltonian", problems, self.model.hamiltonians(batch))
        guess = energies.new_tensor([conformer.guess_energy for conformer in batch.conformers])
        n_atoms = energies.new_tensor([conformer.n_atoms for conformer in batch.conformers])
        return _MHA * (energies - guess) / n_atoms

    def _take(self, name: str) -> float:
        values = self._energies[name]
        self.errors[name] = math.fsum(values) / len(values)
        values.clear()
        return self.errors[name]
