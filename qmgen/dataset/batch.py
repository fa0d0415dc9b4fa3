"""Several conformers read together: plain columns, ragged ones flat with offsets."""

from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int64

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
