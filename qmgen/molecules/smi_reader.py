"""Files with one SMILES a line, as the GDB sets are distributed."""

from collections.abc import Iterator

from qmgen.molecules.lines import LineReader
from qmgen.molecules.molecule import Molecule, RejectedRecord
from qmgen.molecules.smiles import record_from_smiles

# None of these words is a valid SMILES.
_HEADER_WORDS = frozenset(
    {"smiles", "smile", "smi", "canonical_smiles", "isomeric_smiles", "can_smiles"}
)


def read_smi(lines: LineReader) -> Iterator[Molecule | RejectedRecord]:
    """Read ``SMILES`` or ``SMILES<whitespace>id`` lines.

    Blank lines and lines that start with ``#`` are skipped, and so is a first record that names
    its column (``smiles id``).
    """
    first = True
    while (line := lines.next()) is not None:
        text = line.text.strip()
        if not text or text.startswith("#"):
            continue
        smiles, *rest = text.split(maxsplit=1)
        if first and smiles.lower() in _HEADER_WORDS:
            first = False
            continue
        first = False
        source_id = rest[0] if rest else ""
        if source_id.startswith("|"):
            # Its radicals and enhanced stereo would change the molecule, so it isn't ignored.
            reason = "CXSMILES extension; write plain SMILES"
            yield RejectedRecord(line.number, text, reason)
        else:
            yield record_from_smiles(smiles, line.number, source_id)
