"""Conformers of a dataset as `Atoms` of ASE, in its units."""

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from qmgen.dataset import Batch, Dataset
from qmgen.training.targets import SCALARS, TARGETS
from qmgen.units import ANGSTROM_PER_BOHR

_BLOCK_ROWS = 4096
_DESCRIPTION = ("line", "source_id", "smile", "split", "index", "charge", "spin")


def iter_atoms(
    dataset: Dataset, *, split: str | None = None, converged_only: bool = True
) -> Iterator[Atoms]:
    """Go over conformers in stored order, in bounded memory.

    Energies are in eV, positions in Angstrom, forces in eV/Angstrom, dipoles in e Angstrom, as
    results of a `SinglePointCalculator`; those that the store lacks or that are not finite are
    left out. ``info`` has ``line``, ``source_id``, ``smile``, ``split``, ``index``, ``charge``,
    ``spin`` (unpaired electrons), and ``homo_ev``, ``lumo_ev`` and ``gap_ev``.

    Parameters
    ----------
    dataset : Dataset
        Store.
    split : {"train", "val", "test"}, optional
        Split; all by default.
    converged_only : bool
        Leave out conformers whose SCF did not converge.

    Raises
    ------
    InputError
        There is no such split.
    """
    targets = [name for name in TARGETS if name in dataset.columns]
    blocks = dataset.iter_blocks(
        _BLOCK_ROWS,
        split=split,
        converged_only=converged_only,
        columns=("z", "pos", *_DESCRIPTION, *targets),
    )
    return (atoms for block in blocks for atoms in _atoms(block))


def _atoms(block: Batch) -> Iterator[Atoms]:
    for place in range(len(block)):
        row = block.row(place)
        info = {name: np.asarray(row[name]).item() for name in _DESCRIPTION}
        labels = {name: row[name] * TARGETS[name].factor for name in TARGETS if name in row}
        if "dipole" in row:
            labels["dipole"] = row["dipole"] * ANGSTROM_PER_BOHR  # ASE has no Debye in its results
        labels = {name: label for name, label in labels.items() if np.isfinite(label).all()}
        info |= {
            TARGETS[name].key: float(labels.pop(name))
            for name in SCALARS
            if name != "energy" and name in labels
        }
        atoms = Atoms(row["z"], row["pos"] * ANGSTROM_PER_BOHR, info=info)
        if "energy" in labels:
            labels["energy"] = float(labels["energy"])
        atoms.calc = SinglePointCalculator(atoms, **labels)
        yield atoms
