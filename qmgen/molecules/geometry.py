"""Checks and bond perception of a geometry that a file gives."""

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D

from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.smiles import canonical_smiles, parse_smiles

# The shortest bond, H2's, is 0.74 Angstrom; below this an atom was written twice.
_MIN_DISTANCE_ANGSTROM = 0.1
# RDKit enumerates the valences of all atoms, which explodes for large unsaturated molecules.
# Limits in atoms and iterations, unlike one in seconds, give the same SMILES on every machine.
_MAX_PERCEIVED_ATOMS = 150
_MAX_PERCEPTION_ITERATIONS = 10_000


def geometry_problem(positions_angstrom: Float[np.ndarray, "nat 3"]) -> str:
    """Say why positions can't be a molecule's; empty if they can."""
    if not np.isfinite(positions_angstrom).all():
        return "a coordinate is not finite"
    for i in range(1, len(positions_angstrom)):
        distance = np.linalg.norm(positions_angstrom[:i] - positions_angstrom[i], axis=1)
        j = int(distance.argmin())
        if distance[j] < _MIN_DISTANCE_ANGSTROM:
            return f"atoms {j + 1} and {i + 1} are {distance[j]:.3f} Angstrom apart"
    return ""


def perceive_smiles(
    numbers: Int[np.ndarray, " nat"],
    positions_angstrom: Float[np.ndarray, "nat 3"],
    charge: int,
    spin: int,
) -> str:
    """Perceive bonds from distances and write the canonical isomeric SMILES.

    Parameters
    ----------
    numbers : (nat,) int64
        Atomic numbers.
    positions_angstrom : (nat, 3) float64
        Angstrom.
    charge : int
        Net charge that the bond orders must give.
    spin : int
        2S; with unpaired electrons, valences left open become radicals instead of charges.

    Returns
    -------
    str
        Empty if no bond pattern fits, if it fits only as several fragments, or above 150 atoms.
        The geometry can be labelled all the same.
    """
    if len(numbers) > _MAX_PERCEIVED_ATOMS:
        return ""
    mol = Chem.RWMol()
    conformer = Chem.Conformer(len(numbers))
    for i, number in enumerate(numbers.tolist()):
        mol.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(i, Point3D(*positions_angstrom[i].tolist()))
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    with captured_errors():
        try:
            rdDetermineBonds.DetermineBonds(
                mol,
                charge=charge,
                allowChargedFragments=spin == 0,
                maxIterations=_MAX_PERCEPTION_ITERATIONS,
            )
            smiles = canonical_smiles(mol)
        except (ValueError, RuntimeError):  # RDKit's two ways to say that no pattern fits
            return ""
    parsed, _ = parse_smiles(smiles)
    if parsed is None or len(Chem.GetMolFrags(parsed)) != 1:
        return ""
    nradical = sum(atom.GetNumRadicalElectrons() for atom in parsed.GetAtoms())
    fits = (
        Chem.GetFormalCharge(parsed) == charge
        and nradical <= spin
        and Chem.AddHs(parsed).GetNumAtoms() == len(numbers)
    )
    return smiles if fits else ""
