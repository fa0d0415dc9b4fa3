"""What holds in every right store, to notice one with right checksums and wrong content."""

from collections.abc import Collection, Iterator

import numpy as np
import zarr

from qmgen.dataset.gather import read_span, take
from qmgen.dataset.layout import store_layout
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import Arrays
from qmgen.dataset.packed import pair_count
from qmgen.dataset.rounding import rounded
from qmgen.dataset.schema import FAILURE_STAGES
from qmgen.dataset.splits import SPLITS, split_digest, split_key

_SCAN = 1 << 16


def contradictions(
    metadata: StoreMetadata, arrays: Arrays, files: Collection[str]
) -> Iterator[str]:
    """Say what of a store can't be right; one pass over offsets and a few columns.

    Memory is bounded by a block of rows and 9 bytes a molecule.

    Parameters
    ----------
    metadata : StoreMetadata
        What the store says about itself.
    arrays : dict of dict of zarr.Array
        All arrays by group and name.
    files : collection of str
        Paths of the store's files, the manifest left out.

    Raises
    ------
    StoreError
        A chunk can't be read.
    """
    for name in sorted(_needed(arrays) - {*files}):
        yield f"the manifest does not list {name}"
    broken = [*_lengths(metadata, arrays)]
    yield from broken
    if not broken:
        yield from _molecules(metadata, arrays)
        yield from _conformers(metadata, arrays)
        yield from _failures(arrays["failures"])
        yield from _unrounded(metadata, arrays["conformers"])


def _needed(arrays: Arrays) -> set[str]:
    names = {"zarr.json"}
    for group, members in arrays.items():
        names.add(f"{group}/zarr.json")
        for name, array in members.items():
            names.add(f"{group}/{name}/zarr.json")
            assert array.shards is not None
            shards = range(-(-array.shape[0] // array.shards[0]))
            rest = "/0" * (array.ndim - 1)
            names |= {f"{group}/{name}/c/{shard}{rest}" for shard in shards}
    return names


def _lengths(metadata: StoreMetadata, arrays: Arrays) -> Iterator[str]:
    """Check that offsets ascend from 0 to the length of what they cut."""
    groups = store_layout(metadata)
    for group, fields in groups.items():
        for name in fields:
            if name.endswith("_offset"):
                yield from _ascending(f"{group}/{name}", arrays[group][name])
        for name, field in fields.items():
            if field.offset:
                yield from _ends(group, name, arrays[group][field.offset], arrays[group][name])
    offset, rows = arrays["molecules"]["conformer_offset"], arrays["conformers"]["molecule"]
    yield from _ends("conformers", "molecule", offset, rows)


def _ascending(name: str, offset: zarr.Array) -> Iterator[str]:
    before = 0
    for start, stop in _blocks(offset):
        values = read_span(offset, start, stop)
        if (start == 0 and values[0] != 0) or (np.diff(values, prepend=before) < 0).any():
            yield f"{name} does not ascend from 0"
            return
        before = values[-1]


def _ends(group: str, name: str, offset: zarr.Array, flat: zarr.Array) -> Iterator[str]:
    end = int(read_span(offset, offset.shape[0] - 1, offset.shape[0])[0])
    if end != flat.shape[0]:
        yield f"{group}/{name} has {flat.shape[0]} elements, and its offsets end at {end}"


def _molecules(metadata: StoreMetadata, arrays: Arrays) -> Iterator[str]:
    molecules = arrays["molecules"]
    columns = [molecules[name] for name in ("smile", "source_id", "line", "split")]
    digests = np.zeros(metadata.counts.molecules, np.uint64)
    codes = np.zeros(metadata.counts.molecules, np.uint8)
    seed = metadata.split.seed
    for start, stop in _blocks(columns[0]):
        smiles, ids, lines, codes[start:stop] = (read_span(c, start, stop) for c in columns)
        keys = map(split_key, smiles.tolist(), ids.tolist(), lines.tolist())
        digests[start:stop] = [split_digest(key, seed) for key in keys]
    if codes.size and codes.max() >= len(SPLITS):
        yield f"molecules/split has the code {codes.max()}"
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    apart = np.flatnonzero(codes != codes[first][inverse])
    if apart.size:
        yield f"molecule {apart[0]} is in another split than one with the same SMILES"
    for start, stop in _blocks(molecules["z"]):
        if not read_span(molecules["z"], start, stop).all():
            yield "molecules/z has the atomic number 0"
            return


def _conformers(metadata: StoreMetadata, arrays: Arrays) -> Iterator[str]:
    molecules, conformers = arrays["molecules"], arrays["conformers"]
    converged = 0
    for start, stop in _blocks(conformers["molecule"]):
        rows = np.arange(start, stop)
        owner = read_span(conformers["molecule"], start, stop)
        if owner.min() < 0 or owner.max() >= metadata.counts.molecules:
            yield f"conformers/molecule points outside the molecules in rows {start} to {stop}"
            return
        span = np.arange(owner.min(), owner.max() + 2)
        bounds = {n: take(molecules[n], span) for n in ("conformer_offset", "atom_offset")}
        place = owner - span[0]
        first = bounds["conformer_offset"]
        if ((rows < first[place]) | (rows >= first[place + 1])).any():
            yield f"conformers/molecule does not fit conformer_offset in rows {start} to {stop}"
            return
        nao = take(molecules["nao"], span[:-1])[place]
        sizes = {
            "atom_offset": np.diff(bounds["atom_offset"])[place],
            "orbital_offset": nao,
            "pair_offset": pair_count(nao.astype(np.int64)),
        }
        for name, expected in sizes.items():
            if name not in conformers:
                continue
            if (np.diff(read_span(conformers[name], start, stop + 1)) != expected).any():
                yield f"conformers/{name} does not fit the molecules in rows {start} to {stop}"
        number = read_span(conformers["index"], start, stop)
        if ((np.diff(number) <= 0) & (np.diff(owner) == 0)).any() or number.min() < 0:
            yield f"conformers/index does not ascend within a molecule in rows {start} to {stop}"
        met = read_span(conformers["converged"], start, stop)
        if not np.isfinite(read_span(conformers["energy"], start, stop)[met]).all():
            yield f"a converged conformer in rows {start} to {stop} has no energy"
        converged += int(met.sum())
    if converged != metadata.counts.converged:
        said = metadata.counts.converged
        yield f"{converged} conformers are converged, and the metadata say {said}"


def _failures(failures: dict[str, zarr.Array]) -> Iterator[str]:
    for start, stop in _blocks(failures["stage"]):
        other = {*read_span(failures["stage"], start, stop).tolist()} - {*FAILURE_STAGES}
        if other:
            yield f"failures/stage has {min(other)!r}"
            return


def _unrounded(metadata: StoreMetadata, arrays: dict[str, zarr.Array]) -> Iterator[str]:
    """Check that labels which are said to be rounded are."""
    for name, field in store_layout(metadata)["conformers"].items():
        if field.bound is None:
            continue
        for start, stop in _blocks(arrays[name]):
            values = read_span(arrays[name], start, stop)
            if not np.array_equal(rounded(values, field.bound), values, equal_nan=True):
                yield f"conformers/{name} is not rounded as the metadata say ({field.bound:g})"
                break


def _blocks(array: zarr.Array) -> Iterator[tuple[int, int]]:
    step = max(array.chunks[0], _SCAN - _SCAN % array.chunks[0])
    for start in range(0, array.shape[0], step):
        yield start, min(start + step, array.shape[0])
