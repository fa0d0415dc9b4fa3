"""Which planned molecules are which rows of a store that is damaged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from qmgen.dataset import MoleculeRecord
from qmgen.dataset.damage import Rows
from qmgen.errors import StoreError


def planned_numbers(
    planned: Sequence[tuple[int, int, int]],
    known: Int64[np.ndarray, " nmol"],
    wanted: Sequence[Rows],
) -> set[int]:
    """Planned molecules that may be in some rows of the store.

    Parameters
    ----------
    planned
        Number, line and conformers of each.
    known
        Lines of the rows, -1 where they are lost.
    wanted
        Some of the rows.
    """
    numbers, lines, _ = np.array(planned).T
    found: set[int] = set()
    for start, stop in wanted:
        rows = known[start:stop]
        found.update(numbers[np.isin(lines, rows[rows >= 0])].tolist())
        if (rows < 0).any():
            before, after = _neighbours(known, start, stop)
            found.update(numbers[(lines > before) & (lines < after)].tolist())
    return found


def _neighbours(known: Int64[np.ndarray, " nmol"], start: int, stop: int) -> tuple[float, float]:
    """Lines of the nearest molecules before and after some rows that are known."""
    before, after = known[:start][known[:start] >= 0], known[stop:][known[stop:] >= 0]
    return (before[-1] if before.size else -np.inf), (after[0] if after.size else np.inf)


def by_row(
    records: Sequence[MoleculeRecord], known: Int64[np.ndarray, " nmol"], path: Path
) -> dict[int, MoleculeRecord]:
    """Molecules by the rows that they belong to.

    Parameters
    ----------
    records
        Molecules that were made again.
    known
        Lines of the rows, -1 where they are lost.
    path
        The store, for the message.

    Raises
    ------
    StoreError
        Others were made than were lost.
    """
    rows = {int(line): row for row, line in enumerate(known) if line >= 0}
    result = {rows[r.line]: r for r in records if r.line in rows}
    unknown = np.flatnonzero(known < 0)
    for run in np.split(unknown, np.flatnonzero(np.diff(unknown) > 1) + 1) if unknown.size else ():
        start, stop = int(run[0]), int(run[-1]) + 1
        before, after = _neighbours(known, start, stop)
        between = [record for record in records if before < record.line < after]
        if len(between) != stop - start:
            raise StoreError(
                f"{path} can't be repaired: {stop - start} molecules are lost, and {len(between)} "
                "were made again; run qmgen generate to another output"
            )
        result |= dict(zip(range(start, stop), between, strict=True))
    return result
