"""Lets a finished store grow: further molecules, or further labels of those that it has.

What is new is written beside, in a folder of the store that is none of its files, and put in place
by `complete`. Shards that are full stay as they are; the last one of an array is replaced by one
that begins alike and holds more. Since files can't all be replaced at once, the manifest first
tells what each of them will be. Then come shards, then the metadata of arrays, then the root's
metadata, which is the moment at which the store is the new one, and the manifest of the outcome
last. A process that is killed anywhere leaves a store that opens as it was or as it will be.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from jaxtyping import UInt8, UInt64

from qmgen.dataset.arrays import ArrayWriter, array_like, grown_array
from qmgen.dataset.gather import read_span
from qmgen.dataset.layout import labels_at_levels, store_layout
from qmgen.dataset.manifest import (
    GROUP,
    GROWTH,
    MANIFEST,
    ROOT,
    Change,
    Manifest,
    damaged,
    entry_of,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from qmgen.dataset.metadata import StoreMetadata
from qmgen.dataset.opening import Arrays, open_checked
from qmgen.dataset.publishing import disk_errors
from qmgen.dataset.rebuild import put, write_root
from qmgen.dataset.record import Failure, MoleculeRecord
from qmgen.dataset.schema import CONFORMER, Field
from qmgen.dataset.splits import split_digest, split_key, splits_by_hash
from qmgen.dataset.store import GroupWriter, write_records
from qmgen.dataset.verify import root_attributes
from qmgen.errors import StoreError


@dataclass(frozen=True)
class Grown:
    """How much was written beside a store."""

    molecules: int
    conformers: int
    converged: int
    failures: int


def growth_folder(path: Path) -> Path:
    """Folder of a store for what an append that is not finished needs."""
    return path / GROWTH


def _files(path: Path) -> Path:
    return growth_folder(path) / "files"


def discard(path: Path) -> None:
    """Forget what an earlier attempt wrote beside a store and did not begin to put in place."""
    with disk_errors(path):
        shutil.rmtree(_files(path), ignore_errors=True)


def write_molecules(
    path: Path, records: Iterable[MoleculeRecord], failures: Iterable[Failure]
) -> Grown:
    """Write further molecules beside a store.

    A molecule gets the split of those that have its SMILES already, or else the one that its hash
    falls in.

    Parameters
    ----------
    path : Path
        Folder of the store.
    records : iterable of MoleculeRecord
        The molecules, with all labels of the store.
    failures : iterable of Failure
        Read after `records`.

    Raises
    ------
    StoreError
        The store is damaged, or the disk is full or unwritable.
    InputError
        A record lacks labels that the store has, or has others.
    """
    metadata, arrays = open_checked(path)
    writers = {
        group: _writers(path, arrays, group, fields)
        for group, fields in store_layout(metadata).items()
    }
    before = {name: len(writers[name][first]) for name, first in _FIRST.items()}
    seed = metadata.split.seed
    labels = (*metadata.optional_labels, *labels_at_levels(metadata.levels))
    digests, converged = write_records(path, records, writers, seed, labels)
    codes = _splits(metadata, arrays, np.array(digests, dtype=np.uint64))
    with disk_errors(path):
        writers["molecules"]["split"].append(codes)
        for failure in failures:
            writers["failures"].append_row(vars(failure))
        for writer in writers.values():
            writer.flush()
    after = {name: len(writers[name][first]) for name, first in _FIRST.items()}
    added = {name: after[name] - before[name] for name in _FIRST}
    return Grown(converged=converged, **added)


_FIRST = {"molecules": "line", "conformers": "molecule", "failures": "line"}


def write_labels(
    path: Path,
    fields: Mapping[str, Field],
    values: Iterable[Mapping[str, np.ndarray]],
    failures: Iterable[Failure],
) -> Grown:
    """Write further labels of all conformers beside a store.

    Parameters
    ----------
    path : Path
        Folder of the store.
    fields : mapping of str to Field
        The labels: float64, scalars or values of atoms.
    values : iterable of dict of str to array
        Labels of neighbouring conformers, in stored order, flat as the store has them.
    failures : iterable of Failure
        What failed; read after `values`.

    Raises
    ------
    StoreError
        The store is damaged, the disk is full or unwritable, or there are not as many values as
        conformers or atoms.
    """
    metadata, arrays = open_checked(path)
    model = {name: _alike(arrays["conformers"], field) for name, field in fields.items()}
    with disk_errors(path):
        made = {
            name: ArrayWriter(array_like(model[name], _files(path) / "conformers" / name, f), f)
            for name, f in fields.items()
        }
    writers = GroupWriter(made)
    for block in values:
        with disk_errors(path):
            for name, column in block.items():
                writers[name].append(column)
    for name, old in model.items():
        if len(writers[name]) != old.shape[0]:
            raise StoreError(
                f"{path}: {len(writers[name])} values of {name} instead of {old.shape[0]}; this is "
                "an error of qmgen, and the dataset stays as it is"
            )
    rows = _writers(path, arrays, "failures", store_layout(metadata)["failures"])
    before = len(rows["line"])
    with disk_errors(path):
        writers.flush()
        for failure in failures:
            rows.append_row(vars(failure))
        rows.flush()
    return Grown(0, 0, 0, len(rows["line"]) - before)


def _alike(arrays: Mapping[str, zarr.Array], field: Field) -> zarr.Array:
    """An array of the store that is as long and cut alike."""
    shape = (field.offset, field.item_shape, field.dtype)
    fields = CONFORMER.items()
    return next(arrays[n] for n, f in fields if (f.offset, f.item_shape, f.dtype) == shape)


def _writers(path: Path, arrays: Arrays, group: str, fields: Mapping[str, Field]) -> GroupWriter:
    """Writers that go on where the arrays of a group end."""
    writers = {}
    for name, field in fields.items():
        old = arrays[group][name]
        assert old.shards is not None
        kept = read_span(old, old.shape[0] - old.shape[0] % old.shards[0], old.shape[0])
        with disk_errors(path):
            new = grown_array(old, _files(path) / group / name)
        writers[name] = ArrayWriter(new, field, kept)
    return GroupWriter(writers)


def _splits(
    metadata: StoreMetadata, arrays: Arrays, new: UInt64[np.ndarray, " nmol"]
) -> UInt8[np.ndarray, " nmol"]:
    """Splits of further molecules."""
    molecules = arrays["molecules"]
    columns = [molecules[name] for name in ("smile", "source_id", "line")]
    known = np.zeros(metadata.counts.molecules, np.uint64)
    step = columns[0].chunks[0]
    for start in range(0, known.size, step):
        rows = zip(*(read_span(c, start, start + step).tolist() for c in columns), strict=True)
        digests = [split_digest(split_key(*row), metadata.split.seed) for row in rows]
        known[start : start + step] = digests
    codes = splits_by_hash(new, metadata.split.fractions)
    if known.size:
        order = np.argsort(known, kind="stable")
        place = order[np.minimum(np.searchsorted(known[order], new), known.size - 1)]
        old = read_span(molecules["split"], 0, known.size)
        codes = np.where(known[place] == new, old[place], codes)
    return codes


def stage(path: Path, metadata: StoreMetadata) -> None:
    """Finish what is beside a store, so that `complete` can put it in place.

    Parameters
    ----------
    path : Path
        Folder of the store.
    metadata : StoreMetadata
        What its root shall say.

    Raises
    ------
    StoreError
        The disk is full or unwritable.
    """
    folder = _files(path)
    files = read_manifest(path, metadata.schema_version)
    with disk_errors(path):
        write_root(metadata, folder)
        names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        for name in sorted(names):
            entry = entry_of(folder / name)
            if files.get(name) == entry:
                (folder / name).unlink()
            files[name] = entry
        (folder / GROUP).mkdir()
        content = manifest_bytes(files, root_attributes(metadata))
        # It appears last and whole: where it is, everything else is.
        temporary = folder / "manifest.tmp"
        temporary.write_bytes(content)
    put(temporary, folder / MANIFEST)


def complete(path: Path) -> None:
    """Put what `stage` has finished in place; a process that was killed over it goes on.

    Raises
    ------
    StoreError
        The disk is full or unwritable, or what is to be put in place is not there any more.
    """
    folder = _files(path)
    final, now = _manifest(path, folder / MANIFEST), _manifest(path, path / MANIFEST)
    change = now.change
    if change is None:
        change = Change(
            {name: entry for name, entry in final.files.items() if now.files.get(name) != entry},
            _lengths(path, now, final),
        )
        assert now.metadata is not None
        with disk_errors(path):
            temporary = growth_folder(path) / "manifest.tmp"
            temporary.write_bytes(manifest_bytes(now.files, now.metadata, change))
        put(temporary, path / MANIFEST)
    for name in sorted(change.files, key=_order):
        if (folder / name).exists():
            put(folder / name, path / name)
        elif not (path / name).exists() or entry_of(path / name) != change.files[name]:
            raise damaged(path, path / name, "missing, and so is what should take its place")
    put(folder / MANIFEST, path / MANIFEST)


def settle(path: Path) -> bool:
    """Complete what a process that was killed had begun to put in place; says whether it had.

    Raises
    ------
    StoreError
        As `complete`.
    """
    try:
        now = parse_manifest((path / MANIFEST).read_bytes())
    except (OSError, ValueError):
        # Damage, which whoever opens the store is told of.
        return False
    if now.change is None or not now.intact:
        return False
    if not (_files(path) / MANIFEST).is_file():
        raise StoreError(
            f"{path} was being appended to, and the folder {_files(path)} with what is new is "
            "gone; copy that back, or make a dataset of what was there before with qmgen merge "
            f"OTHER {path}"
        )
    complete(path)
    return True


def _manifest(path: Path, file: Path) -> Manifest:
    try:
        manifest = parse_manifest(file.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(path, file, "missing or damaged") from error
    if not manifest.intact:
        raise damaged(path, file, "damaged (its checksum of itself is wrong)")
    return manifest


def _order(name: str) -> tuple[bool, bool, str]:
    """Shards first, then metadata of arrays, the root's last."""
    return name == ROOT, name.endswith("zarr.json"), name


def _lengths(path: Path, now: Manifest, final: Manifest) -> dict[str, int]:
    """Length of the arrays whose metadata change."""
    lengths = {}
    for name, entry in now.files.items():
        if name.count("/") == 2 and name.endswith("/zarr.json") and final.files[name] != entry:
            shape = json.loads((path / name).read_text(encoding="utf-8"))["shape"]
            lengths[name.removesuffix("/zarr.json")] = int(shape[0])
    return lengths
