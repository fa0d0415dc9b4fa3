"""Comma-separated tables with a SMILES column."""

import csv
from collections.abc import Iterator
from typing import NamedTuple

from qmgen.errors import InputError
from qmgen.molecules.lines import Line, LineReader
from qmgen.molecules.molecule import Molecule, RejectedRecord
from qmgen.molecules.smiles import record_from_smiles

_SMILES_COLUMNS = ("smiles", "SMILES", "smile")
_ID_COLUMNS = ("id", "ID")
# A quote that is never closed would swallow the rest of the file.
_MAX_LINES_PER_ROW = 16


class _Row(NamedTuple):
    line: int
    text: str
    cells: list[str]
    problem: str


def read_csv(
    lines: LineReader, smiles_column: str | None = None
) -> Iterator[Molecule | RejectedRecord]:
    """Read the SMILES column of a table whose first row names the columns.

    Parameters
    ----------
    lines : LineReader
        The table.
    smiles_column : str or None
        Column to read; None takes ``smiles``, ``SMILES`` or ``smile``.

    Raises
    ------
    InputError
        The table has no such column, or its header is malformed.
    """
    header = _next_row(lines, None)
    if header is None:
        return
    if header.problem:
        raise InputError(f"{lines.path}, line {header.line}: header row: {header.problem}")
    columns = [name.strip() for name in header.cells]
    smiles_index = _find_smiles(lines, columns, smiles_column)
    id_index = next((columns.index(name) for name in _ID_COLUMNS if name in columns), None)
    while (row := _next_row(lines, len(columns))) is not None:
        if row.problem:
            yield RejectedRecord(row.line, row.text, row.problem)
        else:
            source_id = "" if id_index is None else row.cells[id_index].strip()
            yield record_from_smiles(row.cells[smiles_index], row.line, source_id)


def _find_smiles(lines: LineReader, columns: list[str], smiles_column: str | None) -> int:
    wanted = _SMILES_COLUMNS if smiles_column is None else (smiles_column,)
    for name in wanted:
        if name in columns:
            return columns.index(name)
    raise InputError(
        f"{lines.path}: no column {' or '.join(map(repr, wanted))} in this comma-separated table; "
        f"its columns are {columns}, name one with smiles_column"
    )


def _next_row(lines: LineReader, ncolumn: int | None) -> _Row | None:
    """Read one row, which quoted newlines may spread over several lines.

    A row of several lines that turns out malformed costs only its first line: the others are
    read again, for the likely cause is one stray quote.
    """
    first = lines.next()
    while first is not None and not first.text.strip():
        first = lines.next()
    if first is None:
        return None
    taken = [first]
    while True:
        cells, problem, is_open = _split(taken)
        if not is_open:
            break
        following = lines.next() if len(taken) < _MAX_LINES_PER_ROW else None
        if following is None:
            break
        taken.append(following)
    if not problem and ncolumn is not None and len(cells) != ncolumn:
        problem = f"row of {len(cells)} cells where the header names {ncolumn}"
    if problem and len(taken) > 1:
        lines.push_back(taken[1:])
        problem = "a quote is opened and not closed"
    return _Row(first.number, first.text, cells, problem)


def _split(taken: list[Line]) -> tuple[list[str], str, bool]:
    """Split lines into the cells of one row; tell a malformed row and one that goes on."""
    try:
        rows = list(csv.reader((line.text + "\n" for line in taken), strict=True))
    except csv.Error as error:
        return [], f"malformed row: {error}", "unexpected end of data" in str(error)
    return (rows[0], "", False) if len(rows) == 1 else ([], "malformed row", False)
