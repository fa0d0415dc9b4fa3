"""What a generator hands to the store: labelled molecules, and failures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from qmgen.dataset.packed import pair_count
from qmgen.dataset.schema import conformer_fields
from qmgen.errors import InputError


@dataclass(frozen=True)
class Failure:
    """Something that got no label, or a label that is not converged.

    Attributes
    ----------
    line : int
        Line or record number in the input file, from 1.
    source_id : str
        The molecule's name in the input file.
    smile : str
        SMILES of the molecule; empty if it has none.
    conformer : int
        The conformer's number; -1 for the whole molecule.
    stage : {"read", "embed", "label"}
        What failed.
    reason : str
        Why.
    """

    line: int
    source_id: str
    smile: str
    conformer: int
    stage: Literal["read", "embed", "label"]
    reason: str


@dataclass(frozen=True, eq=False)
class MoleculeRecord:
    """One molecule with its labelled conformers.

    Attributes
    ----------
    line : int
        Line or record number in the input file, from 1.
    source_id : str
        The molecule's name in the input file.
    smile : str
        SMILES of the molecule; empty if it has none.
    charge : int
        Total charge (e).
    spin : int
        Number of unpaired electrons (2S).
    z : UInt8[nat]
        Atomic numbers, hydrogens included.
    nao : int
        Number of atomic orbitals in the basis.
    conformers : dict of str to array
        Every field of `qmgen.dataset.schema.CONFORMER`, and those of its ``OPTIONAL`` that the run
        asks for, with a leading axis ``nconf`` (may be 0), in the units given there; ``nmo``
        equals `nao`, ``npair`` is nao (nao + 1) / 2.
    """

    line: int
    source_id: str
    smile: str
    charge: int
    spin: int
    z: UInt8[np.ndarray, " nat"]
    nao: int
    conformers: dict[str, np.ndarray]

    @property
    def num_conformers(self) -> int:
        """Number of conformers."""
        return len(self.conformers["index"])


def empty_conformers(
    nat: int, nao: int, nconf: int = 0, optional_labels: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Give zero-filled conformer arrays of the right shapes and types.

    Parameters
    ----------
    nat : int
        Number of atoms.
    nao : int
        Number of atomic orbitals.
    nconf : int
        Number of conformers.
    optional_labels : sequence of str
        Fields of `qmgen.dataset.schema.OPTIONAL` to add.

    Returns
    -------
    dict of str to array
        Every field of `qmgen.dataset.schema.CONFORMER` and the optional ones, leading axis `nconf`.

    Raises
    ------
    InputError
        There is no such optional label.
    """
    sizes = {"nat": nat, "nmo": nao, "npair": pair_count(nao)}
    return {
        name: np.zeros(
            (nconf, *(sizes[dim] if isinstance(dim, str) else dim for dim in field.dims)),
            dtype=field.dtype,
        )
        for name, field in conformer_fields(optional_labels).items()
    }


def check_record(record: MoleculeRecord, optional_labels: Sequence[str] = ()) -> None:
    """Check that a record fits the schema.

    Parameters
    ----------
    record : MoleculeRecord
        The record to check.
    optional_labels : sequence of str
        Fields of `qmgen.dataset.schema.OPTIONAL` that it must have, and no others.

    Raises
    ------
    InputError
        A field is missing, unknown, or of the wrong type or shape; an atomic number is 0; the
        conformers' numbers don't ascend; a converged conformer has no finite energy or positions.
    """
    where = f"molecule at line {record.line} ({record.smile or record.source_id})"
    if record.z.dtype != np.uint8 or record.z.ndim != 1 or record.z.size == 0:
        raise InputError(
            f"{where}: z must be a non-empty vector of uint8, "
            f"not {record.z.dtype} of shape {record.z.shape}"
        )
    if not record.z.all():
        raise InputError(f"{where}: atomic numbers must be positive")
    if record.nao < 0:
        raise InputError(f"{where}: nao must not be negative, not {record.nao}")
    fields = conformer_fields(optional_labels)
    if set(record.conformers) != set(fields):
        missing = sorted(set(fields) - set(record.conformers))
        unknown = sorted(set(record.conformers) - set(fields))
        raise InputError(f"{where}: missing fields {missing}, unknown fields {unknown}")
    nconf = len(np.atleast_1d(record.conformers["index"]))
    expected = empty_conformers(record.z.size, record.nao, nconf, optional_labels)
    for name, model in expected.items():
        values = record.conformers[name]
        if values.dtype != model.dtype or values.shape != model.shape:
            raise InputError(
                f"{where}: {name} must be {model.dtype} of shape {model.shape}, "
                f"not {values.dtype} of shape {values.shape}"
            )
    if (np.diff(record.conformers["index"], prepend=-1) <= 0).any():
        raise InputError(f"{where}: conformer numbers must ascend from 0 or later")
    converged = record.conformers["converged"]
    for name in ("energy", "pos"):
        if not np.isfinite(record.conformers[name][converged]).all():
            raise InputError(f"{where}: {name} of a converged conformer is not finite")
