"""Which molecules a dataset has labels of, and the conformer that stands for each."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import SPLITS, Dataset

# Whole chunks of the store's plain columns.
_BLOCK_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class MoleculeIndex:
    """Molecules that have conformers, in stored order.

    Attributes
    ----------
    molecule : Int64[nmol]
        Row of the molecule.
    row : Int64[nmol]
        Row of its converged conformer of lowest energy, or of its first one if none converged.
    count : Int64[nmol]
        Conformers.
    split : Int64[nmol]
        Place in `qmgen.dataset.SPLITS`.
    charge : Int64[nmol]
        Total charge, e.
    """

    molecule: Int64[np.ndarray, " nmol"]
    row: Int64[np.ndarray, " nmol"]
    count: Int64[np.ndarray, " nmol"]
    split: Int64[np.ndarray, " nmol"]
    charge: Int64[np.ndarray, " nmol"]

    def __len__(self) -> int:
        return len(self.molecule)


def index_molecules(dataset: Dataset) -> MoleculeIndex:
    """Go over a dataset once; takes 24 bytes a conformer while it works."""
    columns = ("molecule", "energy", "converged", "split", "charge")
    molecules, ranks, splits, charges = [], [], [], []
    for block in dataset.iter_blocks(_BLOCK_ROWS, converged_only=False, columns=columns):
        known = block["converged"] & np.isfinite(block["energy"])
        molecules.append(block["molecule"])
        ranks.append(np.where(known, block["energy"], np.inf))
        splits.append(sum((block["split"] == s) * i for i, s in enumerate(SPLITS)))
        charges.append(block["charge"])
    molecule = _joined(molecules)
    rank = np.concatenate([np.empty(0), *ranks])
    # A molecule's conformers are neighbours.
    starts = np.flatnonzero(np.diff(molecule, prepend=-1))
    count = np.diff(starts, append=molecule.size)
    lowest = np.minimum.reduceat(rank, starts) if starts.size else rank
    places = np.flatnonzero(rank == np.repeat(lowest, count))
    _, first = np.unique(molecule[places], return_index=True)
    return MoleculeIndex(
        molecule=molecule[starts],
        row=places[first].astype(np.int64),
        count=count.astype(np.int64),
        split=_joined(splits)[starts],
        charge=_joined(charges)[starts],
    )


def _joined(parts: list[np.ndarray]) -> Int64[np.ndarray, " n"]:
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64)
