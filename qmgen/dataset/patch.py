"""Puts molecules that were made again into the damaged shards of a store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int64
from zarr.storage import LocalStore

from qmgen.dataset.arrays import buffer_dtype
from qmgen.dataset.damage import Rows, lost_rows
from qmgen.dataset.gather import read_span
from qmgen.dataset.layout import store_layout
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import open_array, open_arrays
from qmgen.dataset.packed import pair_count
from qmgen.dataset.publishing import disk_errors
from qmgen.dataset.record import Failure, MoleculeRecord
from qmgen.dataset.rounding import rounded
from qmgen.dataset.schema import Field, is_at_level, store_groups
from qmgen.dataset.splits import split_digest, split_key, splits_of_digests
from qmgen.dataset.verify import Verification
from qmgen.errors import StoreError

DERIVED = frozenset(
    {
        "molecules/split",
        "conformers/molecule",
        "conformers/atom_offset",
        "conformers/orbital_offset",
        "conformers/pair_offset",
    }
)
"""Arrays that follow from the others, so that their damage needs no molecule made again."""

Lost = Mapping[str, Sequence[Rows]]
"""Elements to be written anew, by array (``group/name``)."""


@dataclass(frozen=True)
class _Places:
    """Where molecules have their values: ``[i]`` to ``[i + 1]`` along the array's leading axis."""

    molecules: Int64[np.ndarray, " bounds"]
    atoms: Int64[np.ndarray, " bounds"]
    conformers: Int64[np.ndarray, " bounds"]
    flat: Mapping[str, Int64[np.ndarray, " bounds"]]
    sizes: Mapping[str, Int64[np.ndarray, " nmol"]]

    def of(self, group: str, field: Field) -> Int64[np.ndarray, " bounds"]:
        if group == "molecules":
            return self.atoms if field.offset else self.molecules
        return self.flat[field.offset] if field.offset else self.conformers


def lost_elements(found: Verification) -> dict[str, list[Rows]]:
    """Elements that damaged files held, by array."""
    names = {"/".join(d.name.split("/")[:2]) for d in found.damaged if d.rows}
    return {name: lost_rows(found.damaged, name) for name in sorted(names)}


def doubtful(found: Verification, planned: Mapping[int, int]) -> set[int]:
    """Lines of which something may have failed: not all there, not converged, or not known.

    Parameters
    ----------
    found : Verification
        What is damaged.
    planned : mapping of int to int
        Most conformers of each molecule, by its line in the input file.
    """
    assert found.metadata is not None
    arrays = open_arrays(found.folder, found.metadata)
    needed = ("molecules/line", "molecules/conformer_offset", "conformers/converged")
    if any(lost_rows(found.damaged, name) for name in needed):
        return set(planned)
    bounds = read_span(
        arrays["molecules"]["conformer_offset"], 0, found.metadata.counts.molecules + 1
    )
    converged = read_span(arrays["conformers"]["converged"], 0, found.metadata.counts.conformers)
    before = _bounds(converged.astype(np.int64))
    good = dict(zip(known_lines(found).tolist(), np.diff(before[bounds]).tolist(), strict=True))
    return {line for line, most in planned.items() if good.get(line, -1) < most}


def all_elements(found: Verification, molecules: Sequence[Rows]) -> dict[str, list[Rows]]:
    """Elements of all labels of some molecules, by array."""
    assert found.metadata is not None
    metadata = found.metadata
    arrays = open_arrays(found.folder, metadata)
    groups = store_layout(metadata)
    bounds = arrays["molecules"]["conformer_offset"]
    result: dict[str, list[Rows]] = {}
    for name, field in groups["conformers"].items():
        # Labels at other levels are not made again with the others.
        if f"conformers/{name}" in DERIVED or is_at_level(name):
            continue
        for start, stop in molecules:
            rows = _ends(bounds, start, stop)
            if field.offset:
                rows = _ends(arrays["conformers"][field.offset], *rows)
            result.setdefault(f"conformers/{name}", []).append(rows)
    return result


def _ends(bounds: zarr.Array, start: int, stop: int) -> Rows:
    first, last = (int(read_span(bounds, i, i + 1)[0]) for i in (start, stop))
    return Rows(first, last)


def known_lines(found: Verification) -> Int64[np.ndarray, " nmol"]:
    """Lines of all molecules in the input file, -1 where they are lost."""
    assert found.metadata is not None
    field = store_groups()["molecules"]["line"]
    array = open_array(found.folder, "molecules", field, found.metadata.counts)
    return _known(array, lost_rows(found.damaged, "molecules/line"))


def patched_shards(
    found: Verification,
    lost: Lost,
    records: Mapping[int, MoleculeRecord],
    failures: Sequence[Failure],
    folder: Path,
) -> dict[str, Path]:
    """Write the shards that hold lost elements anew, beside the store.

    Parameters
    ----------
    found : Verification
        What is damaged; all metadata files are intact.
    lost : mapping of str to sequence of Rows
        Elements to write, by array.
    records : mapping of int to MoleculeRecord
        The molecules that have such elements, by row.
    failures : sequence of Failure
        All failures of the store, if some of their elements are lost.
    folder : Path
        Where to write.

    Returns
    -------
    dict of str to Path
        The new files by the names of those that they are to replace.

    Raises
    ------
    StoreError
        What was made again is of another size than what was lost, or the disk is full.
    """
    path, metadata = found.folder, found.metadata
    assert metadata is not None
    groups = store_layout(metadata)
    places = _places(found, records)
    made: dict[str, Path] = {}
    for name, ranges in lost.items():
        if name == "molecules/split":
            continue
        group, _, column = name.partition("/")
        field = groups[group][column]

        def fill(values: np.ndarray, rows: Rows, group: str = group, field: Field = field) -> None:
            _fill(values, rows, group, field, places, records, failures, path)

        made |= _write_shards(path, metadata, group, field, ranges, folder, fill)
    if ranges := lost.get("molecules/split", ()):
        codes = _splits(found, metadata, records)

        def fill_split(values: np.ndarray, rows: Rows) -> None:
            values[:] = codes[rows.start : rows.stop]

        field = groups["molecules"]["split"]
        made |= _write_shards(path, metadata, "molecules", field, ranges, folder, fill_split)
    return made


def count_converged(found: Verification) -> int:
    """Number of conformers whose SCF converged, as the store has it now."""
    assert found.metadata is not None
    array = open_arrays(found.folder, found.metadata)["conformers"]["converged"]
    step = array.chunks[0]
    starts = range(0, array.shape[0], step)
    return sum(int(read_span(array, start, start + step).sum()) for start in starts)


def _known(array: zarr.Array, lost: Iterable[Rows]) -> Int64[np.ndarray, " n"]:
    """All values of a vector of whole numbers, -1 where they are lost."""
    values = np.full(array.shape[0], -1, np.int64)
    kept = np.ones(array.shape[0], bool)
    for start, stop in lost:
        kept[start:stop] = False
    step = array.chunks[0]
    for start in range(0, array.shape[0], step):
        if kept[start : start + step].all():
            values[start : start + step] = read_span(array, start, start + step)
    return values


def _places(found: Verification, records: Mapping[int, MoleculeRecord]) -> _Places:
    """Bounds of every molecule, from what is intact and from the molecules that were made again."""
    assert found.metadata is not None
    arrays = open_arrays(found.folder, found.metadata)["molecules"]

    def known(name: str) -> Int64[np.ndarray, " n"]:
        return _known(arrays[name], lost_rows(found.damaged, f"molecules/{name}"))

    sizes = {
        "nat": _differences(known("atom_offset")),
        "nconf": _differences(known("conformer_offset")),
        "nao": known("nao"),
    }
    for row, record in records.items():
        again = {"nat": record.z.size, "nconf": record.num_conformers, "nao": record.nao}
        for name, size in again.items():
            if sizes[name][row] not in (-1, size):
                raise _differs(
                    found.folder,
                    f"molecule {row} has {size} instead of {sizes[name][row]} ({name})",
                )
            sizes[name][row] = size
    nat, nconf, nao = sizes.values()
    if min((size.min() for size in sizes.values() if size.size), default=0) < 0:
        raise _differs(found.folder, "some molecule was not made again")
    if nconf.sum() != found.metadata.counts.conformers:
        raise _differs(found.folder, f"there are {nconf.sum()} conformers")
    per_row = {"atom_offset": nat, "orbital_offset": nao, "pair_offset": pair_count(nao)}
    return _Places(
        molecules=np.arange(nat.size + 1),
        atoms=_bounds(nat),
        conformers=_bounds(nconf),
        flat={name: _bounds(size * nconf) for name, size in per_row.items()},
        sizes=per_row,
    )


def _differences(bounds: Int64[np.ndarray, " bounds"]) -> Int64[np.ndarray, " n"]:
    lost = (bounds[:-1] < 0) | (bounds[1:] < 0)
    return np.where(lost, -1, np.diff(bounds))


def _bounds(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " bounds"]:
    return np.concatenate([[0], np.cumsum(sizes)])


def _fill(
    values: np.ndarray,
    rows: Rows,
    group: str,
    field: Field,
    places: _Places,
    records: Mapping[int, MoleculeRecord],
    failures: Sequence[Failure],
    path: Path,
) -> None:
    """Set `values` to an array's elements `rows`."""
    if group == "failures":
        values[:] = [getattr(failure, field.name) for failure in failures[rows.start : rows.stop]]
        return
    numbers = np.arange(*rows)
    if group == "molecules" and field.name.endswith("_offset"):
        bounds = places.atoms if field.name == "atom_offset" else places.conformers
        values[:] = bounds[numbers]
        return
    owner = np.searchsorted(places.conformers[:-1], numbers, side="right") - 1
    if field.name == "molecule":
        values[:] = owner
        return
    if field.name.endswith("_offset"):
        before = numbers - places.conformers[owner]
        values[:] = places.flat[field.name][owner] + places.sizes[field.name][owner] * before
        return
    bounds = places.of(group, field)
    first = int(np.searchsorted(bounds, rows.start, side="right")) - 1
    for row in range(first, int(np.searchsorted(bounds, rows.stop))):
        start, stop = int(bounds[row]), int(bounds[row + 1])
        if start == stop:
            continue
        if row not in records:
            raise _differs(path, f"molecule {row} was not made again")
        low, high = max(start, rows.start), min(stop, rows.stop)
        piece = _piece(records[row], group, field)[low - start : high - start]
        values[low - rows.start : high - rows.start] = piece


def _piece(record: MoleculeRecord, group: str, field: Field) -> np.ndarray:
    """A molecule's part of an array."""
    if group == "conformers":
        values = record.conformers[field.name].reshape(-1, *field.item_shape)
        return values if field.bound is None else rounded(values, field.bound)
    if field.name == "z":
        return record.z
    return np.array([getattr(record, field.name)], dtype=object)


def _write_shards(
    path: Path,
    metadata: StoreMetadata,
    group: str,
    field: Field,
    ranges: Sequence[Rows],
    folder: Path,
    fill: Callable[[np.ndarray, Rows], None],
) -> dict[str, Path]:
    """Write the shards of an array that hold some elements; gives them by name."""
    name = f"{group}/{field.name}"
    old = open_array(path, group, field, metadata.counts)
    with disk_errors(path):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "zarr.json").write_bytes((path / name / "zarr.json").read_bytes())
        new = zarr.open_array(LocalStore(folder / name), mode="r+", zarr_format=3)
        new = new.with_config({"write_empty_chunks": True})
    assert old.shards is not None
    size, step = old.shards[0], old.chunks[0]
    made = {}
    for shard in sorted({k for r in ranges for k in range(r.start // size, -(-r.stop // size))}):
        start, stop = shard * size, min((shard + 1) * size, old.shape[0])
        values: Any = np.empty((stop - start, *field.item_shape), dtype=buffer_dtype(field))
        for low in range(start, stop, step):
            high = min(low + step, stop)
            if not any(r.start <= low and high <= r.stop for r in ranges):
                values[low - start : high - start] = read_span(old, low, high)
        for r in ranges:
            low, high = max(r.start, start), min(r.stop, stop)
            if low < high:
                fill(values[low - start : high - start], Rows(low, high))
        with disk_errors(path):
            new[start:stop] = values
        file = "/".join([name, "c", str(shard), *"0" * len(field.item_shape)])
        made[file] = folder / file
    return made


def _splits(
    found: Verification, metadata: StoreMetadata, records: Mapping[int, MoleculeRecord]
) -> np.ndarray:
    """Split of every molecule, by its key."""
    arrays = open_arrays(found.folder, metadata)["molecules"]
    names = ("smile", "source_id", "line")
    bad = [rows for name in names for rows in lost_rows(found.damaged, f"molecules/{name}")]
    total = metadata.counts.molecules
    digests = np.zeros(total, np.uint64)
    step = arrays["smile"].chunks[0]
    for start in range(0, total, step):
        stop = min(start + step, total)
        rows = range(start, stop)
        if any(r.start < stop and start < r.stop for r in bad):
            keys = [_key(records, arrays, row) for row in rows]
        else:
            columns = (read_span(arrays[name], start, stop).tolist() for name in names)
            keys = [split_key(*values) for values in zip(*columns, strict=True)]
        digests[start:stop] = [split_digest(key, metadata.split.seed) for key in keys]
    return splits_of_digests(digests, metadata.split.fractions)


def _key(records: Mapping[int, MoleculeRecord], arrays: Mapping[str, zarr.Array], row: int) -> str:
    if row in records:
        record = records[row]
        return split_key(record.smile, record.source_id, record.line)
    smile, source_id, line = (
        read_span(arrays[name], row, row + 1).tolist()[0] for name in ("smile", "source_id", "line")
    )
    return split_key(smile, source_id, line)


def _differs(path: Path, what: str) -> StoreError:
    return StoreError(
        f"{path} can't be repaired: what was made again differs from what was lost ({what}); use "
        "the versions that the dataset's metadata name, or run qmgen generate to another output"
    )
