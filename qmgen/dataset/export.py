"""Writes a dataset as a Parquet file with the columns and units of the published QM1B."""

import os
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from qmgen.dataset.batch import Batch
from qmgen.dataset.output import written_beside
from qmgen.dataset.reader import Dataset
from qmgen.units import EV_PER_HARTREE

_SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
SYMBOLS = np.array(_SYMBOLS.split(), dtype=object)
"""Element symbols by atomic number."""

_READ = ("smile", "z", "energy", "homo", "lumo", "nao", "std", "gap", "pos")
_BLOCK_ROWS = 16384


class ExportCounts(NamedTuple):
    """Rows that an export wrote and left out."""

    written: int
    skipped: int


def qm1b_schema() -> pa.Schema:
    """Columns of the published QM1B files, in the order of its documentation."""
    return pa.schema(
        [
            ("smile", pa.string()),
            ("atoms", pa.string()),
            ("z", pa.list_(pa.int64())),
            ("energy", pa.float64()),
            ("homo", pa.float64()),
            ("lumo", pa.float64()),
            ("N", pa.int64()),
            ("std", pa.float64()),
            ("y", pa.float64()),
            ("pos", pa.list_(pa.float64())),
        ]
    )


def export_qm1b(dataset: Dataset, parquet_path: str | os.PathLike[str]) -> ExportCounts:
    """Write a dataset in the QM1B format: energies in eV, positions in Bohr.

    Where labels were imported, ``N`` is null and ``std`` NaN.

    Like QM1B it leaves out conformers whose SCF did not converge and those with no gap (0, or no
    empty orbital). QM1B used 27.2114 eV/Hartree; this uses CODATA's full digits, and the file's
    key-value metadata say so. Memory is bounded by a block of rows.

    Parameters
    ----------
    dataset : Dataset
        What to export.
    parquet_path : path
        File to make.

    Returns
    -------
    ExportCounts
        Rows written and left out.

    Raises
    ------
    StoreError
        The file exists, or the disk is full or unwritable.
    """
    with written_beside(parquet_path) as path:
        written = _write(dataset, path)
    return ExportCounts(written, len(dataset) - written)


def _write(dataset: Dataset, path: Path) -> int:
    schema = qm1b_schema().with_metadata(
        {
            "energy_unit": "eV",
            "pos_unit": "Bohr",
            "ev_per_hartree": repr(EV_PER_HARTREE),
            "ev_per_hartree_source": "CODATA 2018",
            "qmgen_schema_version": str(dataset.metadata.schema_version),
            "qmgen_config_hash": dataset.metadata.provenance.config_hash,
        }
    )
    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for block in dataset.iter_blocks(_BLOCK_ROWS, columns=("gap",)):
            # NaN compares unequal to 0, so it must be named.
            rows = block.rows[np.isfinite(block["gap"]) & (block["gap"] != 0)]
            if rows.size:
                writer.write_batch(_convert(dataset.batch(rows, _READ), schema))
                written += rows.size
    return written


def _convert(batch: Batch, schema: pa.Schema) -> pa.RecordBatch:
    atoms = SYMBOLS[batch["z"]]
    bounds = batch.atom_offset.tolist()
    offsets = batch.atom_offset.astype(np.int32)
    columns = {
        "smile": batch["smile"],
        "atoms": ["".join(atoms[start:stop]) for start, stop in pairwise(bounds)],
        "z": pa.ListArray.from_arrays(offsets, pa.array(batch["z"].astype(np.int64))),
        "energy": batch["energy"] * EV_PER_HARTREE,
        "homo": batch["homo"] * EV_PER_HARTREE,
        "lumo": batch["lumo"] * EV_PER_HARTREE,
        "N": pa.array(batch["nao"].astype(np.int64), mask=batch["nao"] == 0),
        "std": batch["std"],
        "y": batch["gap"] * EV_PER_HARTREE,
        "pos": pa.ListArray.from_arrays(3 * offsets, pa.array(batch["pos"].ravel())),
    }
    return pa.record_batch([pa.array(columns[name]) for name in schema.names], schema=schema)
