"""Makes the plan of a run.

Molecules are taken in windows of the input. Within a window they are ordered by the shape of
their compiled program, so that batches that follow each other share programs; the store is put
together window by window, so that it keeps the order of the input in bounded memory.
"""

import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path

from qmgen.dft import program_shape
from qmgen.errors import InputError, MissingElementError, UnsupportedMoleculeError
from qmgen.generate.config import RunConfig
from qmgen.generate.plan import TABLES, Plan, disk_errors
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


def build_plan(
    source: Path,
    path: Path,
    config: RunConfig,
    *,
    smiles_column: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
    refused: Callable[[Molecule], str | None] = lambda _: None,
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
    refused
        Says why a molecule is not to be labelled, if it isn't.

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
    records = deduplicate(read_molecules(source, smiles_column=smiles_column))
    temporary = _write_plan(
        path, lambda db: _accepted(db, records, config, progress, refused), config
    )
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
    conformers: int


def _accepted(
    db: sqlite3.Connection,
    records: Iterator[Molecule | RejectedRecord],
    config: RunConfig,
    progress: Callable[[int], None],
    refused: Callable[[Molecule], str | None],
) -> Iterator[_Sized]:
    """Molecules that can be labelled, numbered; the others go to the table of failures."""
    number = 0
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
            found = unsupported_reason(record) or refused(record)
            if found is None:
                try:
                    shape = _program(record, config)
                except UnsupportedMoleculeError as error:
                    found = str(error)
                    unsuited = isinstance(error, MissingElementError)
                else:
                    yield _Sized(shape, number, record, _expected_conformers(record, config))
                    number += 1
                    continue
            reason = found
        _write_failure(db, line, source_id, text, reason, unsuited)


def _write_failure(
    db: sqlite3.Connection, line: int, source_id: str, text: str, reason: str, unsuited: bool
) -> None:
    db.execute(
        "INSERT INTO failure VALUES (?, ?, ?, -1, 'read', ?, ?)",
        (line, source_id, text, reason, int(unsuited)),
    )


def build_stored_plan(
    molecules: Iterable[tuple[int, Molecule, int]], path: Path, config: RunConfig
) -> Plan:
    """Write the plan of labelling conformers that there are; a plan that is there is kept.

    Parameters
    ----------
    molecules
        Number (ascending), molecule and conformers of each.
    path
        Where the plan goes.
    config
        Of the labels.

    Raises
    ------
    UnknownBasisError
        As `qmgen.dft.program_shape`.
    StoreError
        The plan can't be written.
    """
    if path.exists():
        return Plan(path)
    os.replace(_write_plan(path, lambda db: _labelable(db, molecules, config), config), path)
    return Plan(path)


def _write_plan(
    path: Path, molecules: Callable[[sqlite3.Connection], Iterator[_Sized]], config: RunConfig
) -> Path:
    """Write a plan beside where it goes, which only a complete one may take the place of."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with disk_errors(path), closing(sqlite3.connect(temporary)) as db, db:
        db.executescript(TABLES)
        _write_windows(db, molecules(db), config)
    return temporary


def _labelable(
    db: sqlite3.Connection, molecules: Iterable[tuple[int, Molecule, int]], config: RunConfig
) -> Iterator[_Sized]:
    for number, molecule, conformers in molecules:
        try:
            shape = _program(molecule, config)
        except UnsupportedMoleculeError as error:
            unsuited = isinstance(error, MissingElementError)
            text = molecule.smiles
            _write_failure(db, molecule.line, molecule.source_id, text, str(error), unsuited)
        else:
            if conformers:
                yield _Sized(shape, number, molecule, conformers)


def _program(molecule: Molecule, config: RunConfig) -> tuple[int, ...]:
    """Sizes of what a molecule is labelled with, the same for molecules that share it."""
    if config.method == "mmff94":
        return ()
    # Open shells have programs of their own.
    return *astuple(program_shape(molecule.atomic_numbers, config.dft)), int(molecule.spin > 0)


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
        "INSERT INTO molecule VALUES (?, ?, ?, ?)",
        ((m.number, window, json.dumps(m.shape), m.molecule.to_json()) for m in members),
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
            start, wanted = 0, member.conformers
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
