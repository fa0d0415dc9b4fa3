"""Molecules that contain a pattern."""

from collections.abc import Callable

from rdkit import Chem

from qmgen.errors import MoleculeParseError
from qmgen.molecules.rdkit_log import captured_errors, log_lines
from qmgen.molecules.smiles import parse_smiles

MAX_SMARTS_LENGTH = 200


def substructure_test(smarts: str) -> Callable[[str], bool]:
    """Make a test of whether a molecule, given as SMILES, contains a pattern.

    The test is False for what RDKit can't parse.

    Parameters
    ----------
    smarts : str
        Pattern; a SMILES is one, too.

    Raises
    ------
    MoleculeParseError
        The pattern is empty, longer than 200 characters, or no SMARTS.
    """
    smarts = smarts.strip()
    if not smarts:
        raise MoleculeParseError("the pattern is empty; give a SMARTS such as c1ccccc1 or [OX2H]")
    if len(smarts) > MAX_SMARTS_LENGTH:
        raise MoleculeParseError(
            f"SMARTS of {len(smarts)} characters; the limit is {MAX_SMARTS_LENGTH}"
        )
    with captured_errors() as capture:
        pattern = Chem.MolFromSmarts(smarts)
        lines = log_lines(capture)
    if pattern is None:
        reason = lines[0].removeprefix("SMARTS Parse Error: ") if lines else "no valid SMARTS"
        reason = reason.split(" while parsing: ")[0].split(" for input: ")[0]
        raise MoleculeParseError(f"SMARTS {smarts!r}: {reason}; try c1ccccc1 or [OX2H]")

    def contains(smiles: str) -> bool:
        mol, _ = parse_smiles(smiles)
        return mol is not None and bool(mol.HasSubstructMatch(pattern))

    return contains
