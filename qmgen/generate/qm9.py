"""The published QM9 as a dataset: its own geometries and labels, from the package qm9pack.

Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014). qm9pack (R. Ramakrishnan,
MIT) ships the 130,831 molecules that passed the authors' consistency check; nothing is downloaded.
"""

import csv
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from qmgen.dataset import (
    Failure,
    ImportedLabels,
    MoleculeRecord,
    Provenance,
    StoreMetadata,
    config_hash,
    empty_conformers,
    file_sha256,
    open_dataset,
    package_versions,
    write_store,
)
from qmgen.dataset.metadata import SourceFile
from qmgen.errors import InputError, MissingExtraError, MoleculeParseError
from qmgen.molecules import Molecule, constitution, molecule_from_smiles, read_molecules
from qmgen.units import BOHR_PER_ANGSTROM

_ORIGIN = ImportedLabels(
    dataset="QM9",
    program="Gaussian 09",
    level_of_theory="B3LYP/6-31G(2df,p), geometries optimised at the same level",
    reference="Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014)",
    license="CC0",
)
_NOTES = (
    "energy is QM9's U0 less its zero-point energy, the energy of the SCF; it is rounded to 1e-6 "
    "Hartree, homo, lumo and gap to 1e-4 Hartree.",
    "QM9 publishes the norm of the dipole and not its direction, so dipole is NaN.",
)
_ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
_COLUMNS = frozenset(
    {
        "XYZ_file",
        "SMILES",
        "Elements",
        "XYZ_Ang",
        "Mulliken_pop",
        "HOMO_au",
        "LUMO_au",
        "HOMO_LUMO_gap_au",
        "ZPVE_au",
        "InternalEnergy_0K_au",
    }
)
_BLOCK_ROWS = 65536


def qm9_files() -> list[Path]:
    """Find the tables that the package qm9pack ships.

    Raises
    ------
    MissingExtraError
        The package is not installed.
    """
    # The package itself can't be imported where setuptools no longer has pkg_resources.
    spec = find_spec("qm9pack")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [path for folder in folders or () for path in Path(folder).glob("data/qm9_part*.csv")]
    if not files:
        raise MissingExtraError(
            "QM9 is read from the package qm9pack (104 MB); install it with: "
            "pip install 'qmgen[qm9]'"
        )
    return sorted(files)


def import_qm9(
    files: Sequence[Path],
    output: str | os.PathLike[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    exclude: str | os.PathLike[str] | None = None,
) -> StoreMetadata:
    """Write QM9, or a random part of it, as a dataset.

    Every molecule has one conformer, QM9's geometry. Labels are the energy (U0 less the zero-point
    energy), HOMO, LUMO, gap and Mulliken charges; what a dataset has besides is not known.

    Parameters
    ----------
    files : sequence of Path
        Tables in qm9pack's format, from `qm9_files`; their records are numbered through.
    output : path
        Dataset to make.
    limit : int, optional
        Number of molecules, chosen at random; all by default. With the same seed a smaller choice
        is part of a larger one.
    seed : int
        Seed of the choice and of the split into train, validation and test.
    exclude : path, optional
        Dataset, or file of molecules, that has what is left out, whatever the stereochemistry: a
        network that learnt on that is then tested on molecules it has not seen.

    Returns
    -------
    StoreMetadata
        Molecules left out are among the rejected.

    Raises
    ------
    InputError
        A table or `exclude` can't be read, or no molecule is left.
    StoreError
        `output` exists or can't be written, or `exclude` is a folder and no complete dataset.
    """
    excluded = frozenset() if exclude is None else _constitutions(Path(exclude))
    chosen, left_out = _choose(files, limit, seed, excluded)
    if not chosen:
        raise InputError(
            f"no molecule of QM9 is left: {exclude} has them all; exclude less, or nothing"
        )
    failures: list[Failure] = []
    config: dict[str, Any] = {"limit": limit, "exclude": None}
    if exclude is not None:
        config["exclude"] = _describe_excluded(Path(exclude))
    provenance = Provenance(
        versions=package_versions(("qmgen", "qm9pack", "rdkit", "zarr", "numpy")),
        config=config,
        config_hash=config_hash(config),
        seed=seed,
        source=_describe(files),
        hardware=None,
        command=" ".join(["qmgen", *sys.argv[1:]]),
        imported=_ORIGIN,
    )
    return write_store(
        output,
        _records(files, chosen, failures),
        failures,  # filled while the records are written, read after them
        provenance,
        split_seed=seed,
        notes=_NOTES,
        rejected={f"in {Path(exclude).name}": left_out} if exclude is not None else None,
    )


def _constitutions(source: Path) -> frozenset[str]:
    if source.is_dir():
        dataset = open_dataset(source)
        blocks = dataset.iter_blocks(_BLOCK_ROWS, converged_only=False, columns=("smile",))
        smiles = {str(smile) for block in blocks for smile in np.unique(block["smile"])}
    else:
        records = read_molecules(source)
        smiles = {record.smiles for record in records if isinstance(record, Molecule)}
    return frozenset(constitution(smile) for smile in smiles if smile)


def _describe_excluded(source: Path) -> dict[str, str]:
    if not source.is_dir():
        return {"source_sha256": file_sha256(source)}
    origin = open_dataset(source).metadata.provenance
    return {"source_sha256": origin.source.sha256, "config_hash": origin.config_hash}


def _choose(
    files: Sequence[Path], limit: int | None, seed: int, excluded: frozenset[str]
) -> tuple[frozenset[int], int]:
    """Give the numbers of the chosen records, and how many were left out on the way."""
    smiles = [row["SMILES"] for row in _rows(files)]
    order = np.random.default_rng(seed).permutation(len(smiles)).tolist()
    chosen: set[int] = set()
    left_out = 0
    for number in order:
        if limit is not None and len(chosen) == limit:
            break
        if excluded and _is_excluded(smiles[number], excluded):
            left_out += 1
        else:
            chosen.add(number)
    return frozenset(chosen), left_out


def _is_excluded(smiles: str, excluded: frozenset[str]) -> bool:
    try:
        return constitution(smiles) in excluded
    except MoleculeParseError:
        return False  # rejected with its reason when it is read


def _records(
    files: Sequence[Path], chosen: frozenset[int], failures: list[Failure]
) -> Iterator[MoleculeRecord]:
    for number, row in enumerate(_rows(files)):
        if number not in chosen:
            continue
        name = row["XYZ_file"].removesuffix(".xyz")
        try:
            yield _record(row, number + 1, name)
        except ValueError as error:  # InputError is one, too
            failures.append(Failure(number + 1, name, row["SMILES"], -1, "read", str(error)))


def _record(row: dict[str, str], line: int, name: str) -> MoleculeRecord:
    symbols = [symbol.strip("' ") for symbol in row["Elements"].strip("[]").split(",")]
    if unknown := set(symbols) - set(_ATOMIC_NUMBERS):
        raise InputError(f"QM9 has no {', '.join(sorted(unknown))}")
    z = np.array([_ATOMIC_NUMBERS[symbol] for symbol in symbols], dtype=np.uint8)
    molecule = molecule_from_smiles(row["SMILES"])
    if sorted(molecule.atomic_numbers.tolist()) != sorted(z.tolist()):
        raise InputError("the geometry has other atoms than the SMILES")
    values = empty_conformers(len(z), nao=0, nconf=1)
    for array in values.values():
        if array.dtype.kind == "f":
            array[...] = np.nan
    values["converged"][:] = True
    values["energy"][0] = float(row["InternalEnergy_0K_au"]) - float(row["ZPVE_au"])
    values["homo"][0] = float(row["HOMO_au"])
    values["lumo"][0] = float(row["LUMO_au"])
    values["gap"][0] = float(row["HOMO_LUMO_gap_au"])
    values["pos"][:] = _numbers(row["XYZ_Ang"]).reshape(len(z), 3) * BOHR_PER_ANGSTROM
    values["mulliken_charges"][:] = _numbers(row["Mulliken_pop"])
    return MoleculeRecord(
        line=line,
        source_id=name,
        smile=molecule.smiles,
        charge=molecule.charge,
        spin=molecule.spin,
        z=z,
        nao=0,
        conformers=values,
    )


def _numbers(text: str) -> Float[np.ndarray, " n"]:
    return np.array(text.replace("[", "").replace("]", "").split(","), dtype=np.float64)


def _rows(files: Sequence[Path]) -> Iterator[dict[str, str]]:
    for path in files:
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                if missing := sorted(_COLUMNS - set(reader.fieldnames or ())):
                    raise InputError(
                        f"{path} is no table of qm9pack: it has no column {', '.join(missing)}; "
                        "install qm9pack 1.0 again"
                    )
                yield from reader
        except OSError as error:
            raise InputError(
                f"can't read {path}: {error.strerror or error}; install qm9pack again"
            ) from error


def _describe(files: Sequence[Path]) -> SourceFile:
    """Describe the tables as one file: what they hold, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return SourceFile(
        name=" + ".join(path.name for path in files),
        sha256=digest.hexdigest(),
        bytes=sum(path.stat().st_size for path in files),
    )
