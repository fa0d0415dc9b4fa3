"""Energies and forces of a molecule's conformers by MMFF94, as a record of the dataset.

Cheap beside DFT: for pre-training, and to rehearse a run of millions of conformers.
"""

import numpy as np
from jaxtyping import Float, Int

from qmgen.dataset import MoleculeRecord, empty_conformers
from qmgen.generate.config import RunConfig
from qmgen.generate.labelled_record import labelled_record
from qmgen.molecules import Molecule, mmff94
from qmgen.units import ANGSTROM_PER_BOHR, BOHR_PER_ANGSTROM, KCAL_PER_MOL_PER_HARTREE


def label_by_mmff94(
    molecule: Molecule,
    index: Int[np.ndarray, " nconf"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: RunConfig,
) -> MoleculeRecord:
    """Label conformers by MMFF94; what a force field does not have is NaN or 0.

    Parameters
    ----------
    molecule
        Of the conformers.
    index
        Their numbers.
    positions
        Bohr.
    config
        Of the run.

    Raises
    ------
    UnsupportedMoleculeError, ConformerError
        As of `qmgen.molecules.mmff94`.
    """
    energies, gradients = mmff94(molecule, positions * ANGSTROM_PER_BOHR)
    optional = config.labels.optional_labels
    columns = empty_conformers(len(molecule.atomic_numbers), 0, len(index), optional)
    for values in columns.values():
        if values.dtype == np.float64:
            values[...] = np.nan
    columns["index"] = index
    columns["pos"] = positions
    columns["energy"] = energies / KCAL_PER_MOL_PER_HARTREE
    columns["converged"][:] = True
    if config.labels.forces:
        columns["forces"] = -gradients / (KCAL_PER_MOL_PER_HARTREE * BOHR_PER_ANGSTROM)
    return labelled_record(molecule, 0, columns, optional)
