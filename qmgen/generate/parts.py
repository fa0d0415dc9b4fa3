"""Finished batches on disk: each appears whole or not at all, and a damaged one is noticed."""

import json
import os
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qmgen.dataset import Failure, MoleculeRecord
from qmgen.errors import StoreError
from qmgen.generate.worker import LabelledSlice

_PER_FOLDER = 1000
# What a changed bit makes of a zip file; RuntimeError where it seems encrypted or of another kind.
_DAMAGE = (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def part_path(folder: Path, batch: int) -> Path:
    """File of a batch."""
    return folder / f"{batch // _PER_FOLDER:06d}" / f"{batch:09d}.npz"


def save_part(folder: Path, batch: int, slices: list[LabelledSlice]) -> None:
    """Write a finished batch and make sure that it is on disk before it counts.

    Raises
    ------
    StoreError
        The disk is full or unwritable.
    """
    path = part_path(folder, batch)
    arrays: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    for i, part in enumerate(slices):
        entry: dict[str, Any] = {
            "number": part.number,
            "failures": [asdict(failure) for failure in part.failures],
        }
        if part.record is not None:
            record = part.record
            names = ("line", "source_id", "smile", "charge", "spin", "nao")
            entry["record"] = {name: getattr(record, name) for name in names}
            entry["conformer_fields"] = list(record.conformers)
            arrays[f"{i}/z"] = record.z
            arrays |= {f"{i}/{name}": values for name, values in record.conformers.items()}
        entries.append(entry)
    arrays["entries"] = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Where the folder itself is the trouble, there is no such file either.
        with suppress(OSError):
            temporary.unlink()
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; batches finished before it are kept. "
            "Free disk space and run the same command again"
        ) from error


class DamagedPartError(StoreError):
    """A finished batch is not what was written; it was removed, to be done again."""


def load_part(folder: Path, batch: int) -> list[LabelledSlice]:
    """Read a finished batch; its checksums are checked, and a damaged one is removed.

    Raises
    ------
    DamagedPartError
        It is missing or damaged.
    """
    path = part_path(folder, batch)
    try:
        # NumPy leaves a file open that it opened and found damaged.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            entries = json.loads(arrays["entries"].tobytes())
            return [_slice(arrays, i, entry) for i, entry in enumerate(entries)]
    except _DAMAGE as error:
        path.unlink(missing_ok=True)
        raise DamagedPartError(
            f"{path} is missing or damaged ({error}); run the same command again, which labels "
            "this batch again"
        ) from error


def _slice(arrays: Any, i: int, entry: dict[str, Any]) -> LabelledSlice:
    record = None
    if "record" in entry:
        conformers = {name: arrays[f"{i}/{name}"] for name in entry["conformer_fields"]}
        record = MoleculeRecord(**entry["record"], z=arrays[f"{i}/z"], conformers=conformers)
    failures = tuple(Failure(**failure) for failure in entry["failures"])
    return LabelledSlice(entry["number"], record, failures)


def is_complete(folder: Path, batch: int) -> bool:
    """Whether a batch is there; what has changed since it was written shows when it is read."""
    return part_path(folder, batch).exists()
