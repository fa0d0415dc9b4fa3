"""SMILES to molecule."""

import re
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem

from qmgen.errors import MoleculeParseError
from qmgen.molecules.molecule import Molecule, RejectedRecord, count_unpaired
from qmgen.molecules.rdkit_log import captured_errors, log_lines

# RDKit's SMILES writer recurses along the chain and overruns an 8 MiB stack near 20,000 atoms,
# which kills the process.
MAX_SMILES_LENGTH = 2000


def molecule_from_smiles(smiles: str, *, line: int = 0, source_id: str = "") -> Molecule:
    """Parse a SMILES string.

    Parameters
    ----------
    smiles : str
        One molecule, without CXSMILES extension. Atom map numbers are dropped.
    line, source_id
        Where the string comes from; kept in the molecule.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse or sanitise it, or it is no single complete molecule.
    """
    record = record_from_smiles(smiles, line, source_id)
    if isinstance(record, RejectedRecord):
        where = f"line {line}, " if line else ""
        raise MoleculeParseError(f"{where}SMILES {record.text!r}: {record.reason}")
    return record


def record_from_smiles(smiles: str, line: int, source_id: str) -> Molecule | RejectedRecord:
    """Parse a SMILES string into a molecule or the reason why it is none."""
    smiles = smiles.strip()
    if len(smiles) > MAX_SMILES_LENGTH:
        reason = f"SMILES of {len(smiles)} characters; the limit is {MAX_SMILES_LENGTH}"
        return RejectedRecord(line, smiles, reason, source_id)
    mol, reason = parse_smiles(smiles)
    if mol is not None:
        reason = content_problem(mol)
        if not reason:
            return record_from_mol(mol, smiles, line, source_id)
    return RejectedRecord(line, smiles, reason, source_id)


def parse_smiles(smiles: str) -> tuple[Any, str]:
    """Parse and sanitise; give RDKit's molecule, or None and RDKit's reason."""
    parameters: Any = Chem.SmilesParserParams()
    parameters.allowCXSMILES = False
    parameters.parseName = False
    with captured_errors() as capture:
        mol = Chem.MolFromSmiles(smiles, parameters)
        return mol, "" if mol is not None else _parse_reason(log_lines(capture))


def content_problem(mol: Any) -> str:
    """Say why a sanitised RDKit molecule is no single complete molecule; empty if it is one."""
    if mol.GetNumAtoms() == 0:
        return "empty molecule"
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0:
            return f"dummy atom at index {atom.GetIdx()}; give a complete molecule"
        if atom.HasQuery():
            return f"query atom at index {atom.GetIdx()}; give a complete molecule"
    for bond in mol.GetBonds():
        if bond.HasQuery() or bond.GetBondType() == Chem.BondType.UNSPECIFIED:
            return f"bond {bond.GetIdx()} has no definite order; give a complete molecule"
    nfragment = len(Chem.GetMolFrags(mol))
    if nfragment > 1:
        return f"{nfragment} fragments; give one molecule a line"
    return ""


def record_from_mol(
    mol: Any,
    text: str,
    line: int,
    source_id: str,
    positions_angstrom: Float[np.ndarray, "nat 3"] | None = None,
) -> Molecule | RejectedRecord:
    """Turn a sanitised RDKit molecule into a `Molecule`.

    With `positions_angstrom` the atoms of `mol` are all atoms and keep their order; without, they
    come from the canonical SMILES, which conformer embedding parses again.
    """
    charge = Chem.GetFormalCharge(mol)
    smiles = canonical_smiles(mol)
    parsed, reason = parse_smiles(smiles)
    if parsed is None:
        reason = f"RDKit can't read its own canonical SMILES {smiles!r} of it: {reason}"
        return RejectedRecord(line, text, reason, source_id)
    numbers = atomic_numbers(Chem.AddHs(parsed) if positions_angstrom is None else mol)
    nradical = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return Molecule(
        smiles=smiles,
        atomic_numbers=numbers,
        charge=charge,
        spin=count_unpaired(int(numbers.sum()) - charge, nradical),
        line=line,
        source_id=source_id,
        positions_angstrom=positions_angstrom,
    )


def canonical_smiles(mol: Any) -> str:
    """Write the canonical isomeric SMILES without explicit hydrogens and atom map numbers."""
    with captured_errors():
        bare = Chem.Mol(mol)
        for atom in bare.GetAtoms():
            atom.SetAtomMapNum(0)
        return str(Chem.MolToSmiles(Chem.RemoveHs(bare)))


def require_smiles(smiles: str) -> Any:
    """Parse a SMILES into an RDKit molecule; raises `MoleculeParseError` if RDKit can't."""
    mol, reason = parse_smiles(smiles)
    if mol is None:
        raise MoleculeParseError(f"SMILES {smiles!r}: {reason}")
    return mol


def constitution(smiles: str) -> str:
    """Give the canonical SMILES without stereochemistry and isotopes.

    Two geometries of one constitution are the same molecule to whoever must keep a test set apart
    from what was trained on.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse it.
    """
    mol = require_smiles(smiles)
    with captured_errors():
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
            atom.SetIsotope(0)
        return str(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))


def atomic_numbers(mol: Any) -> Int[np.ndarray, " nat"]:
    """Atomic numbers of an RDKit molecule's explicit atoms, in its order."""
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)


def _parse_reason(lines: list[str]) -> str:
    """Shorten RDKit's log of one failed SMILES; the SMILES itself is reported beside it."""
    if not lines:
        return "no valid SMILES"
    reason = lines[0].removeprefix("SMILES Parse Error: ")
    reason = re.split(r" while parsing: | for input: ", reason, maxsplit=1)[0]
    position = re.search(r"around position (\d+)", "\n".join(lines))
    return f"{reason} near character {position[1]}" if position else reason
