"""One structure, or several, in the form that schnetpack's modules read."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from schnetpack import properties
from schnetpack.data import AtomsLoader
from schnetpack.data.loader import _atoms_collate_fn
from torch.utils.data import Dataset, IterableDataset

from qmgen.training.neighbors import NeighborList
from qmgen.training.order import ShuffledRows
from qmgen.training.targets import Target

Inputs = dict[str, torch.Tensor]


def label_key(target: Target) -> str:
    """Give the key of a standardised label."""
    return f"label_{target}"


def structure_inputs(
    atomic_numbers: Shaped[np.ndarray, " nat"],
    positions_angstrom: Float[np.ndarray, "nat 3"],
    neighbor_list: NeighborList,
    index: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """Give a molecule in schnetpack's keys, with its neighbours.

    Parameters
    ----------
    atomic_numbers : Shaped[nat]
        Atomic numbers.
    positions_angstrom : Float[nat, 3]
        Positions, Angstrom.
    neighbor_list : NeighborList
        Finds the neighbours.
    index : int
        Number that tells the structure from others.
    dtype : dtype
        Type of the positions, that of the weights of the network that reads them.

    Returns
    -------
    dict of str to Tensor
        ``Z`` (nat,) int64, ``R`` (nat, 3) of `dtype`, ``idx`` and ``n_atoms`` (1,) int64, and the
        neighbours: ``idx_i`` and ``idx_j`` (npair,) int64, ``offsets`` (npair, 3) of zeros.
    """
    # float32 would lose digits of distances far from the origin. A neutral molecule's dipole does
    # not change.
    centred = positions_angstrom - positions_angstrom.mean(axis=0, dtype=np.float64)
    i, j = neighbor_list.pairs(centred)
    return {
        properties.idx: torch.tensor([index]),
        properties.n_atoms: torch.tensor([len(atomic_numbers)]),
        properties.Z: torch.from_numpy(atomic_numbers.astype(np.int64)),
        properties.R: torch.from_numpy(centred).to(dtype),
        properties.idx_i: torch.from_numpy(i),
        properties.idx_j: torch.from_numpy(j),
        properties.offsets: torch.zeros(len(i), 3, dtype=dtype),
    }


def collate(structures: Sequence[Inputs]) -> Inputs:
    """Join structures into a batch; nothing is padded.

    A function of this package, so that a worker process that unpickles it imports schnetpack the
    way `qmgen.training` does.
    """
    return _atoms_collate_fn(structures)


def make_loader(
    structures: Dataset | list[Inputs],
    batch_size: int,
    *,
    num_workers: int = 0,
    order: ShuffledRows | None = None,
) -> AtomsLoader:
    """Make a loader of batches.

    Parameters
    ----------
    structures : Dataset or list of dict
        Structures; an IterableDataset has its own order.
    batch_size : int
        Structures a batch; the last may have fewer.
    num_workers : int
        Processes that prepare batches; 0 for this one. They don't change what comes of structures
        in memory.
    order : ShuffledRows, optional
        Order of structures in memory; stored order by default.
    """
    return AtomsLoader(
        structures,
        batch_size=batch_size,
        # The order of RandomSampler would depend on how often Lightning makes iterators, and with
        # that on the number of workers.
        sampler=order,
        num_workers=num_workers,
        collate_fn=collate,
        # A stream's workers serve one epoch; others need not start anew for each.
        persistent_workers=num_workers > 0 and not isinstance(structures, IterableDataset),
    )
