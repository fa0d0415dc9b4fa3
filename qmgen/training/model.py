"""Assembles a network from schnetpack's parts; gives targets in their units."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from schnetpack import properties
from schnetpack.atomistic import Atomwise, DipoleMoment, PairwiseDistances
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import PaiNN, SchNet

from qmgen.training.config import TrainConfig
from qmgen.training.inputs import Inputs
from qmgen.training.standardise import Standardisation
from qmgen.training.targets import SCALARS, TARGETS, Target

Outputs = dict[Target, Float[torch.Tensor, "..."]]
"""Standardised predictions: (batch,) for a scalar, (batch, 3) for dipoles, (atoms, 3) for forces of
all structures one after the other."""


class PropertyModel(torch.nn.Module):
    """A network and all that turns its output into physical units.

    Parameters
    ----------
    representation : Module
        Describes atoms in their surroundings: schnetpack's SchNet or PaiNN.
    heads : dict of str to Module
        Readout of each target but forces, which are the gradient of the energy.
    config : TrainConfig
        What it was built from.
    standardisation : Standardisation
        Maps to physical units.
    dataset : dict
        Provenance of the training set, as in the checkpoint; empty if there is none.
    initial : dict, optional
        The model whose weights the training began with, as in the checkpoint.
    """

    def __init__(
        self,
        representation: torch.nn.Module,
        heads: dict[Target, torch.nn.Module],
        config: TrainConfig,
        standardisation: Standardisation,
        dataset: dict[str, Any] | None = None,
        initial: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.distances = PairwiseDistances()
        self.representation = representation
        self.heads = torch.nn.ModuleDict({str(target): head for target, head in heads.items()})
        self.config = config
        self.standardisation = standardisation
        self.dataset = dict(dataset or {})
        self.initial = initial

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the model has learnt."""
        return tuple(self.standardisation.scalings)

    def forward(self, inputs: Inputs, *, forces: bool | None = None) -> Outputs:
        """Give the standardised targets of each structure of a batch.

        Parameters
        ----------
        inputs : dict of str to Tensor
            A batch as `qmgen.training.inputs.collate` makes it; left unchanged.
        forces : bool, optional
            Whether to differentiate the energy by the positions, also where gradients are turned
            off; by default if forces have been learnt. The gradient of a model that has learnt
            energies alone is in the energy's unit of spread an Angstrom.

        Raises
        ------
        KeyError
            Forces are asked for and the model has no energy.
        """
        wanted = "forces" in self.targets if forces is None else forces
        values = dict(inputs)  # schnetpack's modules add keys
        if not wanted:
            return self._read_out(values)
        with torch.enable_grad():
            values[properties.R] = values[properties.R].detach().requires_grad_()
            outputs = self._read_out(values)
            (gradient,) = torch.autograd.grad(
                outputs["energy"].sum(), values[properties.R], create_graph=self.training
            )
        # Standardised energies differ by a constant and a factor from energies.
        outputs["forces"] = -gradient * self._force_factor()
        return outputs

    def predict_values(
        self, inputs: Inputs, *, forces: bool | None = None
    ) -> dict[Target, Float64[np.ndarray, "..."]]:
        """Give the targets of each structure of a batch, in the units of `TARGETS`.

        Offsets are added in float64: a total energy of 10 keV has a float32 rounding of 1 meV.
        """
        n_atoms = inputs[properties.n_atoms].cpu().numpy()
        atom_offset = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(n_atoms)])
        z = inputs[properties.Z].cpu().numpy()
        values = {}
        outputs = self(inputs, forces=forces)
        for target in (target for target in TARGETS if target in outputs):
            standardised = outputs[target].detach().cpu().numpy().astype(np.float64)
            if target not in self.targets:  # forces of a model that learnt energies alone
                values[target] = standardised * self.standardisation["energy"].scale
                continue
            scaling = self.standardisation[target]
            values[target] = standardised * scaling.scale
            if target in SCALARS:
                values[target] += scaling.offset(z, atom_offset)
        return values

    def _force_factor(self) -> float:
        if "forces" not in self.targets:
            return 1.0
        return self.standardisation["energy"].scale / self.standardisation["forces"].scale

    def _read_out(self, values: Inputs) -> Outputs:
        values = self.representation(self.distances(values))
        weight = next(self.heads.parameters())
        # Sums over atoms and their gradients want more digits than 16 bits have.
        with torch.autocast(weight.device.type, enabled=False):
            for name in ("scalar_representation", "vector_representation"):
                if name in values:
                    values[name] = values[name].to(weight.dtype)
            outputs: Outputs = {}
            for target in (target for target in TARGETS if target in self.heads):
                outputs[target] = self.heads[target](values)[target]
        return outputs


def build_model(
    config: TrainConfig,
    standardisation: Standardisation,
    dataset: dict[str, Any] | None = None,
    initial: dict[str, Any] | None = None,
) -> PropertyModel:
    """Build an untrained network with random weights from torch's generator.

    SchNet: Schütt et al., J. Chem. Phys. 148, 241722 (2018). PaiNN: Schütt et al., ICML 2021
    (arXiv:2102.03150). The readout averages over atoms for gap, homo and lumo, and sums over them
    for the energy. The dipole is that of latent charges, which add up to zero, and with PaiNN of
    latent atomic dipoles.

    Parameters
    ----------
    config : TrainConfig
        Sizes.
    standardisation : Standardisation
        Maps of the targets.
    dataset : dict, optional
        Provenance of the training set.
    initial : dict, optional
        Provenance of the initial weights.

    Returns
    -------
    PropertyModel
    """
    radial_basis = GaussianRBF(n_rbf=config.n_rbf, cutoff=config.cutoff_angstrom)
    cutoff = CosineCutoff(config.cutoff_angstrom)
    representation: torch.nn.Module
    if config.representation == "schnet":
        representation = SchNet(
            n_atom_basis=config.n_atom_basis,
            n_interactions=config.n_interactions,
            radial_basis=radial_basis,
            cutoff_fn=cutoff,
            n_filters=config.n_filters,
        )
    else:
        representation = PaiNN(
            n_atom_basis=config.n_atom_basis,
            n_interactions=config.n_interactions,
            radial_basis=radial_basis,
            cutoff_fn=cutoff,
        )
    heads: dict[Target, torch.nn.Module] = {}
    for target in standardisation.scalings:
        if target == "dipole":
            heads[target] = DipoleMoment(
                n_in=config.n_atom_basis,
                dipole_key=target,
                use_vector_representation=config.representation == "painn",
            )
        elif target != "forces":
            heads[target] = Atomwise(
                n_in=config.n_atom_basis,
                aggregation_mode="sum" if target == "energy" else "avg",
                output_key=target,
            )
    return PropertyModel(representation, heads, config, standardisation, dataset, initial)
