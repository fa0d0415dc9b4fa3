"""Workers that commit what they have labelled themselves, and tell the run no more than its size.

With many workers, one process that takes in all labels and writes them is what the others wait for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from qmgen.dataset import Failure, Place
from qmgen.dataset.places import written_whole
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import StoreError, StoreUnreachableError
from qmgen.generate import worker
from qmgen.generate.config import RunConfig
from qmgen.generate.parts import save_part
from qmgen.generate.plan import Batch
from qmgen.generate.worker import LabelledSlice
from qmgen.molecules import Molecule

MARK = "qmgen-parts.json"


@dataclass(frozen=True)
class SharedParts:
    """Where all workers of a run keep finished batches; ``run`` identifies it."""

    folder: Place
    run: str


@dataclass(frozen=True)
class Receipt:
    """What became of a batch that is committed.

    ``conformers`` has the number of each slice's molecule and how many conformers it came to.
    """

    batch: int
    conformers: tuple[tuple[int, int], ...]
    failures: tuple[Failure, ...]


class WrongResultError(Exception):
    """A worker gave something else than it was asked for."""


def label_and_commit(
    batch: Batch, config: RunConfig, threads: int, guess: OrbitalGuess | None, parts: SharedParts
) -> Receipt:
    """Label a batch, check it, and write it where all of the run's batches are.

    Raises
    ------
    WrongResultError
        The labels are not those of the batch.
    StoreError
        The place is not what the run's own process sees there, or it can't be written.
    """
    _check_mark(parts)
    slices = worker.label_batch(batch, config, threads, guess)
    check_slices(batch, slices)
    save_part(parts.folder, batch.number, slices)
    return receipt_of(batch.number, slices)


def receipt_of(batch: int, slices: Sequence[LabelledSlice]) -> Receipt:
    """Sum up a labelled batch."""
    return Receipt(
        batch,
        tuple((part.number, part.record.num_conformers if part.record else 0) for part in slices),
        tuple(failure for part in slices for failure in part.failures),
    )


def check_slices(batch: Batch, result: object) -> None:
    """Make sure that labels are those of a batch.

    Raises
    ------
    WrongResultError
        They are not.
    """
    wanted = [part.number for part in batch.slices]
    if not isinstance(result, list) or [getattr(s, "number", None) for s in result] != wanted:
        raise WrongResultError("a worker gave other molecules than it was asked for")
    for part, done in zip(batch.slices, result, strict=True):
        if done.record is None:
            continue
        molecule, index = Molecule.from_json(part.molecule_json), done.record.conformers["index"]
        if (
            done.record.line != molecule.line
            or not np.array_equal(done.record.z, molecule.atomic_numbers)
            or (index < part.start).any()
            or (index >= part.stop).any()
        ):
            raise WrongResultError("a worker gave conformers that it was not asked for")


def check_receipt(batch: Batch, result: object) -> None:
    """Make sure that a receipt is that of a batch; raises as `check_slices`."""
    sizes = {part.number: part.stop - part.start for part in batch.slices}
    if (
        not isinstance(result, Receipt)
        or result.batch != batch.number
        or [number for number, _ in result.conformers] != [*sizes]
    ):
        raise WrongResultError("a worker gave a receipt for others than it was asked for")
    if any(count > sizes[number] for number, count in result.conformers):
        raise WrongResultError("a worker gave a receipt for more than it was asked for")


def leave_mark(parts: SharedParts) -> None:
    """Let workers see that they reach the place that this process means.

    Raises
    ------
    StoreError
        It can't be written.
    """
    try:
        with written_whole(parts.folder / MARK) as stream:
            stream.write(json.dumps({"run": parts.run}).encode())
    except StoreUnreachableError:
        raise
    except OSError as error:
        raise StoreError(
            f"can't write to {parts.folder}: {error.strerror or error}; choose another "
            "cluster.parts"
        ) from error


@lru_cache(maxsize=4)
def _check_mark(parts: SharedParts) -> None:
    # What raises is not remembered.
    try:
        found = json.loads((parts.folder / MARK).read_text(encoding="utf-8"))["run"]
    except FileNotFoundError:
        found = None
    if found != parts.run:
        raise StoreError(
            f"{parts.folder} is not what the run's process sees there; give as cluster.parts a "
            "folder that all machines share, or a URL"
        )
