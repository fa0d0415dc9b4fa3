"""Several conformers read together: plain columns, ragged ones flat with offsets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int64

from qmgen.dataset.gather import ragged_rows
from qmgen.dataset.packed import pair_count
from qmgen.dataset.schema import COLUMNS


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a dataset.

    Attributes
    ----------
    rows : Int64[n]
        Row numbers in the dataset.
    n_atoms : Int64[n]
        Atoms a row.
    atom_offset : Int64[n + 1]
        Row ``i`` of ``z``, ``pos`` and other values of atoms is ``[atom_offset[i]:atom_offset[i +
        1]]``; starts at 0.
    orbital_offset : Int64[n + 1]
        The same for ``orbital_energies``.
    columns : dict of str to array
        Columns in atomic units (see `qmgen.dataset.schema.COLUMNS`): leading axis ``n``, or the
        total of atoms or orbitals; ``smile``, ``source_id`` and ``split`` as arrays of str.
    """

    rows: Int64[np.ndarray, " n"]
    n_atoms: Int64[np.ndarray, " n"]
    atom_offset: Int64[np.ndarray, " n+1"]
    orbital_offset: Int64[np.ndarray, " n+1"]
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> np.ndarray:
        """Give a column.

        Raises
        ------
        KeyError
            The batch was read without it.
        """
        return self.columns[name]

    @property
    def pair_offset(self) -> Int64[np.ndarray, " bounds"]:
        """Offsets of ``density_matrix`` and ``fock_matrix``, which hold pairs of orbitals."""
        return np.concatenate([[0], np.cumsum(pair_count(np.diff(self.orbital_offset)))])

    def offsets(self, name: str) -> Int64[np.ndarray, " bounds"] | None:
        """Offsets that cut a flat column into rows; None for a column that has one entry a row."""
        offset = COLUMNS[name].offset
        return None if offset is None else getattr(self, offset)

    def row(self, i: SupportsIndex) -> dict[str, Any]:
        """One row, ragged columns cut out.

        Raises
        ------
        IndexError
            There is no such row.
        """
        k = range(len(self))[i]
        values = {}
        for name, column in self.columns.items():
            offsets = self.offsets(name)
            values[name] = column[k] if offsets is None else column[offsets[k] : offsets[k + 1]]
        return values

    def take(self, places: Int64[np.ndarray, " m"]) -> "Batch":
        """Give some of the rows as a batch of their own, copied.

        Parameters
        ----------
        places : Int64[m]
            Places in this batch, not negative, in any order.
        """
        atoms, atom_offset = _elements(self.atom_offset, places)
        orbitals, orbital_offset = _elements(self.orbital_offset, places)
        elements = {None: places, "atom_offset": atoms, "orbital_offset": orbitals}
        if any(COLUMNS[name].offset == "pair_offset" for name in self.columns):
            elements["pair_offset"], _ = _elements(self.pair_offset, places)
        return Batch(
            self.rows[places],
            np.diff(atom_offset),
            atom_offset,
            orbital_offset,
            {name: values[elements[COLUMNS[name].offset]] for name, values in self.columns.items()},
        )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Put the rows of batches with the same columns, at least one, one after the other."""
    n_atoms = np.concatenate([batch.n_atoms for batch in batches])
    n_orbitals = np.concatenate([np.diff(batch.orbital_offset) for batch in batches])
    return Batch(
        np.concatenate([batch.rows for batch in batches]),
        n_atoms,
        np.concatenate([[0], np.cumsum(n_atoms)]),
        np.concatenate([[0], np.cumsum(n_orbitals)]),
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0].columns},
    )


def _elements(
    offset: Int64[np.ndarray, " bounds"], places: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " m+1"]]:
    return ragged_rows(offset[places], offset[places + 1])
