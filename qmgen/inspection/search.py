"""A search through SMILES that stops in time and can go on."""

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import Dataset
from qmgen.errors import InputError
from qmgen.inspection.molecule_index import MoleculeIndex
from qmgen.molecules import molecule_from_smiles, substructure_test

MAX_MATCHES = 10_000
# A chunk of the store's strings, which is decoded as a whole.
_BLOCK = 4096


class Search:
    """Which molecules of an index fit a query, as far as it has looked.

    Parameters
    ----------
    dataset : Dataset
        Store.
    index : MoleculeIndex
        Its molecules.
    kind : {"substructure", "molecule"}
        Whether the query is a pattern (SMARTS) or a whole molecule (SMILES).
    query : str
        What to look for.

    Raises
    ------
    InputError
        The query is no SMARTS or SMILES, or there is no such kind.
    """

    def __init__(self, dataset: Dataset, index: MoleculeIndex, kind: str, query: str) -> None:
        self._dataset = dataset
        self._index = index
        self._fits = _test(kind, query)
        self._found: list[int] = []
        self._unread: list[str] = []
        self.scanned = 0

    @property
    def found(self) -> Int64[np.ndarray, " n"]:
        """Places in the index of what fits, ascending; at most `MAX_MATCHES`."""
        return np.array(self._found, dtype=np.int64)

    @property
    def full(self) -> bool:
        """Whether it stopped for good because it has found `MAX_MATCHES`."""
        return len(self._found) >= MAX_MATCHES

    @property
    def complete(self) -> bool:
        """Whether every molecule has been looked at."""
        return self.scanned >= len(self._index)

    def go_on(self, seconds: float) -> None:
        """Look at further molecules for about so long, at one at least."""
        deadline = time.monotonic() + seconds
        while not (self.complete or self.full):
            if not self._unread:
                rows = self._index.row[self.scanned : self.scanned + _BLOCK]
                self._unread = self._dataset.column("smile", rows).tolist()[::-1]
            if self._fits(self._unread.pop()):
                self._found.append(self.scanned)
            self.scanned += 1
            if time.monotonic() >= deadline:
                return


def _test(kind: str, query: str) -> Callable[[str], bool]:
    if kind == "substructure":
        return substructure_test(query)
    if kind == "molecule":
        return molecule_from_smiles(query).smiles.__eq__
    raise InputError(f"no kind of search {kind!r}; there are substructure and molecule")
