"""Smaller training sets, each a part of the larger ones."""

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import Dataset
from qmgen.errors import ConfigError
from qmgen.training.selection import Selection, blocks_of


def training_subset(
    dataset: Dataset,
    train: Selection,
    *,
    conformers: int | None = None,
    molecules: int | None = None,
    seed: int = 0,
) -> Selection:
    """Take whole molecules of a training split in a random order until there are enough.

    The order depends on the split and `seed` alone, so a smaller set is part of every larger one.
    It begins with molecules that have an element which those before them lack: each set that holds
    these has all elements of the split, and is tested on the same conformers.

    Parameters
    ----------
    dataset : Dataset
        Store.
    train : Selection
        Usable rows of the training split.
    conformers : int, optional
        Most conformers; the first molecule is taken whatever its size.
    molecules : int, optional
        Molecules. At most one of the two is given; all rows are taken if none is.
    seed : int
        Another seed gives another order.

    Returns
    -------
    Selection

    Raises
    ------
    ConfigError
        The split has fewer.
    """
    if conformers is None and molecules is None:
        return train
    ids, first, counts = np.unique(train.molecules, return_index=True, return_counts=True)
    asked, there, what = (
        (molecules, len(ids), "molecules")
        if molecules is not None
        else (conformers, len(train), "conformers")
    )
    assert asked is not None
    if asked > there:
        raise ConfigError(
            f"{dataset.path}: {asked} {what} are asked for and the training split has {there} "
            "that can be used; ask for fewer or generate more"
        )
    order = _order(dataset, train.rows[first], seed)
    if molecules is not None:
        number = molecules
    else:
        number = max(1, int(np.searchsorted(np.cumsum(counts[order]), asked, side="right")))
    chosen = train.take(np.isin(train.molecules, ids[order[:number]]))
    elements: set[int] = set()
    for _, block in blocks_of(dataset, chosen.rows, ("z",)):
        elements.update(np.unique(block["z"]).tolist())
    return Selection(
        rows=chosen.rows,
        molecules=chosen.molecules,
        scalars=chosen.scalars,
        elements=tuple(sorted(elements)),
        num_unseen=chosen.num_unseen,
        num_unlabelled=chosen.num_unlabelled,
    )


def _order(
    dataset: Dataset, rows: Int64[np.ndarray, " nmol"], seed: int
) -> Int64[np.ndarray, " nmol"]:
    """Order molecules, given a row of each."""
    order = np.random.default_rng(seed).permutation(len(rows))
    seen: set[int] = set()
    front = []
    for part, block in blocks_of(dataset, rows[order], ("z",)):
        # Whatever is new in a molecule is new in the first atom of that element of the block.
        atoms = np.unique(block["z"], return_index=True)[1]
        for atom in np.sort(atoms).tolist():
            if (number := int(block["z"][atom])) not in seen:
                place = int(np.searchsorted(block.atom_offset, atom, side="right")) - 1
                seen.add(number)
                front.append(part.start + place)
    places = np.array(list(dict.fromkeys(front)), dtype=np.int64)
    return np.concatenate([order[places], np.delete(order, places)])
