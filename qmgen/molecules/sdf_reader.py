"""MDL structure-data files."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem

from qmgen.molecules.geometry import geometry_problem
from qmgen.molecules.lines import Line, LineReader
from qmgen.molecules.molecule import Molecule, RejectedRecord
from qmgen.molecules.rdkit_log import captured_errors, log_lines
from qmgen.molecules.smiles import content_problem, record_from_mol

# Above the largest molecule that a V2000 block can hold, and far above any that can be labelled.
_MAX_BLOCK_LINES = 5000


def read_sdf(lines: LineReader) -> Iterator[Molecule | RejectedRecord]:
    """Read the records of an SDF, V2000 or V3000.

    A record whose coordinates are three-dimensional and whose hydrogens are all explicit gives
    its geometry; any other gives only its SMILES. A broken record ends at ``$$$$`` as well.
    """
    while (block := _next_block(lines)) is not None:
        if any(line.text.strip() for line in block):
            yield _read_block(block)


def _next_block(lines: LineReader) -> list[Line] | None:
    """Read up to ``$$$$``, keeping the mol block only: data items can be of any length."""
    block: list[Line] = []
    ended = False
    seen = False
    while (line := lines.next()) is not None:
        seen = True
        if line.text.startswith("$$$$"):
            break
        if not ended and len(block) <= _MAX_BLOCK_LINES:
            block.append(line)
        ended = ended or line.text.startswith("M  END")
    return block if seen else None


def _read_block(block: list[Line]) -> Molecule | RejectedRecord:
    first = block[0]
    title = first.text.strip()
    if len(block) > _MAX_BLOCK_LINES:
        reason = f"mol block of more than {_MAX_BLOCK_LINES} lines"
        return RejectedRecord(first.number, first.text, reason, title)
    mol, log = _parse(block)
    if mol is None:
        reason, culprit = _parse_reason(log, block)
        return RejectedRecord(first.number, culprit, reason, title)
    reason = content_problem(mol)
    positions = None if reason else _explicit_geometry(mol)
    if positions is not None:
        reason = geometry_problem(positions)
    if reason:
        return RejectedRecord(first.number, first.text, reason, title)
    return record_from_mol(mol, first.text, first.number, title, positions)


def _parse(block: list[Line]) -> tuple[Any, list[str]]:
    # The supplier, unlike MolFromMolBlock, logs its reason as an error, so it can be captured.
    with captured_errors() as capture:
        supplier = Chem.SDMolSupplier()
        supplier.SetData("\n".join(line.text for line in block) + "\n", removeHs=False)
        mol = supplier[0] if len(supplier) else None
        return mol, log_lines(capture)


def _explicit_geometry(mol: Any) -> Float[np.ndarray, "nat 3"] | None:
    if mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D():
        return None
    if any(atom.GetTotalNumHs() > 0 for atom in mol.GetAtoms()):
        return None
    return np.array(mol.GetConformer().GetPositions(), dtype=np.float64)


def _parse_reason(log: list[str], block: list[Line]) -> tuple[str, str]:
    """Give RDKit's reason with lines counted from the file's start, and the line it names."""
    marker = "ERROR: "
    errors = [line.removeprefix(marker) for line in log if marker in line]
    telling = [error for error in errors if not re.match(r"moving to|Could not sanitize", error)]
    if not telling:
        # RDKit logs an index beyond the atom list without this marker.
        telling = [line for line in log if marker not in line]
    if len(block) < 4:
        return "the mol block ends before its counts line, the fourth", block[0].text
    reason = telling[-1] if telling else "RDKit can't parse this mol block"
    match = re.search(r"\bline ?(\d+)", reason)
    if match is None:
        return reason, block[0].text
    index = int(match[1]) - 1
    reason = f"{reason[: match.start()]}line {block[0].number + index}{reason[match.end() :]}"
    return reason, block[index].text if index < len(block) else block[0].text
