"""Growing Zarr arrays that are written one whole shard at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from qmgen.dataset.rounding import rounded
from qmgen.dataset.schema import Field

_AXES = {
    "molecules": "molecule",
    "conformers": "conformer",
    "failures": "failure",
    "atom_offset": "atom",
    "orbital_offset": "orbital",
    "pair_offset": "pair",
}


@dataclass(frozen=True)
class Chunking:
    """How arrays are cut; one shard a file, one chunk a unit of compression and random access.

    Attributes
    ----------
    rows : int
        Rows a chunk of per-molecule and per-conformer arrays.
    elements : int
        Values a chunk of flat (ragged) arrays.
    strings : int
        Strings a chunk.
    chunks_per_shard : int
        Chunks a shard.
    level : int
        Zstd compression level.
    """

    rows: int = 4096
    elements: int = 65536
    strings: int = 4096
    chunks_per_shard: int = 64
    level: int = 3

    def chunk_rows(self, field: Field) -> int:
        """Length of a chunk of this field along the leading axis."""
        if field.dtype == "string":
            return self.strings
        return max(1, self.elements // field.item_size) if field.offset else self.rows


def create_array(
    group: zarr.Group, field: Field, chunking: Chunking, *, checksums: bool = True
) -> zarr.Array:
    """Make an array without elements.

    Parameters
    ----------
    group : zarr.Group
        Group to make it in.
    field : Field
        What it holds.
    chunking : Chunking
        How it is cut.
    checksums : bool
        Whether chunks have checksums; version 4 of the layout added them.

    Raises
    ------
    OSError
        Its metadata can't be written.
    """
    chunk = chunking.chunk_rows(field)
    leading = _AXES[field.offset or group.basename]
    if field.name.endswith("_offset"):
        leading += "_offset"  # one longer than the axis it cuts
    return group.create_array(
        field.name,
        shape=(0, *field.item_shape),
        dtype=field.dtype,
        chunks=(chunk, *field.item_shape),
        shards=(chunk * chunking.chunks_per_shard, *field.item_shape),
        # The checksum comes last, so that damage is noticed before anything is unpacked.
        compressors=[ZstdCodec(level=chunking.level), *([Crc32cCodec()] if checksums else [])],
        dimension_names=(leading, *(f"{field.name}_axis" for _ in field.item_shape)),
        attributes=_attributes(field),
        # A shard of fill values must be a file too: a missing file always means damage.
        config={"write_empty_chunks": True},
    )


class ArrayWriter:
    """Appends to one array; holds at most one shard of it in memory.

    Parameters
    ----------
    array : zarr.Array
        As `create_array` or `grown_array` gives it.
    field : Field
        What the array holds; values are rounded to its bound.
    kept : array
        What the array's last shard holds already, if it is not full.
    """

    def __init__(self, array: zarr.Array, field: Field, kept: np.ndarray | None = None) -> None:
        assert array.shards is not None
        self._array = array
        self._bound = field.bound
        self._shard = array.shards[0]
        self._buffer = np.empty((self._shard, *field.item_shape), dtype=buffer_dtype(field))
        self._used = 0
        if kept is not None:
            self._used = len(kept)
            self._buffer[: self._used] = kept
        self._written = array.shape[0] - self._used

    def __len__(self) -> int:
        return self._written + self._used

    def append(self, values: np.ndarray) -> None:
        """Add elements along the leading axis.

        Raises
        ------
        OSError
            A full shard can't be written.
        """
        if self._bound is not None:
            values = rounded(values, self._bound)
        start = 0
        while start < len(values):
            count = min(len(values) - start, self._shard - self._used)
            self._buffer[self._used : self._used + count] = values[start : start + count]
            self._used += count
            start += count
            if self._used == self._shard:
                self.flush()

    def flush(self) -> None:
        """Write what is held; only the last call may leave a shard unfilled.

        Raises
        ------
        OSError
            The shard can't be written.
        """
        if self._written + self._used == self._array.shape[0]:
            return
        stop = self._written + self._used
        self._array.resize((stop, *self._array.shape[1:]))
        self._array[self._written : stop] = self._buffer[: self._used]
        self._written, self._used = stop, 0


def grown_array(old: zarr.Array, folder: Path) -> zarr.Array:
    """Make an array in a folder of its own that is to become a longer `old`; without its shards.

    Raises
    ------
    OSError
        Its metadata can't be written.
    """
    return _made(folder, _metadata(old))


def array_like(old: zarr.Array, folder: Path, field: Field) -> zarr.Array:
    """Make an array without elements in a folder of its own, cut and packed as `old` is.

    Raises
    ------
    OSError
        Its metadata can't be written.
    """
    metadata = _metadata(old)
    metadata |= {
        "shape": [0, *field.item_shape],
        "attributes": _attributes(field),
        "dimension_names": [
            metadata["dimension_names"][0],
            *(f"{field.name}_axis" for _ in field.item_shape),
        ],
    }
    return _made(folder, metadata)


def _metadata(array: zarr.Array) -> dict[str, Any]:
    store: LocalStore = array.store  # type: ignore[assignment]
    content: dict[str, Any] = json.loads((store.root / "zarr.json").read_text(encoding="utf-8"))
    return content


def _made(folder: Path, metadata: dict[str, Any]) -> zarr.Array:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    array = zarr.open_array(LocalStore(folder), mode="r+", zarr_format=3)
    # A shard of fill values must be a file, too, as those that `create_array` makes.
    return array.with_config({"write_empty_chunks": True})


def buffer_dtype(field: Field) -> str:
    """NumPy's name of the type that holds an array's values in memory."""
    return "object" if field.dtype == "string" else field.dtype


def _attributes(field: Field) -> dict[str, Any]:
    attributes: dict[str, Any] = {"units": field.unit, "description": field.description}
    attributes |= field.attributes
    if field.qm1b:
        attributes["qm1b_column"] = field.qm1b
    if field.offset:
        attributes["offset"] = field.offset
    return attributes
