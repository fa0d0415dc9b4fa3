"""Labels that open shells have beside all others.

A store that has them has them for all its molecules; those of a closed shell, whose spins are
alike, follow from its other labels.
"""

from dataclasses import replace

import numpy as np

from qmgen.dataset import MoleculeRecord, empty_conformers, pack_symmetric
from qmgen.dft import SpinLabels
from qmgen.generate.config import LabelConfig


def spin_label_names(asked: LabelConfig) -> tuple[str, ...]:
    """Names of the dataset's optional arrays that open shells add to those that are asked for."""
    names = ["orbital_energies_beta", "spin_square", "mulliken_spins"]
    if asked.density_matrix:
        names.append("spin_density_matrix")
    if asked.fock_matrix:
        names.append("fock_matrix_beta")
    return tuple(names)


def spin_columns(labels: SpinLabels, asked: LabelConfig) -> dict[str, np.ndarray]:
    """Those arrays of an open shell."""
    columns = {
        "orbital_energies_beta": labels.orbital_energies_beta,
        "spin_square": labels.spin_square,
        "mulliken_spins": labels.mulliken_spins,
    }
    if asked.density_matrix:
        columns["spin_density_matrix"] = pack_symmetric(labels.spin_density)
    if asked.fock_matrix:
        columns["fock_matrix_beta"] = pack_symmetric(labels.fock_beta)
    return columns


def with_spin_columns(record: MoleculeRecord, asked: LabelConfig) -> MoleculeRecord:
    """Give a closed shell's record those arrays; an open shell's has them."""
    if record.spin:
        return record
    names = spin_label_names(asked)
    empty = empty_conformers(record.z.size, record.nao, record.num_conformers, names)
    added = {name: empty[name] for name in names}
    for name, same in (
        ("orbital_energies_beta", "orbital_energies"),
        ("fock_matrix_beta", "fock_matrix"),
    ):
        if name in added:
            added[name] = record.conformers[same]
    return replace(record, conformers=record.conformers | added)
