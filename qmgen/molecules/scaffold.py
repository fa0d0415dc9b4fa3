"""The ring systems of a molecule and what links them."""

from rdkit.Chem.Scaffolds import MurckoScaffold

from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.smiles import require_smiles


def scaffold(smiles: str) -> str:
    """Give a molecule's Bemis-Murcko scaffold as canonical SMILES; empty if it has no ring.

    Bemis, Murcko, J. Med. Chem. 39, 2887 (1996), in RDKit's form: rings, what links them, and
    atoms with a double bond to either. Stereochemistry is left out.

    Parameters
    ----------
    smiles : str
        Molecule.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse it.
    """
    mol = require_smiles(smiles)
    with captured_errors():
        return str(MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False))
