"""Which molecules are learnt from and which are tested on: the store's split, or by scaffold."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from qmgen.dataset import SPLITS, Batch, Dataset
from qmgen.errors import InputError
from qmgen.molecules import scaffold

SplitKind = Literal["stored", "scaffold"]
BLOCK_ROWS = 16384
"""Rows read together: a chunk of the store's plain columns."""


def split_codes(dataset: Dataset, kind: SplitKind) -> UInt8[np.ndarray, " nmol"] | None:
    """Give each molecule's split, its place in `qmgen.dataset.SPLITS`; None for the stored one.

    Parameters
    ----------
    dataset : Dataset
        Store.
    kind : {"stored", "scaffold"}
        The split that the store was written with, or one in which all molecules of a
        Bemis-Murcko scaffold are in one split, with the shares that the store asks for: see
        `split_by_scaffold`.

    Raises
    ------
    InputError
        A split by scaffold is asked for and a molecule has no SMILES.
    """
    if kind == "stored":
        return None
    smiles: dict[int, str] = {}
    columns = ("molecule", "smile")
    for block in dataset.iter_blocks(BLOCK_ROWS, converged_only=False, columns=columns):
        ids, first = np.unique(block["molecule"], return_index=True)
        smiles.update(zip(ids.tolist(), block["smile"][first].tolist(), strict=True))
    if not all(smiles.values()):
        number = next(number for number, text in smiles.items() if not text)
        raise InputError(
            f"{dataset.path}: molecule {number} has no SMILES and so no scaffold; use split: stored"
        )
    codes = np.zeros(dataset.num_molecules, dtype=np.uint8)
    scaffolds = [scaffold(text) for text in smiles.values()]
    codes[list(smiles)] = split_by_scaffold(scaffolds, dataset.metadata.split.fractions)
    return codes


def blocks_of_split(
    dataset: Dataset,
    split: str | None,
    codes: UInt8[np.ndarray, " nmol"] | None,
    columns: Sequence[str],
) -> Iterator[Batch]:
    """Read the converged conformers of a split in blocks, in stored order.

    Parameters
    ----------
    dataset : Dataset
        Store.
    split : {"train", "val", "test"}, optional
        Split; everything if None.
    codes : UInt8[nmol] or None
        From `split_codes`.
    columns : sequence of str
        Columns to read.

    Raises
    ------
    InputError
        At once if there is no such split or column.
    """
    if split is None or codes is None:
        return dataset.iter_blocks(BLOCK_ROWS, split=split, columns=columns)
    if split not in SPLITS:
        raise InputError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
    return _selected(dataset, codes == SPLITS.index(split), columns)


def _selected(dataset: Dataset, wanted: np.ndarray, columns: Sequence[str]) -> Iterator[Batch]:
    for block in dataset.iter_blocks(BLOCK_ROWS, columns=("molecule",)):
        rows = block.rows[wanted[block["molecule"]]]
        if rows.size:
            yield dataset.batch(rows, columns)


def split_by_scaffold(
    scaffolds: Sequence[str], fractions: Sequence[float]
) -> UInt8[np.ndarray, " nmol"]:
    """Share out whole scaffolds, the most frequent first.

    Wu et al., Chem. Sci. 9, 513 (2018): a scaffold goes to the training split while that has
    room, then to validation, then to test, which so holds the rare scaffolds. Scaffolds of the same
    size go in the order of their SMILES, so the result depends on the molecules alone.

    Parameters
    ----------
    scaffolds : sequence of str
        Scaffold of each molecule; those without a ring share the empty one.
    fractions : sequence of float
        Shares of train, validation and test.

    Returns
    -------
    UInt8[nmol]
        0 train, 1 validation, 2 test.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for molecule, name in enumerate(scaffolds):
        members[name].append(molecule)
    codes = np.full(len(scaffolds), SPLITS.index("test"), dtype=np.uint8)
    total = len(scaffolds)
    # Rounding keeps float noise from deciding about the last molecule.
    rooms = [round(fractions[0] * total), round((fractions[0] + fractions[1]) * total)]
    taken = [0, 0]
    for name in sorted(members, key=lambda name: (-len(members[name]), name)):
        size = len(members[name])
        if taken[0] + size <= rooms[0]:
            code = 0
        elif sum(taken) + size <= rooms[1]:
            code = 1
        else:
            continue
        codes[members[name]] = code
        taken[code] += size
    return codes
