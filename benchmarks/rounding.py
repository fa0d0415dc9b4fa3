"""Bytes a conformer of a dataset, as it is and with labels rounded to bounds.

    python benchmarks/rounding.py demo/dataset.zarr

Writes the dataset anew with each choice of bounds, into a temporary folder, and sums up what its
arrays of conformers take.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qmgen.dataset import open_dataset, stored_records, verify_store, write_store

_ALL = ("homo", "lumo", "gap", "dipole", "quadrupole", "mulliken_charges", "orbital_energies")


def _bounds(pos: float, energy: float, others: float) -> dict[str, float]:
    energies = dict.fromkeys(("energy", "nuclear_repulsion"), energy)
    return {"pos": pos, **energies, **dict.fromkeys((*_ALL, "forces", "std"), others)}


CHOICES: Mapping[str, Mapping[str, float]] = {
    "nothing": {},
    "positions to 1e-5 Bohr": {"pos": 1e-5},
    "and energies to 1e-9 Hartree, other labels to 1e-7": _bounds(1e-5, 1e-9, 1e-7),
    "positions to 1e-4 Bohr, energies to 1e-7 Hartree, other labels to 1e-5": _bounds(
        1e-4, 1e-7, 1e-5
    ),
}
"""Bounds in the units of the dataset; the third choice is far below the labels' accuracy."""


def measure(source: Path, store: Path, bounds: Mapping[str, float]) -> tuple[float, float, float]:
    """Write a dataset with some bounds.

    Gives bytes a conformer, those of positions among them, and the largest error over its bound.
    """
    dataset = open_dataset(source)
    metadata = dataset.metadata
    known = {name: bound for name, bound in bounds.items() if name in dataset.columns}
    write_store(
        store,
        stored_records(source),
        dataset.failures(),
        metadata.provenance,
        split_seed=metadata.split.seed,
        optional_labels=metadata.optional_labels,
        precision=known,
    )
    found = verify_store(store)
    assert found.intact, found
    rounded = open_dataset(store)
    worst = 0.0
    for name, bound in known.items():
        error = np.abs(rounded.column(name) - dataset.column(name))
        worst = max(worst, float(np.nanmax(error, initial=0.0)) / bound)
    shards = [path for path in store.glob("conformers/*/c/**/*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in shards}
    everything = sum(sizes.values()) / len(dataset)
    positions = sum(size for p, size in sizes.items() if "pos" in p.parts) / len(dataset)
    return everything, positions, worst


def main() -> None:
    """Print a table for README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="dataset to write anew")
    source = parser.parse_args().store
    dataset = open_dataset(source)
    print(f"{len(dataset)} conformers of {dataset.num_molecules} molecules\n")
    print("| rounded | bytes a conformer | of them positions | largest error / bound |")
    print("|---|---|---|---|")
    for number, (title, bounds) in enumerate(CHOICES.items()):
        with tempfile.TemporaryDirectory(prefix="qmgen-rounding-") as folder:
            total, positions, worst = measure(source, Path(folder) / str(number), bounds)
        error = f"{worst:.2f}" if bounds else ""
        print(f"| {title} | {total:.0f} | {positions:.0f} | {error} |")


if __name__ == "__main__":
    main()
