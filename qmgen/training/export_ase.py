"""Writes a dataset for other programs: extended XYZ, and schnetpack's database."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import write_extxyz
from schnetpack import properties
from schnetpack.data import ASEAtomsData

from qmgen.dataset import Dataset, ExportCounts, written_beside
from qmgen.dataset.row_mask import finite_rows
from qmgen.errors import InputError
from qmgen.training.ase_atoms import iter_atoms
from qmgen.training.targets import TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR

_BLOCK_ROWS = 4096
_STATE = (properties.total_charge, properties.spin_multiplicity)
_SCHNETPACK_UNITS = {"eV": "eV", "eV/Angstrom": "eV/Ang", "Debye": "Debye"}


def export_extxyz(
    dataset: Dataset, xyz_path: str | os.PathLike[str], *, split: str | None = None
) -> ExportCounts:
    """Write the converged conformers as an extended XYZ file, in what `iter_atoms` says.

    Parameters
    ----------
    dataset : Dataset
        What to export.
    xyz_path : path
        File to make.
    split : {"train", "val", "test"}, optional
        Split; all by default.

    Returns
    -------
    ExportCounts
        Conformers written and left out.

    Raises
    ------
    StoreError
        The file exists, or the disk is full or unwritable.
    InputError
        There is no such split.
    """
    frames = iter_atoms(dataset, split=split)
    written = 0
    with written_beside(xyz_path) as path, path.open("w", encoding="utf-8") as stream:
        for atoms in frames:
            write_extxyz(stream, [atoms])
            written += 1
    return ExportCounts(written, len(dataset) - written)


def export_ase_database(
    dataset: Dataset, db_path: str | os.PathLike[str], *, split: str | None = None
) -> ExportCounts:
    """Write the converged conformers as the ASE database that schnetpack's `ASEAtomsData` reads.

    Positions are in Angstrom; properties are those of `TARGETS` that the store has a finite value
    of, in the units given there: ``energy``, ``homo``, ``lumo`` and ``gap`` (1,) in eV, ``forces``
    (nat, 3) in eV/Angstrom, ``dipole`` (1, 3) in Debye. Conformers that lack one of them are left
    out. ``total_charge`` and ``spin_multiplicity`` (1,) are schnetpack's own. The database's
    metadata have the provenance.

    Parameters
    ----------
    dataset : Dataset
        What to export.
    db_path : path
        File to make; its name ends in ``.db``.
    split : {"train", "val", "test"}, optional
        Split; all by default.

    Returns
    -------
    ExportCounts
        Conformers written and left out.

    Raises
    ------
    StoreError
        The file exists, or the disk is full or unwritable.
    InputError
        There is no such split, the name has another ending, or there is nothing to write.
    """
    if Path(db_path).suffix != ".db":
        raise InputError(f"{db_path}: schnetpack wants a name that ends in .db")
    targets = _finite_targets(dataset, split)
    units = {name: _SCHNETPACK_UNITS[TARGETS[name].unit] for name in targets}
    columns = ("z", "pos", "charge", "spin", *targets)
    written = 0
    with written_beside(db_path) as path:
        # schnetpack asks for a unit of everything; "arb. unit" is its word for none.
        database = ASEAtomsData.create(
            str(path),
            distance_unit="Ang",
            property_unit_dict=units | dict.fromkeys(_STATE, "arb. unit"),
        )
        database.update_metadata(qmgen=dataset.metadata.model_dump(mode="json"))
        for block in dataset.iter_blocks(_BLOCK_ROWS, split=split, columns=columns):
            rows = np.flatnonzero(finite_rows(block, targets))
            atoms = [_atoms(block.row(place)) for place in rows]
            labels = [_properties(block.row(place), targets) for place in rows]
            database.add_systems(labels, atoms)
            written += len(rows)
    return ExportCounts(written, len(dataset) - written)


def _finite_targets(dataset: Dataset, split: str | None) -> tuple[Target, ...]:
    """Targets that at least one conformer has; reads until each is found."""
    missing = [name for name in TARGETS if name in dataset.columns]
    found: set[Target] = set()
    for block in dataset.iter_blocks(_BLOCK_ROWS, split=split, columns=missing):
        found |= {name for name in missing if finite_rows(block, (name,)).any()}
        if len(found) == len(missing):
            break
    if not found:
        raise InputError(f"{dataset.path}: no converged conformer has a label; nothing to write")
    return tuple(name for name in TARGETS if name in found)


def _atoms(row: dict[str, Any]) -> Atoms:
    return Atoms(row["z"], row["pos"] * ANGSTROM_PER_BOHR)


def _properties(row: dict[str, Any], targets: tuple[Target, ...]) -> dict[str, np.ndarray]:
    """Labels with a leading axis, along which schnetpack joins them."""
    values = {name: row[name] * TARGETS[name].factor for name in targets}
    state = (float(row["charge"]), row["spin"] + 1.0)
    return dict(zip(_STATE, map(np.atleast_1d, state), strict=True)) | {
        name: label if name == "forces" else np.asarray(label)[None]
        for name, label in values.items()
    }
