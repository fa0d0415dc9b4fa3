"""The plan of a run: which batch labels which conformers, kept in an SQLite file.

Molecules are taken in windows of the input. Within a window they are ordered by the shape of
their compiled program, so that batches that follow each other share programs; the store is put
together window by window, so that it keeps the order of the input in bounded memory.
"""

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path

from qmgen.dataset import Failure
from qmgen.dft import program_shape
from qmgen.errors import InputError, MissingElementError, StoreError, UnsupportedMoleculeError
from qmgen.generate.config import RunConfig
from qmgen.molecules import (
    Molecule,
    RejectedRecord,
    deduplicate,
    read_molecules,
    unsupported_reason,
)

# Conformers a window holds in memory when the store is written; about 2 kB each.
_WINDOW_CONFORMERS = 65_536
# A conformer with density or Fock matrix takes about so many times as much.
_MATRIX_FACTOR = 32
_WINDOW_MOLECULES = 4096
_FAILURES_AT_ONCE = 4096

_TABLES = """
CREATE TABLE molecule (number INTEGER PRIMARY KEY, window INTEGER, json TEXT);
CREATE TABLE slice (batch INTEGER, number INTEGER, start INTEGER, stop INTEGER);
CREATE INDEX slice_batch ON slice (batch);
CREATE TABLE batch (number INTEGER PRIMARY KEY, window INTEGER, conformers INTEGER);
CREATE INDEX batch_window ON batch (window);
CREATE TABLE failure (line INTEGER, source_id TEXT, smile TEXT, conformer INTEGER, stage TEXT,
    reason TEXT, unsuited INTEGER);
"""


@dataclass(frozen=True)
class Slice:
    """Conformers ``start`` to ``stop`` of a molecule; ``number`` is its place in the dataset."""

    number: int
    molecule_json: str
    start: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Unit of work that is done and committed as a whole."""

    number: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class PlanCounts:
    """Size of a plan; ``unsuited`` counts molecules with elements that the basis lacks."""

    molecules: int
    conformers: int
    batches: int
    rejected: int
    unsuited: int


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
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
        with _disk_errors(self.path), self._connect() as db:
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
        with _disk_errors(self.path), self._connect() as db:
            return bool(db.execute(query).fetchone()[0])

    def batch_sizes(self) -> Iterator[tuple[int, int]]:
        """Number and conformers of each batch, in the order of work."""
        with _disk_errors(self.path), self._connect() as db:
            yield from db.execute("SELECT number, conformers FROM batch ORDER BY number")

    def batch(self, number: int) -> Batch:
        """One batch with its molecules."""
        with _disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT slice.number, json, start, stop FROM slice JOIN molecule "
                "ON molecule.number = slice.number WHERE batch = ? ORDER BY slice.rowid",
                (number,),
            ).fetchall()
        return Batch(number, tuple(Slice(*row) for row in rows))

    def lines(self) -> Iterator[tuple[int, int, int]]:
        """Number of each molecule, its line in the input and its conformers, ascending."""
        query = (
            "SELECT molecule.number, json_extract(json, '$.line'), sum(stop - start) FROM molecule "
            "JOIN slice USING (number) GROUP BY molecule.number ORDER BY molecule.number"
        )
        with _disk_errors(self.path), self._connect() as db:
            yield from db.execute(query)

    def batches_of(self, molecules: Iterable[int]) -> list[int]:
        """Batches that label some molecules, in the order of work."""
        with _disk_errors(self.path), self._connect() as db:
            db.execute("CREATE TEMPORARY TABLE wanted (number INTEGER PRIMARY KEY)")
            db.executemany("INSERT INTO wanted VALUES (?)", ((number,) for number in molecules))
            rows = db.execute(
                "SELECT DISTINCT batch FROM slice JOIN wanted USING (number) ORDER BY batch"
            )
            return [row[0] for row in rows]

    def windows(self) -> Iterator[list[int]]:
        """Batches of each window, in the order of the input."""
        with _disk_errors(self.path), self._connect() as db:
            last = db.execute("SELECT max(window) FROM batch").fetchone()[0]
            for window in range(0 if last is None else last + 1):
                rows = db.execute(
                    "SELECT number FROM batch WHERE window = ? ORDER BY number", (window,)
                )
                yield [row[0] for row in rows]

    def replace_label_failures(self, failures: Iterator[Failure]) -> None:
        """Record what went wrong while labelling, in place of an earlier attempt's record.

        `failures` may read this plan: it is never asked for more while the file is being changed.
        """
        with _disk_errors(self.path), self._connect() as db:
            with db:
                db.execute("DELETE FROM failure WHERE stage != 'read'")
            while some := list(islice(failures, _FAILURES_AT_ONCE)):
                with db:
                    db.executemany(
                        "INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, 0)", map(astuple, some)
                    )

    def failures(self) -> Iterator[Failure]:
        """All failures, ordered by line and conformer."""
        with _disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT line, source_id, smile, conformer, stage, reason FROM failure "
                "ORDER BY line, conformer, rowid"
            )
            for row in rows:
                yield Failure(*row)

    def rejected_by_reason(self) -> dict[str, int]:
        """Number of rejected input records, by reason; repeats count as one reason."""
        with _disk_errors(self.path), self._connect() as db:
            rows = db.execute(
                "SELECT CASE WHEN reason LIKE 'duplicate of line %' THEN 'duplicate' ELSE reason "
                "END AS kind, count(*) FROM failure WHERE stage = 'read' GROUP BY kind "
                "ORDER BY count(*) DESC, kind"
            )
            return dict(rows.fetchall())


def build_plan(
    source: Path,
    path: Path,
    config: RunConfig,
    *,
    smiles_column: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Plan:
    """Read an input file and write the plan of its run; a plan that is there is kept.

    The file appears only when complete, and is a function of the input and the configuration.

    Parameters
    ----------
    source
        Molecules, in any format of `qmgen.molecules.read_molecules`.
    path
        Where the plan goes.
    config
        Of the run.
    smiles_column
        Column of a csv file.
    progress
        Called with the number of records read so far.

    Raises
    ------
    InputError
        The input can't be read or holds no molecule that can be labelled.
    UnknownBasisError
        As `qmgen.dft.program_shape`.
    StoreError
        The plan can't be written.
    """
    if path.exists():
        return Plan(path)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with _disk_errors(path), closing(sqlite3.connect(temporary)) as db, db:
        db.executescript(_TABLES)
        molecules = _accepted(db, source, config, smiles_column, progress)
        _write_windows(db, molecules, config)
    plan = Plan(temporary)
    if not plan.counts().molecules:
        some = [
            f"line {f.line}: {f.reason}" for f, _ in zip(plan.failures(), range(5), strict=False)
        ]
        temporary.unlink()
        raise InputError(f"{source}: no molecule can be labelled ({'; '.join(some)})")
    os.replace(temporary, path)
    return Plan(path)


@dataclass(frozen=True)
class _Sized:
    shape: tuple[int, ...]
    number: int
    molecule: Molecule


def _accepted(
    db: sqlite3.Connection,
    source: Path,
    config: RunConfig,
    smiles_column: str | None,
    progress: Callable[[int], None],
) -> Iterator[_Sized]:
    """Molecules that can be labelled, numbered; the others go to the table of failures."""
    number = 0
    records = deduplicate(read_molecules(source, smiles_column=smiles_column))
    for count, record in enumerate(records, start=1):
        progress(count)
        unsuited = False
        if isinstance(record, RejectedRecord):
            line, source_id, text, reason = (
                record.line,
                record.source_id,
                record.text,
                record.reason,
            )
        else:
            line, source_id, text = record.line, record.source_id, record.smiles
            found = unsupported_reason(record)
            if found is None:
                try:
                    shape = program_shape(record.atomic_numbers, config.dft)
                except UnsupportedMoleculeError as error:
                    found = str(error)
                    unsuited = isinstance(error, MissingElementError)
                else:
                    # Open shells have programs of their own.
                    yield _Sized((*astuple(shape), int(record.spin > 0)), number, record)
                    number += 1
                    continue
            reason = found
        db.execute(
            "INSERT INTO failure VALUES (?, ?, ?, -1, 'read', ?, ?)",
            (line, source_id, text, reason, int(unsuited)),
        )


def _write_windows(db: sqlite3.Connection, molecules: Iterator[_Sized], config: RunConfig) -> None:
    matrices = config.labels.density_matrix or config.labels.fock_matrix
    room = _WINDOW_CONFORMERS // (_MATRIX_FACTOR if matrices else 1)
    per_window = max(1, min(_WINDOW_MOLECULES, room // config.conformers.per_molecule))
    window, next_batch = 0, 0
    waiting: list[_Sized] = []
    for molecule in molecules:
        waiting.append(molecule)
        if len(waiting) == per_window:
            next_batch = _write_window(db, window, waiting, next_batch, config)
            window, waiting = window + 1, []
    if waiting:
        _write_window(db, window, waiting, next_batch, config)


def _write_window(
    db: sqlite3.Connection, window: int, members: list[_Sized], batch: int, config: RunConfig
) -> int:
    """Cut one window into batches; gives the number of the batch after them."""
    db.executemany(
        "INSERT INTO molecule VALUES (?, ?, ?)",
        ((m.number, window, m.molecule.to_json()) for m in members),
    )
    for number, slices in enumerate(_in_order_of_work(_cut(members, config)), start=batch):
        db.executemany(
            "INSERT INTO slice VALUES (?, ?, ?, ?)", ((number, *part) for part in slices)
        )
        conformers = sum(stop - start for _, start, stop in slices)
        db.execute("INSERT INTO batch VALUES (?, ?, ?)", (number, window, conformers))
        batch = number + 1
    return batch


# Molecule's number, first conformer, one past the last.
_Range = tuple[int, int, int]


def _cut(members: list[_Sized], config: RunConfig) -> list[list[list[_Range]]]:
    """Batches of each program, as ranges of conformers; largest program first."""
    room = config.batch_conformers
    programs: list[list[list[_Range]]] = []
    by_shape = sorted(members, key=lambda m: (tuple(-n for n in m.shape), m.number))
    for _, group in itertools.groupby(by_shape, key=lambda m: m.shape):
        batches: list[list[_Range]] = [[]]
        used = 0
        for member in group:
            start, wanted = 0, _expected_conformers(member.molecule, config)
            while start < wanted:
                if used == room:
                    batches.append([])
                    used = 0
                stop = min(wanted, start + room - used)
                batches[-1].append((member.number, start, stop))
                used += stop - start
                start = stop
        programs.append(batches)
    return programs


def _in_order_of_work(programs: list[list[list[_Range]]]) -> Iterator[list[_Range]]:
    """One batch of every program first, so that workers compile different ones side by side.

    They find each other's in the compilation cache when they come to the rest. Large programs go
    first in both parts: what is left at the end, when workers run dry, is short.
    """
    yield from (batches[0] for batches in programs)
    yield from (batch for batches in programs for batch in batches[1:])


def _expected_conformers(molecule: Molecule, config: RunConfig) -> int:
    """Most conformers there can be: a given geometry is one, plus rattled copies if asked for."""
    if molecule.positions_angstrom is not None and not config.conformers.rattle_angstrom:
        return 1
    return config.conformers.per_molecule
