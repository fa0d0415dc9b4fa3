"""A molecule with its labels, as the dataset takes it."""

from collections.abc import Sequence

import numpy as np

from qmgen.dataset import MoleculeRecord, check_record
from qmgen.molecules import Molecule


def labelled_record(
    molecule: Molecule,
    nao: int,
    conformers: dict[str, np.ndarray],
    optional_labels: Sequence[str],
) -> MoleculeRecord:
    """Join a molecule and the labels of its conformers.

    Parameters
    ----------
    molecule
        As the input states it.
    nao
        Orbitals of its basis; 0 if it has none.
    conformers
        Columns of the dataset.
    optional_labels
        Those of them that not every dataset has.

    Raises
    ------
    InputError
        A column does not fit the schema.
    """
    record = MoleculeRecord(
        line=molecule.line,
        source_id=molecule.source_id,
        smile=molecule.smiles,
        charge=molecule.charge,
        spin=molecule.spin,
        z=molecule.atomic_numbers.astype(np.uint8),
        nao=nao,
        conformers=conformers,
    )
    check_record(record, optional_labels)
    return record
