"""Batches of a dataset as tensors: plain, for PyTorch Geometric, for schnetpack."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from schnetpack import properties

from qmgen.dataset import Batch
from qmgen.errors import MissingExtraError
from qmgen.training.inputs import Inputs
from qmgen.training.neighbors import NeighborList
from qmgen.training.targets import TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR

if TYPE_CHECKING:
    from torch_geometric.data import Batch as GraphBatch


def tensor_batch(batch: Batch) -> dict[str, Any]:
    """Give a batch's columns as tensors, in atomic units and the types of the store.

    float64 stays float64: float32 rounds a total energy by 1e-5 Hartree, so subtract what is
    known of it first.

    Returns
    -------
    dict of str to Tensor, or to list of str
        The columns, with ``z`` as int64 for embeddings; ``row`` (n,), ``n_atoms`` (n,), and
        ``conformer_of_atom``, the place in the batch that an atom belongs to.
    """
    values: dict[str, Any] = {
        name: column.tolist() if column.dtype == object else torch.from_numpy(column)
        for name, column in batch.columns.items()
    }
    if "z" in values:
        values["z"] = values["z"].long()
    n_atoms = torch.from_numpy(batch.n_atoms)
    return values | {
        "row": torch.from_numpy(batch.rows),
        "n_atoms": n_atoms,
        "conformer_of_atom": torch.repeat_interleave(n_atoms),
    }


def pyg_batch(batch: Batch) -> "GraphBatch":
    """Give a batch as that of PyTorch Geometric, in atomic units and the types of the store.

    Attributes are the columns, ``z`` as int64, ``row``, and PyTorch Geometric's own ``batch`` and
    ``ptr``. It is what its ``Batch.from_data_list`` makes of one ``Data`` a conformer, but can't be
    taken apart again.

    Raises
    ------
    MissingExtraError
        torch_geometric is not installed.
    """
    try:
        from torch_geometric.data import Batch as GraphBatch
    except ImportError as error:
        raise MissingExtraError(
            f"batches of PyTorch Geometric need torch_geometric ({error}); install it with: "
            "pip install 'qmgen[pyg]'"
        ) from error
    values = tensor_batch(batch)
    del values["n_atoms"]
    return GraphBatch(
        batch=values.pop("conformer_of_atom"), ptr=torch.from_numpy(batch.atom_offset), **values
    )


def schnetpack_batch(
    batch: Batch, neighbor_list: NeighborList, targets: Sequence[Target] = ()
) -> Inputs:
    """Give a batch in schnetpack's keys, with neighbours.

    Parameters
    ----------
    batch : Batch
        With ``z``, ``pos`` and the targets.
    neighbor_list : NeighborList
        Finds the neighbours.
    targets : sequence of str
        Labels to add under their names.

    Returns
    -------
    dict of str to Tensor
        What `qmgen.training.inputs.collate` makes of the `structure_inputs` of each row (positions
        are float32, Angstrom, and centred); labels are float64, in eV, eV/Angstrom and Debye, with
        shapes (n,), (atoms, 3) and (n, 3).
    """
    starts = batch.atom_offset[:-1]
    positions_angstrom = batch["pos"] * ANGSTROM_PER_BOHR
    sums = np.add.reduceat(positions_angstrom, starts, axis=0)
    centred = positions_angstrom - np.repeat(sums / batch.n_atoms[:, None], batch.n_atoms, axis=0)
    pairs = [
        neighbor_list.pairs(centred[start:stop])
        for start, stop in zip(starts.tolist(), batch.atom_offset[1:].tolist(), strict=True)
    ]
    i, j = (torch.from_numpy(np.concatenate(atoms)) for atoms in zip(*pairs, strict=True))
    first = torch.from_numpy(np.repeat(starts, [len(atoms) for atoms, _ in pairs]))
    n_atoms = torch.from_numpy(batch.n_atoms)
    inputs = {
        properties.idx: torch.from_numpy(batch.rows),
        properties.n_atoms: n_atoms,
        properties.Z: torch.from_numpy(batch["z"]).long(),
        properties.R: torch.from_numpy(centred).float(),
        properties.idx_i: i + first,
        properties.idx_j: j + first,
        f"{properties.idx_i}_local": i,
        f"{properties.idx_j}_local": j,
        properties.offsets: torch.zeros(len(i), 3),
        properties.idx_m: torch.repeat_interleave(n_atoms),
    }
    for target in targets:
        inputs[target] = torch.from_numpy(batch[target] * TARGETS[target].factor)
    return inputs
