"""Conformers per second."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qmgen.dataset import MoleculeRecord, collect_provenance, empty_conformers, write_store

ATOMS = 18


def records(conformers: int, per_molecule: int = 16) -> Iterator[MoleculeRecord]:
    """Molecules like those of QM9: as many atoms, positions, energies and forces at random."""
    rng = np.random.default_rng(0)
    for number in range(conformers // per_molecule):
        z = rng.choice(np.array([1, 6, 7, 8], np.uint8), ATOMS, p=[0.5, 0.35, 0.07, 0.08])
        nao = int(np.where(z == 1, 1, 5).sum())
        values = empty_conformers(ATOMS, nao, per_molecule, ("forces",))
        for array in values.values():
            if array.dtype == np.float64:
                array[...] = rng.normal(scale=0.1, size=array.shape)
        values["index"][:] = np.arange(per_molecule)
        values["converged"][:] = True
        values["energy"] -= 380.0
        values["pos"] *= 25.0
        yield MoleculeRecord(number + 1, f"m{number}", f"C{number}", 0, 0, z, nao, values)


def make_store(path: Path, conformers: int) -> None:
    provenance = collect_provenance(config={}, seed=0, source=__file__, command="")
    write_store(
        path, records(conformers), (), provenance, split_seed=0, optional_labels=("forces",)
    )


if __name__ == "__main__":
    import sys

    make_store(Path(sys.argv[1]), int(sys.argv[2]))
