"""Writes a dataset as a folder that Hugging Face's ``datasets.load_dataset`` reads."""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qmgen.dataset.batch import Batch
from qmgen.dataset.dataset_card import dataset_card
from qmgen.dataset.export import ExportCounts
from qmgen.dataset.output import written_beside
from qmgen.dataset.reader import Dataset
from qmgen.dataset.schema import COLUMNS
from qmgen.errors import InputError

HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Name of each split for people who load it."""
_BLOCK_ROWS = 16384


def export_huggingface(
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    license_id: str = "unknown",
    file_rows: int = 1 << 20,
) -> ExportCounts:
    """Write ``data/train-00000-of-00001.parquet`` and so on, and a dataset card, ``README.md``.

    All columns of the store but ``split``, one row a converged conformer, in atomic units as in
    the store; values of atoms, orbitals and pairs of orbitals are lists. Each split is a set of
    files of its own, one that is empty has none. Memory is bounded by some thousand rows.

    Parameters
    ----------
    dataset : Dataset
        What to export.
    folder : path
        Folder to make.
    license_id : str
        Licence as the Hub names it, such as ``cc-by-4.0``.
    file_rows : int
        A file with at least so many rows is followed by another.

    Returns
    -------
    ExportCounts
        Rows written and left out.

    Raises
    ------
    StoreError
        The folder exists, or the disk is full or unwritable.
    InputError
        No conformer has converged.
    """
    columns = tuple(name for name in dataset.columns if name != "split")
    counts = {}
    with written_beside(folder) as path:
        (path / "data").mkdir(parents=True)
        for split, name in HUB_SPLITS.items():
            blocks = dataset.iter_blocks(_BLOCK_ROWS, split=split, columns=columns)
            counts[name] = _write_files(blocks, _schema(columns), path / "data", name, file_rows)
        if not any(counts.values()):
            raise InputError(f"{dataset.path}: no conformer has converged; there is none to write")
        card = dataset_card(dataset, columns, counts, license_id)
        (path / "README.md").write_text(card, encoding="utf-8")
    written = sum(counts.values())
    return ExportCounts(written, len(dataset) - written)


def _write_files(
    blocks: Iterable[Batch], schema: pa.Schema, folder: Path, name: str, file_rows: int
) -> int:
    """Write the files of a split; gives the number of rows."""
    parts: list[Path] = []
    written = in_file = 0
    with ExitStack() as stack:
        for block in blocks:
            if not parts or in_file >= file_rows:
                stack.close()
                parts.append(folder / f"{name}-{len(parts):05d}")
                writer = stack.enter_context(
                    pq.ParquetWriter(parts[-1], schema, compression="zstd")
                )
                in_file = 0
            writer.write_batch(_convert(block, schema))
            in_file += len(block)
            written += len(block)
    for part in parts:
        part.rename(f"{part}-of-{len(parts):05d}.parquet")
    return written


def _schema(columns: Sequence[str]) -> pa.Schema:
    """Types of the columns; the units are in the metadata of each."""
    fields = []
    for name in columns:
        field = COLUMNS[name]
        kind = pa.string() if field.dtype == "string" else pa.from_numpy_dtype(field.dtype)
        for size in reversed(field.item_shape):
            kind = pa.list_(kind, size)
        if field.offset:
            kind = pa.list_(kind)
        fields.append(pa.field(name, kind, metadata={"units": field.unit}))
    return pa.schema(fields)


def _convert(block: Batch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for name in schema.names:
        values = pa.array(block[name].ravel())
        for size in reversed(COLUMNS[name].item_shape):
            values = pa.FixedSizeListArray.from_arrays(values, size)
        offsets = block.offsets(name)
        if offsets is not None:
            values = pa.ListArray.from_arrays(offsets.astype(np.int32), values)
        arrays.append(values.cast(schema.field(name).type))
    return pa.record_batch(arrays, schema=schema)
