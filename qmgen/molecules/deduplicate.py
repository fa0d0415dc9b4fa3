"""Repeats of a molecule, found in constant memory."""

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from qmgen.molecules.molecule import Molecule, RejectedRecord

# Positions that agree to this many decimals of an Angstrom are the same geometry; 1e-4 Angstrom
# is below the last digit of most published files.
_POSITION_DECIMALS = 4


def molecule_key(molecule: Molecule) -> str:
    """Say what makes two records the same molecule.

    Canonical SMILES, charge and spin; with a geometry instead the elements, the positions rounded
    to 1e-4 Angstrom, charge and spin.
    """
    electrons = f"charge {molecule.charge} spin {molecule.spin}"
    if molecule.positions_angstrom is None:
        return f"{molecule.smiles} {electrons}"
    # Adding zero turns -0.0 into 0.0.
    rounded = np.round(molecule.positions_angstrom, _POSITION_DECIMALS) + 0.0
    digest = hashlib.sha256(molecule.atomic_numbers.astype("<i8").tobytes())
    digest.update(rounded.astype("<f8").tobytes())
    return f"geometry {digest.hexdigest()} {electrons}"


def deduplicate(
    records: Iterable[Molecule | RejectedRecord],
) -> Iterator[Molecule | RejectedRecord]:
    """Let the first of equal molecules pass and reject the others, naming the first one's line.

    A temporary table on disk holds 16 bytes of hash a molecule; it is removed at the end and when
    the iterator is closed. The chance of a false repeat among 1e7 molecules is below 1e-24.

    Parameters
    ----------
    records : iterable of Molecule or RejectedRecord
        Rejected records pass unchanged.
    """
    with (
        tempfile.TemporaryDirectory(prefix="qmgen-") as directory,
        closing(sqlite3.connect(Path(directory) / "seen.sqlite", isolation_level=None)) as seen,
    ):
        # Nothing in this table outlives the process, so it needs no journal.
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("PRAGMA synchronous = OFF")
        seen.execute("PRAGMA cache_size = -65536")  # KiB
        seen.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        seen.execute("BEGIN")
        for record in records:
            if isinstance(record, RejectedRecord):
                yield record
                continue
            digest = hashlib.sha256(molecule_key(record).encode()).digest()[:16]
            added = seen.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, record.line)
            ).rowcount
            if added:
                yield record
            else:
                row = seen.execute("SELECT line FROM seen WHERE digest = ?", (digest,)).fetchone()
                text = record.smiles or record.source_id
                reason = f"duplicate of line {row[0]}"
                yield RejectedRecord(record.line, text, reason, record.source_id)
