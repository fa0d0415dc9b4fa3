"""Finished batches in files: each appears whole or not at all, and a damaged one is noticed.

They lie in a folder or below a URL, a thousand in a folder, so that a listing tells what is there.
"""

import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from qmgen.dataset import Failure, MoleculeRecord, Place, RemotePath
from qmgen.dataset.places import names_in, reading, written_whole
from qmgen.errors import StoreError, StoreUnreachableError
from qmgen.generate.worker import LabelledSlice

_PER_FOLDER = 1000
_SUFFIX = ".npz"
# What a changed bit makes of a zip file; RuntimeError where it seems encrypted or of another kind.
_DAMAGE = (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def part_path(folder: Place, batch: int) -> Place:
    """File of a batch."""
    return _subfolder(folder, batch // _PER_FOLDER) / f"{batch:09d}{_SUFFIX}"


def _subfolder(folder: Place, number: int) -> Place:
    return folder / f"{number:06d}"


def save_part(folder: Place, batch: int, slices: list[LabelledSlice]) -> None:
    """Write a finished batch and make sure that it is on disk before it counts.

    Processes that write the same batch don't disturb each other: the last one's file stays.

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
    try:
        with written_whole(path) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    except StoreUnreachableError:
        raise
    except OSError as error:
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; batches finished before it are kept. "
            "Free disk space and run the same command again"
        ) from error


class DamagedPartError(StoreError):
    """A finished batch is not what was written; it was removed, to be done again."""


def load_parts(folder: Place, batches: Sequence[int]) -> Iterator[list[LabelledSlice]]:
    """Read finished batches in this order, several at a time below a URL; as `load_part`."""
    done = 0
    if isinstance(folder, RemotePath):
        names = [str(part_path(folder, batch)).removeprefix(f"{folder}/") for batch in batches]
        # What is missing, `load_part` says.
        with suppress(FileNotFoundError):
            for batch, (_, content) in zip(batches, folder.read_many(names), strict=True):
                yield load_part(folder, batch, content)
                done += 1
    yield from (load_part(folder, batch) for batch in batches[done:])


def load_part(folder: Place, batch: int, content: bytes | None = None) -> list[LabelledSlice]:
    """Read a finished batch; its checksums are checked, and a damaged one is removed.

    Parameters
    ----------
    folder
        Of the parts.
    batch
        Number of the batch.
    content
        Of its file, if that was read before.

    Raises
    ------
    DamagedPartError
        It is missing or damaged.
    """
    path = part_path(folder, batch)
    try:
        # NumPy leaves a file open that it opened and found damaged.
        opened = reading(path) if content is None else nullcontext(io.BytesIO(content))
        with opened as stream, np.load(stream, allow_pickle=False) as arrays:
            entries = json.loads(arrays["entries"].tobytes())
            return [_slice(arrays, i, entry) for i, entry in enumerate(entries)]
    except StoreUnreachableError:
        raise
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


def is_complete(folder: Place, batch: int) -> bool:
    """Whether a batch is there; what has changed since it was written shows when it is read."""
    return part_path(folder, batch).exists()


def with_completeness(
    folder: Place, batches: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int, bool]]:
    """Say which batches are there, by one listing for a thousand of them.

    Parameters
    ----------
    folder
        Of the parts.
    batches
        Number and conformers of each, by ascending number.

    Returns
    -------
    iterator of (int, int, bool)
        Number, conformers, and whether it is complete.
    """
    for number, group in itertools.groupby(batches, lambda batch: batch[0] // _PER_FOLDER):
        names = {*names_in(_subfolder(folder, number))}
        for batch, conformers in group:
            yield batch, conformers, part_path(folder, batch).name in names
