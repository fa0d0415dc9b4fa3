"""Which rows of a store are learnt from, with their labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from qmgen.dataset import Batch, Dataset
from qmgen.dataset.row_mask import finite_rows
from qmgen.errors import InputError
from qmgen.training.splits import BLOCK_ROWS, blocks_of_split
from qmgen.training.targets import SCALARS, TARGETS, Target

MAX_ATOMIC_NUMBER = 99
"""Largest that the embedding takes in every release of schnetpack."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Converged conformers of one split that have every label: 16 bytes a row, 8 a scalar target.

    Attributes
    ----------
    rows : Int64[n]
        Row numbers in the dataset, ascending.
    molecules : Int64[n]
        Molecule of each row.
    scalars : dict of str to Float64[n]
        Targets with one number a structure, eV.
    elements : tuple of int
        Atomic numbers that occur, ascending.
    num_unseen : int
        Conformers left out since the training split lacks one of their elements.
    num_unlabelled : int
        Converged conformers left out since a label is not finite, or since the dipole is learnt
        and they are charged, so that it depends on the origin.
    """

    rows: Int64[np.ndarray, " n"]
    molecules: Int64[np.ndarray, " n"]
    scalars: dict[Target, Float64[np.ndarray, " n"]]
    elements: tuple[int, ...]
    num_unseen: int
    num_unlabelled: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_molecules(self) -> int:
        """Number of molecules that the rows belong to."""
        return len(np.unique(self.molecules))

    def take(self, places: slice | Bool[np.ndarray, " n"]) -> "Selection":
        """Give a part of the rows; everything else stays as it is."""
        return replace(
            self,
            rows=self.rows[places],
            molecules=self.molecules[places],
            scalars={target: values[places] for target, values in self.scalars.items()},
        )


def select_rows(
    dataset: Dataset,
    split: str,
    targets: Sequence[Target],
    known_elements: tuple[int, ...] | None = None,
    codes: UInt8[np.ndarray, " nmol"] | None = None,
) -> Selection:
    """Find the rows of a split that can be used; reads the labels and all atomic numbers once.

    Parameters
    ----------
    dataset : Dataset
        Store.
    split : {"train", "val", "test"}
        Split.
    targets : sequence of str
        Labels.
    known_elements : tuple of int, optional
        Leave out conformers with other elements: no network can have learnt about them.
    codes : UInt8[nmol], optional
        Each molecule's split, from `split_codes`; by default that of the store.

    Returns
    -------
    Selection

    Raises
    ------
    InputError
        The store lacks a label, no row is left, or an element is too heavy for the embedding.
    """
    for target in targets:
        if target not in dataset.columns:
            raise InputError(
                f"{dataset.path}: the store has no {target}; generate one that has, or leave "
                f"{target} out of the targets"
            )
    scalars = [target for target in SCALARS if target in targets]
    rows, molecules = [], []
    values: dict[Target, list[np.ndarray]] = {target: [] for target in scalars}
    elements: set[int] = set()
    seen = unseen = 0
    columns = ("molecule", "charge", "z", *targets)
    for block in blocks_of_split(dataset, split, codes, columns):
        seen += len(block)
        keep = labelled(block, targets)
        if known_elements is not None:
            known = has_only(block, known_elements)
            unseen += int((keep & ~known).sum())
            keep &= known
        rows.append(block.rows[keep])
        molecules.append(block["molecule"][keep])
        for target in scalars:
            values[target].append(block[target][keep] * TARGETS[target].factor)
        elements.update(np.unique(block["z"][np.repeat(keep, block.n_atoms)]).tolist())
    found = sum(map(len, rows))
    if not found:
        raise InputError(_empty(dataset, split, targets, seen, unseen))
    if max(elements) > MAX_ATOMIC_NUMBER:
        raise InputError(
            f"{dataset.path}: the embedding ends at atomic number {MAX_ATOMIC_NUMBER}, the "
            f"{split} split has {max(elements)}; generate a dataset without it"
        )
    return Selection(
        rows=np.concatenate(rows),
        molecules=np.concatenate(molecules),
        scalars={target: np.concatenate(parts) for target, parts in values.items()},
        elements=tuple(sorted(elements)),
        num_unseen=unseen,
        num_unlabelled=seen - found - unseen,
    )


def blocks_of(
    dataset: Dataset, rows: Int64[np.ndarray, " n"], columns: tuple[str, ...]
) -> Iterator[tuple[slice, Batch]]:
    """Read rows in blocks; gives each block's place among `rows` and its content."""
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(rows)))
        yield part, dataset.batch(rows[part], columns)


def labelled(block: Batch, targets: Sequence[Target]) -> Bool[np.ndarray, " n"]:
    """Tell which rows have every label; the dipole of a charged molecule counts as none."""
    keep = finite_rows(block, targets)
    if "dipole" in targets:
        keep &= block["charge"] == 0
    return keep


def has_only(block: Batch, known_elements: tuple[int, ...]) -> Bool[np.ndarray, " n"]:
    """Tell which rows have no other elements."""
    unknown = ~np.isin(block["z"], known_elements)
    return np.add.reduceat(unknown, block.atom_offset[:-1], dtype=np.int64) == 0


def _empty(dataset: Dataset, split: str, targets: Sequence[str], seen: int, unseen: int) -> str:
    if unseen:
        reason = "every conformer has an element that the training split lacks"
    elif seen:
        names = " and ".join(repr(target) for target in targets)
        reason = f"none of its {seen} converged conformers has a finite {names}"
        if "dipole" in targets:
            reason += " without charge"
    else:
        reason = "it has no converged conformer"
    return (
        f"{dataset.path}: the {split} split is of no use: {reason}; generate more molecules, or "
        f"choose another target or other split fractions"
    )
