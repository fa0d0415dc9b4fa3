"""Which rows of a store's arrays, and which of its molecules, damaged files held values of."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Int64
from zarr.codecs import Crc32cCodec

from qmgen.dataset.gather import read_span
from qmgen.dataset.layout import store_layout
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import open_array
from qmgen.dataset.places import Place, file_sizes
from qmgen.dataset.schema import Field
from qmgen.errors import StoreError, StoreUnreachableError

EXTRA = "not a file of this dataset"
CHANGED = "changed"


class Rows(NamedTuple):
    """Elements ``start`` to ``stop`` along an array's leading axis, or rows of molecules."""

    start: int
    stop: int


class DamagedFile(NamedTuple):
    """A file that is not what was written.

    Attributes
    ----------
    name : str
        Path relative to the store.
    problem : str
        What is wrong with it.
    rows : tuple of Rows
        Elements of its array that it doesn't give any more; none for a metadata file.
    """

    name: str
    problem: str
    rows: tuple[Rows, ...] = ()


def with_rows(
    path: Place, metadata: StoreMetadata, files: Iterable[DamagedFile]
) -> Iterator[DamagedFile]:
    """Say which elements of their arrays damaged shards held and don't give any more."""
    groups = store_layout(metadata)
    for file in files:
        group, _, rest = file.name.partition("/")
        name, _, chunk = rest.partition("/c/")
        field = groups.get(group, {}).get(name)
        if field is None or not chunk or file.problem == EXTRA:
            yield file
            continue
        try:
            array = open_array(path, group, field, metadata.counts)
            number = int(chunk.split("/")[0])
        except StoreUnreachableError:
            raise
        except (StoreError, ValueError):
            # Metadata of an array are made again without its values.
            yield file
            continue
        yield DamagedFile(file.name, file.problem, _lost(array, number, file.problem == CHANGED))


def _lost(array: zarr.Array, shard: int, may_be_partial: bool) -> tuple[Rows, ...]:
    """Elements that a damaged shard doesn't give any more."""
    if may_be_partial and has_chunk_checksums(array):
        return _unreadable_rows(array, shard)
    return (_shard_rows(array, shard),)


def _shard_rows(array: zarr.Array, shard: int) -> Rows:
    assert array.shards is not None
    start = shard * array.shards[0]
    return Rows(start, min(start + array.shards[0], array.shape[0]))


def _unreadable_rows(array: zarr.Array, shard: int) -> tuple[Rows, ...]:
    start, stop = _shard_rows(array, shard)
    step = array.chunks[0]
    chunks = (Rows(low, min(low + step, stop)) for low in range(start, stop, step))
    return merged(rows for rows in chunks if not _readable(array, rows))


def has_chunk_checksums(array: zarr.Array) -> bool:
    """Whether a changed byte of a chunk is noticed when the chunk is read."""
    return any(isinstance(codec, Crc32cCodec) for codec in array.compressors)


def _readable(array: zarr.Array, rows: Rows) -> bool:
    try:
        read_span(array, *rows)
    except StoreUnreachableError:
        raise
    except StoreError:
        return False
    return True


def unreadable_files(path: Place, metadata: StoreMetadata) -> Iterator[DamagedFile]:
    """Arrays that can't be read, of a store whose manifest is lost."""
    groups = store_layout(metadata)
    there = file_sizes(path)
    for group, fields in groups.items():
        for name, field in fields.items():
            try:
                array = open_array(path, group, field, metadata.counts)
            except StoreUnreachableError:
                raise
            except StoreError as error:
                yield DamagedFile(f"{group}/{name}/zarr.json", str(error))
                continue
            for shard in range(-(-array.shape[0] // array.shards[0]) if array.shards else 0):
                file = f"{group}/{name}/c/{'/'.join([str(shard), *'0' * (array.ndim - 1)])}"
                if file not in there:
                    yield DamagedFile(file, "missing", _lost(array, shard, False))
                elif rows := _unreadable_rows(array, shard):
                    yield DamagedFile(file, "unreadable", rows)


def affected_molecules(
    path: Place,
    metadata: StoreMetadata,
    damaged: Sequence[DamagedFile],
    arrays: Collection[str] | None = None,
) -> tuple[Rows, ...]:
    """Molecules that the damaged files of some arrays (``group/name``; all) held values of."""
    found: list[Rows] = []
    groups = store_layout(metadata)
    for file in damaged:
        group, _, rest = file.name.partition("/")
        field = groups.get(group, {}).get(rest.partition("/")[0])
        if field is None or group == "failures":
            continue
        if arrays is not None and f"{group}/{field.name}" not in arrays:
            continue
        found += (_molecules(path, metadata, damaged, group, field, rows) for rows in file.rows)
    return merged(found)


def _molecules(
    path: Place,
    metadata: StoreMetadata,
    damaged: Iterable[DamagedFile],
    group: str,
    field: Field,
    rows: Rows,
) -> Rows:
    """Molecules that elements of an array belong to."""

    def cut(group: str, offset: str, rows: Rows) -> Rows:
        return _cut(path, metadata, damaged, group, offset, rows)

    if field.offset:
        rows = cut(group, field.offset, rows)
    elif field.name.endswith("_offset"):
        # A bound belongs to the rows on both sides of it.
        rows = Rows(max(0, rows.start - 1), min(rows.stop, getattr(metadata.counts, group)))
    return rows if group == "molecules" else cut("molecules", "conformer_offset", rows)


def _cut(
    path: Place,
    metadata: StoreMetadata,
    damaged: Iterable[DamagedFile],
    group: str,
    offset: str,
    elements: Rows,
) -> Rows:
    """Rows that some elements of a flat array belong to, as narrow as intact offsets tell."""
    field = store_layout(metadata)[group][offset]
    first, last = 0, int(getattr(metadata.counts, group))
    try:
        array = open_array(path, group, field, metadata.counts)
    except StoreUnreachableError:
        raise
    except StoreError:
        # Listed as damaged itself; without it the elements may be anybody's.
        return Rows(first, last)
    bad = lost_rows(damaged, f"{group}/{offset}")
    step = array.chunks[0]
    for start in range(0, array.shape[0], step):
        stop = min(start + step, array.shape[0])
        if any(r.start < stop and start < r.stop for r in bad):
            continue
        bounds: Int64[np.ndarray, " n"] = read_span(array, start, stop)
        below = np.flatnonzero(bounds <= elements.start)
        above = np.flatnonzero(bounds >= elements.stop)
        if below.size:
            first = max(first, start + int(below[-1]))
        if above.size:
            last = min(last, start + int(above[0]))
    return Rows(first, max(first, last))


def lost_rows(damaged: Iterable[DamagedFile], array: str) -> list[Rows]:
    """Elements of an array, ``group/name``, that damaged files held."""
    return [rows for file in damaged if file.name.startswith(f"{array}/c/") for rows in file.rows]


def merged(ranges: Iterable[Rows]) -> tuple[Rows, ...]:
    """Join ranges that touch or overlap; ascending, empty ones left out."""
    result: list[Rows] = []
    for rows in sorted(rows for rows in ranges if rows.start < rows.stop):
        if result and rows.start <= result[-1].stop:
            result[-1] = Rows(result[-1].start, max(result[-1].stop, rows.stop))
        else:
            result.append(rows)
    return tuple(result)
