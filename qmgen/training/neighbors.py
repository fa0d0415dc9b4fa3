"""Neighbours of atoms: all within a cutoff, or the nearest of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from qmgen.training.config import TrainConfig

_DISTANCES = 1 << 22
"""Distances held at a time."""


@dataclass(frozen=True)
class NeighborList:
    """Finds the neighbours of each atom of a molecule.

    All distances are computed, which is faster than a cell list below some thousand atoms.

    Attributes
    ----------
    cutoff_angstrom : float
        Reach, Angstrom.
    max_neighbors : int or None
        Keep so many nearest neighbours of an atom; of equally near ones the first. An atom may
        then act on one that does not act on it.
    """

    cutoff_angstrom: float
    max_neighbors: int | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> "NeighborList":
        """Make the one that a configuration describes."""
        return cls(config.cutoff_angstrom, config.max_neighbors)

    def pairs(
        self, positions_angstrom: Float[np.ndarray, "nat 3"]
    ) -> tuple[Int64[np.ndarray, " npair"], Int64[np.ndarray, " npair"]]:
        """Give each atom and its neighbours, both ascending.

        Parameters
        ----------
        positions_angstrom : Float[nat, 3]
            Positions, Angstrom.

        Returns
        -------
        Int64[npair], Int64[npair]
            Atoms, and one neighbour of each.
        """
        nat = len(positions_angstrom)
        atoms, neighbors = [], []
        step = max(1, _DISTANCES // max(1, nat))
        for start in range(0, nat, step):
            part = positions_angstrom[start : start + step]
            squared = np.square(part[:, None] - positions_angstrom).sum(axis=-1)
            rows = np.arange(len(part))
            squared[rows, start + rows] = np.inf
            near = squared < self.cutoff_angstrom**2
            if self.max_neighbors is not None and self.max_neighbors < nat - 1:
                order = np.argsort(squared, axis=1, kind="stable")
                np.put_along_axis(near, order[:, self.max_neighbors :], False, axis=1)
            i, j = np.nonzero(near)
            atoms.append(start + i)
            neighbors.append(j)
        return np.concatenate(atoms), np.concatenate(neighbors)
