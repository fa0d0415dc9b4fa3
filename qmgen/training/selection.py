"""Which rows of a store are trained on, with their targets in eV."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from qmgen.dataset import Batch, Dataset
from qmgen.errors import InputError
from qmgen.training.config import Target
from qmgen.units import EV_PER_HARTREE

BLOCK_ROWS = 16384
"""Rows read together: a chunk of the store's plain columns."""
MAX_ATOMIC_NUMBER = 99
"""Largest that SchNet's embedding takes in every release of schnetpack."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Converged conformers of one split whose target is finite: 16 bytes a row.

    Attributes
    ----------
    rows : Int64[n]
        Row numbers in the dataset, ascending.
    target_ev : Float64[n]
        Target, eV.
    num_molecules : int
        Molecules that the rows belong to.
    elements : tuple of int
        Atomic numbers that occur, ascending.
    num_left_out : int
        Conformers left out since the training split lacks one of their elements.
    """

    rows: Int64[np.ndarray, " n"]
    target_ev: Float64[np.ndarray, " n"]
    num_molecules: int
    elements: tuple[int, ...]
    num_left_out: int

    def __len__(self) -> int:
        return len(self.rows)


def select_rows(
    dataset: Dataset, split: str, target: Target, known_elements: tuple[int, ...] | None = None
) -> Selection:
    """Find the rows of a split that can be used; reads the target and all atomic numbers once.

    Parameters
    ----------
    dataset : Dataset
        Store.
    split : {"train", "val", "test"}
        Split.
    target : {"gap", "homo", "lumo", "energy"}
        Label.
    known_elements : tuple of int, optional
        Leave out conformers with other elements: no network can have learnt about them.

    Returns
    -------
    Selection

    Raises
    ------
    InputError
        No row is left, or an element is too heavy for the embedding.
    """
    rows, values, molecules = [], [], []
    elements: set[int] = set()
    seen = left_out = 0
    for block in dataset.iter_blocks(
        BLOCK_ROWS, split=split, columns=("molecule", "z", target), converged_only=True
    ):
        seen += len(block)
        keep = np.isfinite(block[target])
        if known_elements is not None:
            known = _has_only(block, known_elements)
            left_out += int((keep & ~known).sum())
            keep &= known
        rows.append(block.rows[keep])
        values.append(block[target][keep])
        molecules.append(np.unique(block["molecule"][keep]))
        elements.update(np.unique(block["z"][np.repeat(keep, block.n_atoms)]).tolist())
    if not sum(map(len, rows)):
        raise InputError(_empty(dataset, split, target, seen, left_out))
    if max(elements) > MAX_ATOMIC_NUMBER:
        raise InputError(
            f"{dataset.path}: SchNet's embedding ends at atomic number {MAX_ATOMIC_NUMBER}, the "
            f"{split} split has {max(elements)}; generate a dataset without it"
        )
    return Selection(
        rows=np.concatenate(rows),
        target_ev=np.concatenate(values) * EV_PER_HARTREE,
        num_molecules=len(np.unique(np.concatenate(molecules))),
        elements=tuple(sorted(elements)),
        num_left_out=left_out,
    )


def blocks_of(
    dataset: Dataset, rows: Int64[np.ndarray, " n"], columns: tuple[str, ...]
) -> Iterator[tuple[slice, Batch]]:
    """Read rows in blocks; gives each block's place among `rows` and its content."""
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(rows)))
        yield part, dataset.batch(rows[part], columns)


def _has_only(block: Batch, known_elements: tuple[int, ...]) -> np.ndarray:
    unknown = ~np.isin(block["z"], known_elements)
    return np.add.reduceat(unknown, block.atom_offset[:-1], dtype=np.int64) == 0


def _empty(dataset: Dataset, split: str, target: str, seen: int, left_out: int) -> str:
    if left_out:
        reason = "every conformer has an element that the training split lacks"
    elif seen:
        reason = f"the target {target!r} is NaN for all its {seen} converged conformers"
    else:
        reason = "it has no converged conformer"
    return (
        f"{dataset.path}: the {split} split is of no use: {reason}; generate more molecules, or "
        f"choose another target or other split fractions"
    )
