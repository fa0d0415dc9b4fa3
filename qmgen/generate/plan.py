"""The plan of a run: which batch labels which conformers, kept in an SQLite file.

`qmgen.generate.planning` makes it.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from qmgen.dataset import Failure
from qmgen.errors import StoreError

TABLES = """
CREATE TABLE molecule (number INTEGER PRIMARY KEY, window INTEGER, program TEXT, json TEXT);
CREATE TABLE slice (batch INTEGER, number INTEGER, start INTEGER, stop INTEGER);
CREATE INDEX slice_batch ON slice (batch);
CREATE TABLE batch (number INTEGER PRIMARY KEY, window INTEGER, conformers INTEGER);
CREATE INDEX batch_window ON batch (window);
CREATE TABLE failure (line INTEGER, source_id TEXT, smile TEXT, conformer INTEGER, stage TEXT,
    reason TEXT, unsuited INTEGER);
"""


@dataclass(frozen=True)
class Slice:
    """Conformers ``start`` to ``stop`` of a molecule; ``number`` is its place in the dataset.

    Those of a dataset have ``positions``, (stop - start, nat, 3) in Bohr, and ``conformers``, the
    dataset's numbers of them; others are to be made.
    """

    number: int
    molecule_json: str
    start: int
    stop: int
    positions: Float[np.ndarray, "nconf nat 3"] | None = None
    conformers: Int[np.ndarray, " nconf"] | None = None


@dataclass(frozen=True)
class Batch:
    """Unit of work that is done and committed as a whole."""

    number: int
    slices: tuple[Slice, ...]

    @property
    def num_conformers(self) -> int:
        """Most conformers that it may come to."""
        return sum(part.stop - part.start for part in self.slices)


@dataclass(frozen=True)
class PlanCounts:
    """Size of a plan; ``unsuited`` counts molecules with elements that the basis lacks."""

    molecules: int
    conformers: int
    batches: int
    rejected: int
    unsuited: int


@dataclass(frozen=True)
class ProgramShare:
    """Molecules and conformers that one compiled program labels.

    ``first`` and ``last`` are numbers of molecules among them; the same where there is one.
    """

    program: tuple[int, ...]
    molecules: int
    conformers: int
    first: int
    last: int


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `StoreError` that names the plan's file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"{path}: {error}; free disk space or delete this file, then run the same command again"
        ) from error


class Plan:
    """Reads and completes the plan file of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _connect(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.path))

    def counts(self) -> PlanCounts:
        """Size of the plan."""
        with disk_errors(self.path), self._connect() as db:
            molecules = db.execute("SELECT count(*) FROM molecule").fetchone()[0]
            batches, conformers = db.execute(
                "SELECT count(*), coalesce(sum(conformers), 0) FROM batch"
            ).fetchone()
            rejected, unsuited = db.execute(
                "SELECT count(*), coalesce(sum(unsuited), 0) FROM failure WHERE stage = 'read'"
            ).fetchone()
        return PlanCounts(molecules, conformers, batches, rejected, unsuited)

    def has_open_shells(self) -> bool:
        """Whether any molecule has unpaired electrons."""
        query = "SELECT EXISTS (SELECT 1 FROM molecule WHERE json_extract(json, '$.spin') > 0)"
        with disk_errors(self.path), self._connect() as db:
            return bool(db.execute(query).fetchone()[0])

    def batch_sizes(self) -> Iterator[tuple[int, int]]:
        """Number and conformers of each batch, in the order of work."""
        with disk_errors(self.path), self._connect() as db:
            yield from db.execute("SELECT number, conformers FROM batch ORDER BY number")

    def batch(self, number: int) -> Batch:
        """One batch with its molecules."""
        with disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT slice.number, json, start, stop FROM slice JOIN molecule "
                "ON molecule.number = slice.number WHERE batch = ? ORDER BY slice.rowid",
                (number,),
            ).fetchall()
        return Batch(number, tuple(Slice(*row) for row in rows))

    def programs(self) -> list[ProgramShare]:
        """Compiled programs that the plan needs, those with the most conformers first."""
        with disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT program, count(DISTINCT molecule.number), sum(stop - start), "
                "min(molecule.number), max(molecule.number) FROM slice "
                "JOIN molecule ON molecule.number = slice.number "
                "GROUP BY program ORDER BY sum(stop - start) DESC, program"
            ).fetchall()
        return [ProgramShare(tuple(json.loads(row[0])), *row[1:]) for row in rows]

    def molecule_json(self, number: int) -> str:
        """One molecule, for `Molecule.from_json`."""
        with disk_errors(self.path), self._connect() as db:
            query = "SELECT json FROM molecule WHERE number = ?"
            return str(db.execute(query, (number,)).fetchone()[0])

    def lines(self) -> Iterator[tuple[int, int, int]]:
        """Number of each molecule, its line in the input and its conformers, ascending."""
        query = (
            "SELECT molecule.number, json_extract(json, '$.line'), sum(stop - start) FROM molecule "
            "JOIN slice USING (number) GROUP BY molecule.number ORDER BY molecule.number"
        )
        with disk_errors(self.path), self._connect() as db:
            yield from db.execute(query)

    def batches_of(self, molecules: Iterable[int]) -> list[int]:
        """Batches that label some molecules, in the order of work."""
        with disk_errors(self.path), self._connect() as db:
            db.execute("CREATE TEMPORARY TABLE wanted (number INTEGER PRIMARY KEY)")
            db.executemany("INSERT INTO wanted VALUES (?)", ((number,) for number in molecules))
            rows = db.execute(
                "SELECT DISTINCT batch FROM slice JOIN wanted USING (number) ORDER BY batch"
            )
            return [row[0] for row in rows]

    def windows(self) -> Iterator[list[int]]:
        """Batches of each window, in the order of the input."""
        with disk_errors(self.path), self._connect() as db:
            last = db.execute("SELECT max(window) FROM batch").fetchone()[0]
            for window in range(0 if last is None else last + 1):
                rows = db.execute(
                    "SELECT number FROM batch WHERE window = ? ORDER BY number", (window,)
                )
                yield [row[0] for row in rows]

    def forget_label_failures(self) -> None:
        """Drop the record of an earlier attempt of what went wrong while labelling."""
        with disk_errors(self.path), self._connect() as db, db:
            db.execute("DELETE FROM failure WHERE stage != 'read'")

    def add_label_failures(self, failures: Iterable[Failure]) -> None:
        """Record what went wrong while labelling."""
        with disk_errors(self.path), self._connect() as db, db:
            db.executemany(
                "INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, 0)", map(astuple, failures)
            )

    def failures(self) -> Iterator[Failure]:
        """All failures, ordered by line and conformer."""
        with disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT line, source_id, smile, conformer, stage, reason FROM failure "
                "ORDER BY line, conformer, rowid"
            )
            for row in rows:
                yield Failure(*row)

    def rejected_by_reason(self) -> dict[str, int]:
        """Number of rejected input records, by reason; repeats count as one reason."""
        with disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT CASE WHEN reason LIKE 'duplicate of %' THEN 'duplicate' ELSE reason "
                "END AS kind, count(*) FROM failure WHERE stage = 'read' GROUP BY kind "
                "ORDER BY count(*) DESC, kind"
            )
            return dict(rows.fetchall())
