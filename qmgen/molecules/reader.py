"""Molecules from a file, in constant memory."""

from collections.abc import Iterator
from pathlib import Path

from qmgen.errors import InputError
from qmgen.molecules.csv_reader import read_csv
from qmgen.molecules.lines import LineReader
from qmgen.molecules.molecule import Molecule, RejectedRecord
from qmgen.molecules.sdf_reader import read_sdf
from qmgen.molecules.smi_reader import read_smi
from qmgen.molecules.xyz_reader import read_xyz

_SUFFIXES = (".smi", ".csv", ".sdf", ".xyz")


def read_molecules(
    path: str | Path, *, smiles_column: str | None = None
) -> Iterator[Molecule | RejectedRecord]:
    """Read the records of a molecule file one by one, in the file's order.

    Parameters
    ----------
    path : str or Path
        ``.smi`` (SMILES, optionally an id), ``.csv``, ``.sdf`` or ``.xyz``, each also with
        ``.gz`` appended.
    smiles_column : str or None
        SMILES column of a csv file; None takes ``smiles``, ``SMILES`` or ``smile``.

    Returns
    -------
    Iterator of Molecule or RejectedRecord
        A malformed record never raises; it comes with its line and reason, and reading goes on.

    Raises
    ------
    InputError
        At once for an unknown suffix or a file that can't be opened; while iterating for one that
        is damaged, not UTF-8, without record, or without the SMILES column.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else path.suffix.lower()
    if kind not in _SUFFIXES:
        raise InputError(
            f"{path}: unknown kind of file; use {', '.join(_SUFFIXES)}, also with .gz appended"
        )
    with LineReader(path):
        pass  # a file that can't be opened is reported here, not at the first record
    return _read(path, kind, smiles_column)


def _read(path: Path, kind: str, smiles_column: str | None) -> Iterator[Molecule | RejectedRecord]:
    with LineReader(path) as lines:
        if kind == ".csv":
            records = read_csv(lines, smiles_column)
        else:
            records = {".smi": read_smi, ".sdf": read_sdf, ".xyz": read_xyz}[kind](lines)
        empty = True
        for record in records:
            empty = False
            yield record
    if empty:
        raise InputError(f"{path}: holds no record; give a file with at least one molecule")
