"""Assembles SchNet from schnetpack's parts; gives a target in eV."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from schnetpack import properties
from schnetpack.atomistic import Atomwise, PairwiseDistances
from schnetpack.model import NeuralNetworkPotential
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import SchNet

from qmgen.training.config import TrainConfig
from qmgen.training.inputs import Inputs
from qmgen.training.standardise import Standardisation

_OUTPUT = "standardised"


class PropertyModel(torch.nn.Module):
    """A network and all that turns its output into eV.

    Parameters
    ----------
    network : NeuralNetworkPotential
        Gives the standardised target under ``"standardised"``.
    config : TrainConfig
        What it was built from.
    standardisation : Standardisation
        Map to eV.
    dataset : dict
        Provenance of the training set, as in the checkpoint; empty if there is none.
    """

    def __init__(
        self,
        network: NeuralNetworkPotential,
        config: TrainConfig,
        standardisation: Standardisation,
        dataset: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.standardisation = standardisation
        self.dataset = dict(dataset or {})

    def forward(self, inputs: Inputs) -> Float[torch.Tensor, " batch"]:
        """Give the standardised target of each structure of a batch.

        Parameters
        ----------
        inputs : dict of str to Tensor
            A batch as `qmgen.training.inputs.collate` makes it; left unchanged.
        """
        # The network adds keys to the dictionary that it gets.
        return self.network(dict(inputs))[_OUTPUT]

    def predict_ev(self, inputs: Inputs) -> Float64[np.ndarray, " batch"]:
        """Give the target of each structure of a batch, eV.

        The offset is added in float64: a total energy of 10 keV has a float32 rounding of 1 meV.
        """
        standardised = self(inputs).detach().cpu().numpy().astype(np.float64)
        n_atoms = inputs[properties.n_atoms].cpu().numpy()
        atom_offset = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(n_atoms)])
        offset_ev = self.standardisation.offset_ev(inputs[properties.Z].cpu().numpy(), atom_offset)
        return offset_ev + self.standardisation.scale_ev * standardised


def build_schnet(
    config: TrainConfig, standardisation: Standardisation, dataset: dict[str, Any] | None = None
) -> PropertyModel:
    """Build an untrained SchNet with random weights from torch's generator.

    Schütt et al., J. Chem. Phys. 148, 241722 (2018). The readout averages over atoms for gap,
    homo and lumo, and sums over them for the energy.

    Parameters
    ----------
    config : TrainConfig
        Sizes.
    standardisation : Standardisation
        Map to eV; also says whether the target is a sum over atoms.
    dataset : dict, optional
        Provenance of the training set.

    Returns
    -------
    PropertyModel
    """
    cutoff = config.cutoff_angstrom
    network = NeuralNetworkPotential(
        representation=SchNet(
            n_atom_basis=config.n_atom_basis,
            n_interactions=config.n_interactions,
            radial_basis=GaussianRBF(n_rbf=config.n_rbf, cutoff=cutoff),
            cutoff_fn=CosineCutoff(cutoff),
        ),
        input_modules=[PairwiseDistances()],
        output_modules=[
            Atomwise(
                n_in=config.n_atom_basis,
                aggregation_mode="sum" if standardisation.per_atom else "avg",
                output_key=_OUTPUT,
            )
        ],
    )
    return PropertyModel(network, config, standardisation, dataset)
