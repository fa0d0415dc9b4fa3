"""Energies and forces by the force field MMFF94."""

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from qmgen.errors import UnsupportedMoleculeError
from qmgen.molecules.conformers import molecule_with_hydrogens
from qmgen.molecules.molecule import Molecule
from qmgen.molecules.rdkit_log import captured_errors


def mmff94(
    molecule: Molecule, positions_angstrom: Float[np.ndarray, "nconf nat 3"]
) -> tuple[Float[np.ndarray, " nconf"], Float[np.ndarray, "nconf nat 3"]]:
    """Energies and their gradients by MMFF94 (Halgren, J. Comput. Chem. 17, 490 (1996)).

    Parameters
    ----------
    molecule : Molecule
        Of which the bonds are known: one that was given as SMILES.
    positions_angstrom : (nconf, nat, 3) float64
        Conformers.

    Returns
    -------
    energies : (nconf,) float64
        kcal/mol; their zero is not that of separated atoms.
    gradients : (nconf, nat, 3) float64
        kcal/mol/Angstrom.

    Raises
    ------
    UnsupportedMoleculeError
        The molecule came with a geometry, or MMFF94 lacks parameters for it.
    ConformerError
        This RDKit orders the atoms otherwise than the one that read the molecule.
    """
    if molecule.positions_angstrom is not None:
        raise UnsupportedMoleculeError(
            "MMFF94 needs the bonds between atoms, which a geometry does not state; give SMILES"
        )
    mol = molecule_with_hydrogens(molecule)
    with captured_errors():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
        if properties is None:
            raise UnsupportedMoleculeError("MMFF94 has no parameters for this molecule")
        # The force field is made for a conformer, whose positions later calls replace.
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(positions_angstrom[0]))
        mol.AddConformer(conformer)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    energies = np.empty(len(positions_angstrom))
    gradients = np.empty(positions_angstrom.shape)
    for i, place in enumerate(positions_angstrom):
        flat = place.ravel().tolist()
        energies[i] = field.CalcEnergy(flat)
        gradients[i] = np.reshape(field.CalcGrad(flat), (-1, 3))
    return energies, gradients
