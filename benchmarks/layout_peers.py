"""The rows of `layout.py` as Parquet, with a list a conformer as QM1B's, and as HDF5."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qmgen.dataset import Batch, Chunking, Field, MoleculeRecord
from qmgen.dataset.gather import ragged_rows
from qmgen.dataset.schema import MOLECULE, conformer_fields

OPTIONAL = ("forces",)
FIELDS = conformer_fields(OPTIONAL)
_MOLECULE = {name: field for name, field in MOLECULE.items() if name != "split"}
_FILE_ROWS = 1 << 17
_MOLECULES = 32
"""Records that are handed on together."""
_CACHE = 16 << 20


class Rows(Protocol):
    """What is measured of a file; the peers read neighbouring rows only."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray, columns: Sequence[str]) -> Batch:
        """Give rows."""
        ...


def _groups(records: list[MoleculeRecord]) -> Iterator[list[MoleculeRecord]]:
    for start in range(0, len(records), _MOLECULES):
        yield records[start : start + _MOLECULES]


def _columns(records: Sequence[MoleculeRecord]) -> dict[str, np.ndarray]:
    """Labels of several molecules, one after the other; ragged ones flat."""
    return {
        name: np.concatenate(
            [record.conformers[name].reshape(-1, *field.item_shape) for record in records]
        )
        for name, field in FIELDS.items()
    }


def _sizes(field: Field, records: Sequence[MoleculeRecord]) -> np.ndarray:
    """Values a conformer."""
    inner = field.item_size
    sizes = [(r.z.size if field.dims[0] == "nat" else r.nao) * inner for r in records]
    return np.repeat(sizes, [record.num_conformers for record in records])


def write_parquet(
    path: Path, records: list[MoleculeRecord], *, group_rows: int, level: int
) -> None:
    path.mkdir()
    writer, in_file, held = None, 0, []
    for table in [*_tables(records), None]:
        held += [] if table is None else [table]
        rows = sum(part.num_rows for part in held)
        if not held or (table is not None and rows < group_rows):
            continue
        whole = pa.concat_tables(held)
        full = whole if table is None else whole.slice(0, rows // group_rows * group_rows)
        held = [whole.slice(full.num_rows)] if full.num_rows < rows else []
        for start in range(0, full.num_rows, group_rows):
            if writer is None or in_file >= _FILE_ROWS:
                _close(writer)
                writer, in_file = _writer(path, full.schema, level), 0
            group = full.slice(start, group_rows)
            writer.write_table(group, row_group_size=group_rows)
            in_file += group.num_rows
    _close(writer)


def _writer(path: Path, schema: pa.Schema, level: int) -> pq.ParquetWriter:
    file = path / f"part-{len([*path.iterdir()]):05d}.parquet"
    # Dictionaries serve text and what is the same in all conformers of a molecule.
    repeated = [*_MOLECULE]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=repeated,
        write_page_checksum=True,
    )


def _close(writer: pq.ParquetWriter | None) -> None:
    if writer is not None:
        writer.close()
        _sync(Path(writer.where))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _tables(records: list[MoleculeRecord]) -> Iterator[pa.Table]:
    for group in _groups(records):
        counts = [record.num_conformers for record in group]
        columns: dict[str, pa.Array] = {}
        for name in _MOLECULE:
            if name == "z":
                values = np.concatenate(
                    [np.tile(r.z, n) for r, n in zip(group, counts, strict=True)]
                )
                sizes = np.repeat([record.z.size for record in group], counts)
                columns[name] = _lists(values, sizes)
            else:
                columns[name] = pa.array(np.repeat([getattr(r, name) for r in group], counts))
        for name, values in _columns(group).items():
            field = FIELDS[name]
            if field.offset:
                columns[name] = _lists(values.ravel(), _sizes(field, group))
            elif field.dims:
                columns[name] = pa.FixedSizeListArray.from_arrays(values.ravel(), field.item_size)
            else:
                columns[name] = pa.array(values)
        yield pa.table(columns)


def _lists(values: np.ndarray, sizes: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values))


class ParquetRows:
    """Neighbouring rows of Parquet files that stay open."""

    def __init__(self, path: Path) -> None:
        self._files = [pq.ParquetFile(file) for file in sorted(path.iterdir())]
        groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.metadata.num_row_groups)
        ]
        self._groups = [(file, group) for file, group, _ in groups]
        self._ends = np.cumsum([rows for _, _, rows in groups])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, rows: np.ndarray, columns: Sequence[str]) -> Batch:
        """Give neighbouring rows."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        parts = [
            file.read_row_group(group, columns=[*columns], use_threads=False)
            for file, group in self._groups[first : last + 1]
        ]
        before = int(self._ends[first - 1]) if first else 0
        table = pa.concat_tables(parts).slice(start - before, stop - start).combine_chunks()
        n_atoms = pc.list_value_length(table["z"]).to_numpy().astype(np.int64)
        values: dict[str, Any] = {}
        for name in columns:
            column = table[name].combine_chunks()
            if name == "z" or FIELDS[name].dims:
                shape = () if name == "z" else FIELDS[name].item_shape
                values[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
            else:
                values[name] = column.to_numpy(zero_copy_only=False)
        return _batch(rows, n_atoms, values)


def open_parquet(path: Path) -> ParquetRows:
    return ParquetRows(path)


def parquet_files(path: Path, times: float) -> int:
    return math.ceil(len(ParquetRows(path)) * times / _FILE_ROWS)


def write_hdf5(path: Path, records: list[MoleculeRecord], *, cut: Chunking) -> None:
    path.mkdir()
    name = path / "data.h5"
    with h5py.File(name, "w", rdcc_nbytes=_CACHE) as file:
        molecules, conformers = file.create_group("molecules"), file.create_group("conformers")
        flat = {field.offset for field in FIELDS.values() if field.offset}
        number, ends = 0, dict.fromkeys(("z", "conformer", *flat), 0)
        for offset in ("atom_offset", "conformer_offset"):
            _append(molecules, offset, np.zeros(1, np.int64), cut.rows, cut)
        for offset in flat:
            _append(conformers, offset, np.zeros(1, np.int64), cut.rows, cut)
        for group in _groups(records):
            counts = [record.num_conformers for record in group]
            for key, field in _MOLECULE.items():
                if key == "z":
                    values = np.concatenate([record.z for record in group])
                else:
                    values = np.array([getattr(record, key) for record in group], field_type(field))
                _append(molecules, key, values, cut.chunk_rows(field), cut)
            atoms = ends["z"] + np.cumsum([record.z.size for record in group])
            rows = ends["conformer"] + np.cumsum(counts)
            ends |= {"z": int(atoms[-1]), "conformer": int(rows[-1])}
            _append(molecules, "atom_offset", atoms, cut.rows, cut)
            _append(molecules, "conformer_offset", rows, cut.rows, cut)
            index = np.repeat(number + np.arange(len(group)), counts)
            _append(conformers, "molecule", index, cut.rows, cut)
            number += len(group)
            for key, values in _columns(group).items():
                _append(conformers, key, values, cut.chunk_rows(FIELDS[key]), cut)
            for offset in flat:
                field = next(f for f in FIELDS.values() if f.offset == offset)
                bounds = ends[offset] + np.cumsum(_sizes(field, group) // field.item_size)
                ends[offset] = int(bounds[-1])
                _append(conformers, offset, bounds, cut.rows, cut)
    _sync(name)


def field_type(field: Field) -> Any:
    return h5py.string_dtype() if field.dtype == "string" else field.dtype


def _append(group: h5py.Group, name: str, values: np.ndarray, chunk: int, cut: Chunking) -> None:
    if name not in group:
        group.create_dataset(
            name,
            data=values,
            maxshape=(None, *values.shape[1:]),
            chunks=(chunk, *values.shape[1:]),
            fletcher32=values.dtype.kind != "O",
            **hdf5plugin.Zstd(clevel=cut.level),
        )
        return
    dataset = group[name]
    dataset.resize(len(dataset) + len(values), axis=0)
    dataset[-len(values) :] = values


class Hdf5Rows:
    """Neighbouring rows of a file that stays open."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path / "data.h5", "r")
        self._molecules = dict(self._file["molecules"])
        self._conformers = dict(self._file["conformers"])

    def __len__(self) -> int:
        return len(self._conformers["energy"])

    def batch(self, rows: np.ndarray, columns: Sequence[str]) -> Batch:
        """Give neighbouring rows."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        bounds = self._conformers["atom_offset"][start : stop + 1]
        values: dict[str, Any] = {}
        for name in columns:
            if name == "z":
                values[name] = self._atomic_numbers(start, stop)
            elif FIELDS[name].offset:
                values[name] = self._conformers[name][bounds[0] : bounds[-1]]
            else:
                values[name] = self._conformers[name][start:stop]
        return _batch(rows, np.diff(bounds), values)

    def _atomic_numbers(self, start: int, stop: int) -> np.ndarray:
        molecule = self._conformers["molecule"][start:stop]
        first, last = int(molecule[0]), int(molecule[-1])
        bounds = self._molecules["atom_offset"][first : last + 2]
        z = self._molecules["z"][bounds[0] : bounds[-1]]
        places = molecule - first
        elements, _ = ragged_rows(bounds[places] - bounds[0], bounds[places + 1] - bounds[0])
        return z[elements]


def open_hdf5(path: Path) -> Hdf5Rows:
    return Hdf5Rows(path)


def _batch(rows: np.ndarray, n_atoms: np.ndarray, values: dict[str, Any]) -> Batch:
    offset = np.concatenate([[0], np.cumsum(n_atoms)])
    return Batch(rows, n_atoms, offset, np.zeros(len(rows) + 1, np.int64), values)
