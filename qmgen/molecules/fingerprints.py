"""Fingerprints of molecules, to see which are alike."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from rdkit.Chem import rdFingerprintGenerator

from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.smiles import require_smiles


def morgan_fingerprints(
    smiles: Sequence[str], radius: int = 2, nbit: int = 1024
) -> UInt8[np.ndarray, "nmol nbit"]:
    """Give the Morgan (extended-connectivity) fingerprints of molecules, 0 or 1 a bit.

    Rogers, Hahn, J. Chem. Inf. Model. 50, 742 (2010).

    Parameters
    ----------
    smiles : sequence of str
        Molecules.
    radius : int
        Bonds that an environment reaches; 2 is ECFP4.
    nbit : int
        Length.

    Raises
    ------
    MoleculeParseError
        RDKit can't parse one of them.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=nbit)
    bits = np.zeros((len(smiles), nbit), dtype=np.uint8)
    for row, text in zip(bits, smiles, strict=True):
        mol = require_smiles(text)
        with captured_errors():
            row[:] = generator.GetFingerprintAsNumPy(mol)
    return bits
