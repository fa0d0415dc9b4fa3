"""Neighbours of atoms: all within a cutoff, or the nearest of them."""

import torch
from schnetpack import properties
from schnetpack.transform import MatScipyNeighborList

from qmgen.training.config import TrainConfig


class NeighborList:
    """Finds the neighbours of each atom of a structure.

    Parameters
    ----------
    cutoff_angstrom : float
        Reach, Angstrom.
    max_neighbors : int, optional
        Keep so many nearest neighbours of an atom; of equally near ones the first. The lists are
        then not symmetric: an atom may act on one that does not act on it.
    """

    def __init__(self, cutoff_angstrom: float, max_neighbors: int | None = None) -> None:
        self._within = MatScipyNeighborList(cutoff=cutoff_angstrom)
        self._max_neighbors = max_neighbors

    @classmethod
    def of(cls, config: TrainConfig) -> "NeighborList":
        """Make the one that a configuration describes."""
        return cls(config.cutoff_angstrom, config.max_neighbors)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add ``idx_i``, ``idx_j`` and ``offsets`` to a structure in schnetpack's keys."""
        inputs = self._within(inputs)
        if self._max_neighbors is None:
            return inputs
        i, j = inputs[properties.idx_i], inputs[properties.idx_j]
        positions = inputs[properties.R]
        distance = torch.linalg.norm(positions[j] - positions[i], dim=1)
        # By atom, and for each atom by distance: two stable sorts.
        order = torch.argsort(distance, stable=True)
        order = order[torch.argsort(i[order], stable=True)]
        counts = torch.bincount(i, minlength=len(positions))
        starts = torch.cumsum(counts, dim=0) - counts
        rank = torch.arange(len(order)) - starts[i[order]]
        # In the order of the full list, which has ascending atoms.
        kept = torch.sort(order[rank < self._max_neighbors]).values
        for key in (properties.idx_i, properties.idx_j, properties.offsets):
            inputs[key] = inputs[key][kept]
        return inputs
