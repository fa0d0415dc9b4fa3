"""How far conformers of a molecule are from each other."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from qmgen.molecules.rdkit_log import captured_errors
from qmgen.molecules.smiles import atomic_numbers, parse_smiles

_MAX_SYMMETRY_MATCHES = 1000
# Stretched bonds of a conformer stay below this multiple of the sum of covalent radii, atoms that
# are not bonded lie above it.
_LONGEST_BOND = 1.45


def rmsd_to_conformer(
    smiles: str,
    numbers: Integer[np.ndarray, " nat"],
    positions_angstrom: Float[np.ndarray, "nconf nat 3"],
    reference: int,
) -> Float[np.ndarray, " nconf"]:
    """Root-mean-square distance of heavy atoms to one conformer, each aligned to it, Angstrom.

    The smallest over the molecule's symmetry where the bonds of `smiles` fit the atoms; otherwise
    (no SMILES, or atoms in another order, as geometry files may have them) that of each atom to
    itself. Hydrogens count where there is nothing else.

    Parameters
    ----------
    smiles : str
        The molecule's SMILES; may be empty.
    numbers : (nat,) int
        Atomic numbers, hydrogens included.
    positions_angstrom : (nconf, nat, 3) float64
        Conformers.
    reference : int
        Conformer to compare with.

    Returns
    -------
    (nconf,) float64
        0 for `reference` itself, up to rounding.
    """
    mol = _bonded(smiles, numbers, positions_angstrom[reference])
    if mol is None:
        mol, maps = _atoms(numbers), [_heavy_pairs(numbers)]
    else:
        maps = []
    for positions in positions_angstrom:
        conformer = Chem.Conformer(len(numbers))
        conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
        mol.AddConformer(conformer, assignId=True)
    with captured_errors():
        if not maps and (numbers != 1).any():
            # Symmetry is of the heavy atoms only; hydrogens would multiply the matches.
            mol = Chem.RemoveHs(mol)
        probe = Chem.Mol(mol)
        return np.array(
            [
                rdMolAlign.GetBestRMS(
                    probe, mol, i, reference, map=maps, maxMatches=_MAX_SYMMETRY_MATCHES
                )
                for i in range(len(positions_angstrom))
            ]
        )


def _bonded(
    smiles: str,
    numbers: Integer[np.ndarray, " nat"],
    positions_angstrom: Float[np.ndarray, "nat 3"],
) -> Any:
    """Molecule with the bonds of a SMILES, or None where they don't fit these atoms."""
    parsed, _ = parse_smiles(smiles) if smiles else (None, "")
    if parsed is None:
        return None
    mol = Chem.AddHs(parsed)
    if not np.array_equal(atomic_numbers(mol), numbers):
        return None
    radius = Chem.GetPeriodicTable().GetRcovalent
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        length = np.linalg.norm(positions_angstrom[i] - positions_angstrom[j])
        if length > _LONGEST_BOND * (radius(int(numbers[i])) + radius(int(numbers[j]))):
            return None
    return mol


def _atoms(numbers: Integer[np.ndarray, " nat"]) -> Any:
    mol = Chem.RWMol()
    for number in numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    return mol.GetMol()


def _heavy_pairs(numbers: Integer[np.ndarray, " nat"]) -> list[tuple[int, int]]:
    heavy = np.flatnonzero(numbers != 1)
    chosen = heavy if heavy.size else np.arange(len(numbers))
    return [(i, i) for i in chosen.tolist()]
