"""What a dataset store holds: every array with its dimensions, type and unit.

Everything is in atomic units except ``std``, which keeps the published QM1B convention.

=============  =======================  ==========================================
QM1B column    here                     difference
=============  =======================  ==========================================
``smile``      ``molecules/smile``      none
``atoms``      (derived from ``z``)     element symbols in one string
``z``          ``molecules/z``          stored once a molecule, not once a conformer
``pos``        ``conformers/pos``       (nat, 3) instead of a flat list; both Bohr
``energy``     ``conformers/energy``    Hartree instead of eV
``homo``       ``conformers/homo``      Hartree instead of eV
``lumo``       ``conformers/lumo``      Hartree instead of eV
``y``          ``conformers/gap``       Hartree instead of eV
``std``        ``conformers/std``       none (eV)
``N``          ``molecules/nao``        none
=============  =======================  ==========================================

Ragged arrays are flat: the part of row ``i`` is ``flat[offset[i]:offset[i + 1]]``. A dimension
``nat`` is cut by its group's ``atom_offset``, ``nmo`` by ``orbital_offset``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

SCHEMA_VERSION = 1
KIND = "qmgen-dataset"
RUN_FILE = "qmgen-run.json"
"""Marks the working directory of a run that has not finished."""

_OFFSET_OF = {"nat": "atom_offset", "nmo": "orbital_offset"}


@dataclass(frozen=True)
class Field:
    """One array of the store.

    Attributes
    ----------
    name : str
        Name of the array and of the reader's column.
    dims : tuple of str or int
        Dimensions of one row: ``()`` for a scalar; a leading ``"nat"`` or ``"nmo"`` makes the
        array ragged.
    dtype : str
        NumPy name of the type, or ``"string"``.
    unit : str
        Unit of the stored values; ``"1"`` where there is none.
    description : str
        What the value is.
    qm1b : str or None
        Column of the published QM1B files that holds the same quantity.
    """

    name: str
    dims: tuple[str | int, ...]
    dtype: str
    unit: str
    description: str
    qm1b: str | None = None

    @property
    def offset(self) -> str | None:
        """Name of the array that cuts this flat array into rows; None if it isn't ragged."""
        return _OFFSET_OF.get(str(self.dims[0])) if self.dims else None

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one element along the array's leading axis."""
        inner = self.dims[1:] if self.offset else self.dims
        return tuple(int(size) for size in inner)

    @property
    def item_size(self) -> int:
        """Number of values in one element along the array's leading axis."""
        return math.prod(self.item_shape)


def _table(*fields: Field) -> Mapping[str, Field]:
    return MappingProxyType({field.name: field for field in fields})


MOLECULE = _table(
    Field("smile", (), "string", "1", "SMILES of the molecule; empty if it has none", "smile"),
    Field("source_id", (), "string", "1", "the molecule's name in the input file"),
    Field("line", (), "int64", "1", "line or record number in the input file, from 1"),
    Field("charge", (), "int16", "e", "total charge"),
    Field("spin", (), "int16", "1", "number of unpaired electrons (2S)"),
    Field("nao", (), "int32", "1", "number of atomic orbitals in the basis", "N"),
    Field("split", (), "uint8", "1", "0 train, 1 validation, 2 test; one split a molecule"),
    Field("z", ("nat",), "uint8", "1", "atomic numbers, hydrogens included", "z"),
)

CONFORMER = _table(
    Field("index", (), "int32", "1", "conformer's number as generated; failures leave gaps"),
    Field("energy", (), "float64", "Hartree", "total electronic and nuclear energy", "energy"),
    Field("nuclear_repulsion", (), "float64", "Hartree", "repulsion energy of the nuclei"),
    Field("homo", (), "float64", "Hartree", "highest occupied orbital's energy", "homo"),
    Field("lumo", (), "float64", "Hartree", "lowest empty orbital's energy; NaN if none", "lumo"),
    Field("gap", (), "float64", "Hartree", "lumo - homo; NaN if no orbital is empty", "y"),
    Field("std", (), "float64", "eV", "standard deviation of the last five SCF energies", "std"),
    Field("energy_change", (), "float64", "Hartree", "energy change of the last SCF cycle"),
    Field("converged", (), "bool", "1", "whether the SCF met its thresholds"),
    Field("iterations", (), "int16", "1", "SCF cycles of the last attempt"),
    Field("attempts", (), "int8", "1", "1 plain SCF, 2 again with damping and level shift"),
    Field("dipole", (3,), "float64", "e*Bohr", "dipole moment"),
    Field("pos", ("nat", 3), "float64", "Bohr", "positions of the nuclei", "pos"),
    Field("mulliken_charges", ("nat",), "float64", "e", "Mulliken charges of the atoms"),
    Field("orbital_energies", ("nmo",), "float64", "Hartree", "all orbital energies, ascending"),
)

FAILURE = _table(
    Field("line", (), "int64", "1", "line or record number in the input file, from 1"),
    Field("source_id", (), "string", "1", "the molecule's name in the input file"),
    Field("smile", (), "string", "1", "SMILES of the molecule; empty if it has none"),
    Field("conformer", (), "int32", "1", "conformer's number; -1 for the whole molecule"),
    Field("stage", (), "string", "1", "what failed: read, embed or label"),
    Field("reason", (), "string", "1", "why"),
)

_MOLECULE_INDEX = _table(
    Field("atom_offset", (), "int64", "1", "rows of z: molecule i has [i] to [i + 1]"),
    Field(
        "conformer_offset", (), "int64", "1", "rows of conformers: molecule i has [i] to [i + 1]"
    ),
)

_CONFORMER_INDEX = _table(
    Field("molecule", (), "int64", "1", "row of the conformer's molecule"),
    Field("atom_offset", (), "int64", "1", "rows of pos and charges: row i has [i] to [i + 1]"),
    Field("orbital_offset", (), "int64", "1", "orbital_energies: row i has [i] to [i + 1]"),
)

GROUPS: Mapping[str, Mapping[str, Field]] = MappingProxyType(
    {
        "molecules": MappingProxyType({**MOLECULE, **_MOLECULE_INDEX}),
        "conformers": MappingProxyType({**CONFORMER, **_CONFORMER_INDEX}),
        "failures": FAILURE,
    }
)
"""Every array of the store, by group."""

COLUMNS: Mapping[str, Field] = MappingProxyType(
    {"molecule": _CONFORMER_INDEX["molecule"], **MOLECULE, **CONFORMER}
)
"""The reader's columns: one row a conformer, its molecule's fields repeated."""
