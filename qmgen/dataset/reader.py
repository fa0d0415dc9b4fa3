"""Lazy reader of a dataset store."""

import math
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int64

from qmgen.dataset.batch import Batch
from qmgen.dataset.gather import (
    checked_row,
    damaged_array,
    ragged_rows,
    row_numbers,
    take,
)
from qmgen.dataset.layout import label_fields, labels_at_levels
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import Arrays, open_arrays, open_checked
from qmgen.dataset.packed import pair_count
from qmgen.dataset.places import Place, RemotePath, place_of
from qmgen.dataset.record import Failure
from qmgen.dataset.schema import COLUMNS, CONFORMER, FAILURE_STAGES, MOLECULE, OPTIONAL
from qmgen.dataset.splits import SPLITS
from qmgen.errors import InputError

_SCAN_ROWS = 1 << 18
_SPLIT_NAMES = np.array(SPLITS, dtype=object)


def open_dataset(path: str | os.PathLike[str]) -> "Dataset":
    """Open a store for reading; reads metadata and file sizes only.

    Parameters
    ----------
    path : path
        Folder of the store, or its URL, such as ``s3://bucket/name.zarr``.

    Returns
    -------
    Dataset

    Raises
    ------
    StoreIncompleteError
        The run that makes the store has not finished.
    StoreError
        There is no store, it is damaged, or a newer qmgen wrote it.
    """
    return Dataset(path)


class Dataset:
    """A store's conformers; each row is one conformer with its molecule's fields.

    Arrays are read on demand, in atomic units. Reading one row decodes a chunk of every column,
    so a loop over many rows should use `iter_blocks`, or `batch` with the columns it needs.
    Instances can be pickled (only the path travels) and used after a fork.

    Attributes
    ----------
    path : Path or RemotePath
        Where the store is, absolute.
    metadata : StoreMetadata
        What the store says about itself.
    columns : tuple of str
        Names of the columns of a row.
    """

    path: Place
    metadata: StoreMetadata
    columns: tuple[str, ...]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = place_of(path)
        self.metadata, self._opened = open_checked(self.path)
        self._process = os.getpid()
        at_levels = labels_at_levels(self.metadata.levels)
        self._fields = label_fields(self.metadata)
        self._flat = {("conformers", f.offset): name for name, f in self._fields.items()}
        self._flat["molecules", "atom_offset"] = "z"
        absent = {*CONFORMER, *OPTIONAL} - set(self._fields)
        self.columns = (*(name for name in COLUMNS if name not in absent), *at_levels)

    def __reduce__(self) -> tuple[type["Dataset"], tuple[str]]:
        return Dataset, (str(self.path),)

    def __repr__(self) -> str:
        return f"<Dataset {self.path}: {len(self)} conformers of {self.num_molecules} molecules>"

    def __len__(self) -> int:
        """Give the number of conformers."""
        return self.metadata.counts.conformers

    @property
    def _arrays(self) -> Arrays:
        # Connections don't survive a fork.
        if self._process != os.getpid() and isinstance(self.path, RemotePath):
            opened = self._opened.items()
            # The store may have grown meanwhile.
            lengths = {f"{g}/{n}": a.shape[0] for g, some in opened for n, a in some.items()}
            self._opened = open_arrays(self.path, self.metadata, lengths)
            self._process = os.getpid()
        return self._opened

    @property
    def num_molecules(self) -> int:
        """Number of molecules, those without conformers included."""
        return self.metadata.counts.molecules

    def units(self, name: str) -> str:
        """Give the unit of a column; ``"1"`` where there is none.

        Raises
        ------
        InputError
            There is no such column.
        """
        self._check_columns([name])
        return COLUMNS[name].unit

    def __getitem__(self, key: Any) -> Any:
        """Give one row as a dict (an integer key) or several as a `Batch` (slice or array).

        Raises
        ------
        IndexError
            There is no such row.
        """
        if isinstance(key, slice) or np.ndim(key):
            return self.batch(key)
        return self.batch([operator.index(key)]).row(0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for block in self.iter_blocks(1024, converged_only=False):
            for i in range(len(block)):
                yield block.row(i)

    def batch(
        self,
        rows: slice | Sequence[int] | np.ndarray,
        columns: Sequence[str] | None = None,
    ) -> Batch:
        """Read several rows.

        Parameters
        ----------
        rows : slice, or sequence or array of int
            Row numbers in any order; negative ones count from the end.
        columns : sequence of str, optional
            Columns to read; all by default.

        Returns
        -------
        Batch

        Raises
        ------
        IndexError
            There is no such row.
        InputError
            There is no such column.
        """
        index = row_numbers(rows, len(self))
        names = self.columns if columns is None else tuple(columns)
        self._check_columns(names)
        conformers = self._arrays["conformers"]
        atoms, atom_offset = self._span("conformers", "atom_offset", index)
        orbitals, orbital_offset = self._span("conformers", "orbital_offset", index)
        elements = {"atom_offset": atoms, "orbital_offset": orbitals, None: index}
        if any(COLUMNS[name].offset == "pair_offset" for name in names):
            elements["pair_offset"], _ = self._span("conformers", "pair_offset", index)
        molecules = np.empty(0, dtype=np.int64)
        if any(name not in self._fields for name in names):
            molecules = take(conformers["molecule"], index)
        values = {}
        for name in names:
            if name == "molecule":
                values[name] = molecules
            elif name in MOLECULE:
                values[name] = self._molecule_column(name, molecules)
            else:
                values[name] = take(conformers[name], elements[self._fields[name].offset])
        return Batch(index, np.diff(atom_offset), atom_offset, orbital_offset, values)

    def column(
        self, name: str, indices: slice | Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Read one column; ragged ones come concatenated (`batch` also gives their offsets).

        Parameters
        ----------
        name : str
            Column.
        indices : slice, or sequence or array of int, optional
            Rows; all by default.

        Raises
        ------
        IndexError
            There is no such row.
        InputError
            There is no such column.
        """
        return self.batch(slice(None) if indices is None else indices, [name])[name]

    def conformers_of(self, molecule: SupportsIndex) -> range:
        """Rows of a molecule's conformers, which may be none.

        Raises
        ------
        IndexError
            There is no such molecule.
        """
        index = checked_row(operator.index(molecule), self.num_molecules, "molecule")
        offsets = self._arrays["molecules"]["conformer_offset"]
        start, stop = take(offsets, np.array([index, index + 1]))
        return range(int(start), int(stop))

    def molecule(self, molecule: SupportsIndex) -> dict[str, Any]:
        """Read a molecule and all its conformers.

        Parameters
        ----------
        molecule : int
            Row of the molecule.

        Returns
        -------
        dict
            The molecule's fields, and the conformers' fields stacked: ``pos`` is (nconf, nat, 3),
            ``energy`` (nconf,) and so on.

        Raises
        ------
        IndexError
            There is no such molecule.
        """
        rows = self.conformers_of(molecule)
        one = np.array([range(self.num_molecules)[molecule]])
        values = {name: self._molecule_column(name, one) for name in MOLECULE}
        result: dict[str, Any] = {n: v if n == "z" else v[0] for n, v in values.items()}
        nao = int(result["nao"])
        sizes = {"nat": len(values["z"]), "nmo": nao, "npair": pair_count(nao)}
        block = self.batch(slice(rows.start, rows.stop), tuple(self._fields))
        for name, field in self._fields.items():
            dims = (sizes[dim] if isinstance(dim, str) else dim for dim in field.dims)
            shape = (len(rows), *dims)
            if block[name].size != math.prod(shape):
                raise damaged_array(self._arrays["conformers"][name], f"not {shape} in {rows}")
            result[name] = block[name].reshape(shape)
        return result

    def indices(
        self, split: str | None = None, converged_only: bool = True
    ) -> Int64[np.ndarray, " n"]:
        """Rows of a split, in stored order.

        Parameters
        ----------
        split : {"train", "val", "test"}, optional
            Split; all by default.
        converged_only : bool
            Leave out conformers whose SCF did not converge.

        Raises
        ------
        InputError
            There is no such split.
        """
        _check_split(split)
        starts = range(0, len(self), _SCAN_ROWS)
        found = [self._select(start, _SCAN_ROWS, split, converged_only) for start in starts]
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def iter_blocks(
        self,
        block_size: int,
        *,
        split: str | None = None,
        seed: int | None = None,
        converged_only: bool = True,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Batch]:
        """Go over the rows once, one block of neighbours at a time.

        Memory is bounded by the block. A block holds what `split` and `converged_only` leave of
        `block_size` neighbouring rows; empty blocks are left out. Blocks of at least a chunk
        (4096 rows) avoid decoding chunks twice.

        Parameters
        ----------
        block_size : int
            Rows a block before selection.
        split : {"train", "val", "test"}, optional
            Split; all by default.
        seed : int, optional
            Shuffles the order of blocks and the rows within each; stored order by default.
        converged_only : bool
            Leave out conformers whose SCF did not converge.
        columns : sequence of str, optional
            Columns to read; all by default.

        Returns
        -------
        iterator of Batch

        Raises
        ------
        InputError
            There is no such split or column, or `block_size` is not positive.
        """
        _check_split(split)
        self._check_columns(columns or ())
        if block_size < 1:
            raise InputError(f"block_size must be at least 1, not {block_size}")
        return self._blocks(block_size, split, seed, converged_only, columns)

    def _blocks(
        self,
        block_size: int,
        split: str | None,
        seed: int | None,
        converged_only: bool,
        columns: Sequence[str] | None,
    ) -> Iterator[Batch]:
        blocks = np.arange(-(-len(self) // block_size))
        if seed is not None:
            blocks = np.random.default_rng(seed).permutation(blocks)
        for block in blocks.tolist():
            rows = self._select(block * block_size, block_size, split, converged_only)
            if seed is not None:
                # Its own generator, so that a block's order doesn't hang on the ones before it.
                rows = np.random.default_rng([seed, block]).permutation(rows)
            if rows.size:
                yield self.batch(rows, columns)

    def failures(self) -> Iterator[Failure]:
        """Go over what got no label, or a label that is not converged."""
        arrays = self._arrays["failures"]
        total = self.metadata.counts.failures
        for start in range(0, total, 4096):
            rows = np.arange(start, min(start + 4096, total))
            columns = [take(array, rows).tolist() for array in arrays.values()]
            if not {*columns[[*arrays].index("stage")]} <= {*FAILURE_STAGES}:
                raise damaged_array(arrays["stage"], f"not made of {', '.join(FAILURE_STAGES)}")
            for values in zip(*columns, strict=True):
                yield Failure(**dict(zip(arrays, values, strict=True)))

    def _check_columns(self, names: Sequence[str]) -> None:
        for name in sorted(set(names) - set(self.columns)):
            hint = "; runs store it only if their labels ask for it" * (name in OPTIONAL)
            raise InputError(f"no column {name!r}; the columns are {', '.join(self.columns)}{hint}")

    def _span(
        self, group: str, offset: str, rows: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " n+1"]]:
        """Elements of ragged rows in their flat array, and offsets from 0."""
        array = self._arrays[group][offset]
        bounds = take(array, np.concatenate([rows, rows + 1]))
        starts, stops = bounds[: rows.size], bounds[rows.size :]
        flat = self._arrays[group][self._flat[group, offset]].shape[0]
        if rows.size and ((stops < starts).any() or starts.min() < 0 or stops.max() > flat):
            raise damaged_array(array, f"not ascending from 0 to {flat}")
        return ragged_rows(starts, stops)

    def _molecule_column(self, name: str, molecules: Int64[np.ndarray, " n"]) -> np.ndarray:
        array = self._arrays["molecules"][name]
        if name == "z":
            return take(array, self._span("molecules", "atom_offset", molecules)[0])
        values = take(array, molecules)
        if name != "split":
            return values
        if values.size and values.max() >= len(SPLITS):
            raise damaged_array(array, f"not made of split codes below {len(SPLITS)}")
        return _SPLIT_NAMES[values]

    def _select(
        self, start: int, count: int, split: str | None, converged_only: bool
    ) -> Int64[np.ndarray, " n"]:
        rows = np.arange(start, min(start + count, len(self)))
        keep = np.ones(rows.size, dtype=bool)
        if converged_only:
            keep &= take(self._arrays["conformers"]["converged"], rows)
        if split is not None:
            molecules = take(self._arrays["conformers"]["molecule"], rows)
            codes = take(self._arrays["molecules"]["split"], molecules)
            keep &= codes == SPLITS.index(split)
        return rows[keep]


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise InputError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
