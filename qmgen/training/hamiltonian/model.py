"""A network that corrects the Hamiltonian of superposed atoms."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from schnetpack import properties
from schnetpack.atomistic import PairwiseDistances
from schnetpack.nn import CosineCutoff, GaussianRBF
from schnetpack.representation import PaiNN, SchNet

from qmgen.training.dft_loss import to_torch
from qmgen.training.hamiltonian.config import HamiltonianConfig
from qmgen.training.hamiltonian.head import HamiltonianHead
from qmgen.training.hamiltonian.inputs import (
    N_MATRICES,
    Conformer,
    ConformerBatch,
    batch_of,
    matrix_of_blocks,
)
from qmgen.training.hamiltonian.orbital_layout import OrbitalSlots, slots_of_elements
from qmgen.training.selection import MAX_ATOMIC_NUMBER


class HamiltonianModel(torch.nn.Module):
    """A representation of schnetpack and a head of matrix blocks.

    Parameters
    ----------
    config : HamiltonianConfig
        Sizes and level of theory.
    elements : tuple of int
        Atomic numbers that it may meet.
    """

    def __init__(self, config: HamiltonianConfig, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.elements = elements
        self.slots: OrbitalSlots = slots_of_elements(elements, config.dft.basis)
        make = {"schnet": SchNet, "painn": PaiNN}[config.representation]
        self.distances = PairwiseDistances()
        self.representation = make(
            n_atom_basis=config.n_atom_basis,
            n_interactions=config.n_interactions,
            radial_basis=GaussianRBF(n_rbf=config.n_rbf, cutoff=config.cutoff_angstrom),
            cutoff_fn=CosineCutoff(config.cutoff_angstrom),
        )
        self.head = HamiltonianHead(
            config.n_atom_basis,
            self.slots,
            N_MATRICES,
            config.n_channels,
            config.n_rbf,
            config.cutoff_angstrom,
        )
        size = self.slots.size
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.zeros(MAX_ATOMIC_NUMBER + 1, N_MATRICES, size, size))

    def fit_means(self, conformers: Iterable[Conformer]) -> None:
        """Take the mean of each element's own blocks, so that the network sees differences.

        Only what doesn't turn with the molecule is subtracted: averages over the components of a
        shell.
        """
        total = torch.zeros_like(self.mean)
        count = torch.zeros(len(total))
        for conformer in conformers:
            batch = batch_of([conformer], self.slots)
            own = batch.given[batch.row_atom == batch.column_atom]
            z = conformer.inputs[properties.Z]
            total.index_add_(0, z, own)
            count.index_add_(0, z, torch.ones(len(z)))
        mean = total / count.clamp(min=1)[:, None, None, None]
        self.mean.copy_(_spherical_part(mean, self.slots))

    def forward(self, batch: ConformerBatch) -> list[Float[torch.Tensor, "nao nao"]]:
        """Give the correction of each conformer over Löwdin's orbitals, Hartree; symmetric."""
        inputs = self.representation(self.distances(dict(batch.inputs)))
        same = (batch.row_atom == batch.column_atom)[:, None, None, None]
        z = inputs[properties.Z][batch.row_atom]
        positions = inputs[properties.R]
        blocks = self.head(
            inputs["scalar_representation"],
            positions[batch.column_atom] - positions[batch.row_atom],
            batch.row_atom,
            batch.column_atom,
            batch.given - torch.where(same, self.mean[z], 0.0),
        )
        parts = blocks.split([conformer.n_atoms**2 for conformer in batch.conformers])
        return [
            matrix_of_blocks(part, conformer.places, conformer.n_atoms)
            for part, conformer in zip(parts, batch.conformers, strict=True)
        ]

    def hamiltonians(self, batch: ConformerBatch) -> list[Float[torch.Tensor, "nao nao"]]:
        """Give the Hamiltonian of each conformer over Löwdin's orbitals, Hartree, float64."""
        return [
            to_torch(conformer.energy_problem.guess)[: len(change), : len(change)].to(change.device)
            + change.double()
            for conformer, change in zip(batch.conformers, self(batch), strict=True)
        ]


def _spherical_part(
    blocks: Float[torch.Tensor, "z matrix slot slot"], slots: OrbitalSlots
) -> Float[torch.Tensor, "z matrix slot slot"]:
    """Keep what a rotation of the block leaves as it is: multiples of one between like shells."""
    result = torch.zeros_like(blocks)
    for degree, row in slots.starts():
        for other, column in slots.starts():
            if degree == other:
                number = 2 * degree + 1
                part = blocks[..., row : row + number, column : column + number]
                mean = part.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
                identity = torch.eye(number, dtype=blocks.dtype)
                result[..., row : row + number, column : column + number] = (
                    mean[..., None, None] * identity
                )
    return result
