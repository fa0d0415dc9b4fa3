"""Energies of a molecule's conformers beside their distances."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qmgen.dataset import Dataset
from qmgen.molecules import rmsd_to_conformer
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

_MAX_CONFORMERS = 50


@dataclass(frozen=True, eq=False)
class ConformerSpread:
    """Converged conformers of a molecule against the one of lowest energy.

    Attributes
    ----------
    molecule : int
        Row of the molecule.
    smiles : str
        Its SMILES; empty if it has none.
    energy_ev : Float[nconf]
        Energy above the lowest one, eV.
    rmsd_angstrom : Float[nconf]
        Distance of heavy atoms to the lowest one, Angstrom.
    """

    molecule: int
    smiles: str
    energy_ev: Float[np.ndarray, " nconf"]
    rmsd_angstrom: Float[np.ndarray, " nconf"]


def conformer_spread(dataset: Dataset, molecule: int) -> ConformerSpread | None:
    """Compare a molecule's first 50 conformers; None unless at least two of them converged.

    Raises
    ------
    IndexError
        There is no such molecule.
    """
    found = dataset.conformers_of(molecule)[:_MAX_CONFORMERS]
    columns = ("smile", "z", "pos", "energy", "converged")
    block = dataset.batch(np.arange(found.start, found.stop), columns)
    known = block["converged"] & np.isfinite(block["energy"])
    if known.sum() < 2:
        return None
    energy = block["energy"][known]
    positions = block["pos"].reshape(len(block), -1, 3)[known] * ANGSTROM_PER_BOHR
    lowest = int(energy.argmin())
    smiles = str(block["smile"][0])
    return ConformerSpread(
        molecule=molecule,
        smiles=smiles,
        energy_ev=(energy - energy[lowest]) * EV_PER_HARTREE,
        rmsd_angstrom=rmsd_to_conformer(smiles, block["z"][: block.n_atoms[0]], positions, lowest),
    )
