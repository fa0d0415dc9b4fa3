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
``nat`` is cut by its group's ``atom_offset``, ``nmo`` by ``orbital_offset``, ``npair`` by
``pair_offset``.

Some arrays are stored only by runs that ask for them or have open shells; a store's metadata list
which (``optional_labels``). A label at another level of theory than the store's own has an array of
its own, ``<label>@<level>``, of the label's shape, type and unit; the metadata say which levels
there are, and the array's attributes which one is meant. What of it failed is NaN.

Versions of the layout:

1. as first released;
2. adds ``quadrupole``, and the arrays of `OPTIONAL`;
3. adds imported labels, whose origin the metadata's provenance states;
4. adds checksums of each chunk and of the manifest, which repeats the root's metadata; and merged
   stores, whose metadata list their parts;
5. adds labels at other levels, labels that are rounded to a bound, and stores that grow.

Of imported labels a store has what their publication states. What it leaves out is NaN, or 0 for
``nao`` (with it there are no orbital energies), ``iterations`` and ``attempts``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from types import MappingProxyType
from typing import Any

from qmgen.errors import InputError

SCHEMA_VERSION = 5
KIND = "qmgen-dataset"
RUN_FILE = "qmgen-run.json"
"""Marks the working directory of a run that has not finished."""

_OFFSET_OF = {"nat": "atom_offset", "nmo": "orbital_offset", "npair": "pair_offset"}


@dataclass(frozen=True)
class Field:
    """One array of the store.

    Attributes
    ----------
    name : str
        Name of the array and of the reader's column.
    dims : tuple of str or int
        Dimensions of one row: ``()`` for a scalar; a leading ``"nat"``, ``"nmo"`` or ``"npair"``
        makes the array ragged.
    dtype : str
        NumPy name of the type, or ``"string"``.
    unit : str
        Unit of the stored values; ``"1"`` where there is none.
    description : str
        What the value is.
    qm1b : str or None
        Column of the published QM1B files that holds the same quantity.
    since : int
        Version of the layout that added it.
    bound : float or None
        Largest error that rounding may have made, in `unit`; None where nothing is rounded.
    attributes : dict
        What the array's attributes say besides.
    """

    name: str
    dims: tuple[str | int, ...]
    dtype: str
    unit: str
    description: str
    qm1b: str | None = None
    since: int = 1
    bound: float | None = None
    attributes: Mapping[str, Any] = dataclass_field(default_factory=dict, hash=False)

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
    Field("nao", (), "int32", "1", "number of atomic orbitals in the basis; 0 if not known", "N"),
    Field("split", (), "uint8", "1", "0 train, 1 validation, 2 test; one split a molecule"),
    Field("z", ("nat",), "uint8", "1", "atomic numbers, hydrogens included", "z"),
)

CONFORMER = _table(
    Field("index", (), "int32", "1", "conformer's number as generated; failures leave gaps"),
    Field("energy", (), "float64", "Hartree", "total electronic and nuclear energy", "energy"),
    Field("nuclear_repulsion", (), "float64", "Hartree", "repulsion energy of the nuclei"),
    Field(
        "homo", (), "float64", "Hartree", "highest occupied orbital's energy, of both spins", "homo"
    ),
    Field("lumo", (), "float64", "Hartree", "lowest empty orbital's energy; NaN if none", "lumo"),
    Field("gap", (), "float64", "Hartree", "lumo - homo; NaN if no orbital is empty", "y"),
    Field("std", (), "float64", "eV", "standard deviation of the last five SCF energies", "std"),
    Field("energy_change", (), "float64", "Hartree", "energy change of the last SCF cycle"),
    Field("converged", (), "bool", "1", "whether the SCF met its thresholds"),
    Field("iterations", (), "int16", "1", "SCF cycles of the last attempt; 0 if not known"),
    Field(
        "attempts",
        (),
        "int8",
        "1",
        "1 plain SCF, 2 again with damping and level shift; 0 if not known",
    ),
    Field("dipole", (3,), "float64", "e*Bohr", "dipole moment"),
    Field(
        "quadrupole",
        (3, 3),
        "float64",
        "e*Bohr^2",
        "traceless quadrupole moment about the centre of nuclear charge, sum(Z R) / sum(Z), in "
        "Buckingham's convention: 1/2 sum of q (3 r_i r_j - delta_ij r^2)",
        since=2,
    ),
    Field("pos", ("nat", 3), "float64", "Bohr", "positions of the nuclei", "pos"),
    Field("mulliken_charges", ("nat",), "float64", "e", "Mulliken charges of the atoms"),
    Field(
        "orbital_energies",
        ("nmo",),
        "float64",
        "Hartree",
        "all orbital energies, ascending; of spin a",
    ),
)

_MATRIX = (
    "; lower triangle by rows, element (i, j) with j <= i at i (i + 1) / 2 + j; orbitals in "
    "PySCF's (libcint's) order, norm and sign: by atom, then by shells of ascending angular "
    "momentum, within a pure shell m = -l to l except p, which is x, y, z; Cartesian shells xx, "
    "xy, xz, yy, yz, zz and so on"
)

OPTIONAL = _table(
    Field(
        "forces",
        ("nat", 3),
        "float64",
        "Hartree/Bohr",
        "minus the gradient of energy by pos; the configuration tells grid level and grid response",
        since=2,
    ),
    Field(
        "dispersion_energy",
        (),
        "float64",
        "Hartree",
        "dispersion energy, not part of energy; the configuration tells the model; NaN where the "
        "SCF did not converge",
        since=2,
    ),
    Field(
        "dispersion_forces",
        ("nat", 3),
        "float64",
        "Hartree/Bohr",
        "minus the gradient of dispersion_energy by pos, not part of forces",
        since=2,
    ),
    Field(
        "density_matrix",
        ("npair",),
        "float64",
        "1",
        f"density matrix of both spins{_MATRIX}",
        since=2,
    ),
    Field(
        "fock_matrix",
        ("npair",),
        "float64",
        "Hartree",
        f"Fock (Kohn-Sham) matrix of the final density, of spin a{_MATRIX}",
        since=2,
    ),
    Field(
        "orbital_energies_beta",
        ("nmo",),
        "float64",
        "Hartree",
        "all orbital energies of spin b, ascending; orbital_energies are those of spin a",
        since=2,
    ),
    Field("spin_square", (), "float64", "1", "<S^2>; 0 for closed shells", since=2),
    Field(
        "mulliken_spins",
        ("nat",),
        "float64",
        "1",
        "unpaired electrons of the atoms by Mulliken's analysis, spin a minus spin b",
        since=2,
    ),
    Field(
        "spin_density_matrix",
        ("npair",),
        "float64",
        "1",
        f"density matrix of spin a minus that of spin b{_MATRIX}",
        since=2,
    ),
    Field(
        "fock_matrix_beta",
        ("npair",),
        "float64",
        "Hartree",
        f"Fock (Kohn-Sham) matrix of spin b{_MATRIX}",
        since=2,
    ),
)
"""Arrays of the conformers that are stored only by runs that ask for them, or, those of the two
spins, that have open shells."""

FAILURE_STAGES = ("read", "embed", "label")
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

_PAIR_OFFSET = Field(
    "pair_offset",
    (),
    "int64",
    "1",
    "matrices over orbitals: row i has [i] to [i + 1]",
    since=2,
)

LEVEL_LABELS = (
    "energy",
    "homo",
    "lumo",
    "gap",
    "dipole",
    "quadrupole",
    "mulliken_charges",
    "forces",
    "dispersion_energy",
    "dispersion_forces",
)
"""Labels that a store may have at other levels besides: those whose shape no basis decides."""

_AT = "@"


def label_at(label: str, level: str) -> str:
    """Name of the array of a label at another level."""
    return f"{label}{_AT}{level}"


def is_at_level(name: str) -> bool:
    """Whether an array has a label at another level than the store's own."""
    return _AT in name


def _field_at_level(name: str) -> Field:
    label, _, level = name.partition(_AT)
    if label not in LEVEL_LABELS or not level:
        raise KeyError(name)
    field = OPTIONAL[label] if label in OPTIONAL else CONFORMER[label]
    about = field.description.partition(";")[0]
    description = f"{about}; at the level {level}; NaN where that failed"
    return replace(field, name=name, description=description, qm1b=None, since=5)


class _Columns(Mapping[str, Field]):
    """Fields by name; those at other levels are found too, and not counted among them."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Field:
        return _field_at_level(name) if is_at_level(name) else self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


COLUMNS: Mapping[str, Field] = _Columns(
    {"molecule": _CONFORMER_INDEX["molecule"], **MOLECULE, **CONFORMER, **OPTIONAL}
)
"""Every column that a reader may have: one row a conformer, its molecule's fields repeated."""


def conformer_fields(
    optional_labels: Sequence[str] = (), version: int = SCHEMA_VERSION
) -> Mapping[str, Field]:
    """Labels of a conformer in a store of a version with some optional labels.

    Parameters
    ----------
    optional_labels : sequence of str
        Names in `OPTIONAL`, and of labels at other levels.
    version : int
        Version of the layout.

    Raises
    ------
    InputError
        There is no such optional label.
    """
    at_levels = [name for name in optional_labels if is_at_level(name)]
    unknown = sorted(set(optional_labels) - set(OPTIONAL) - {n for n in at_levels if n in COLUMNS})
    if unknown:
        raise InputError(f"no optional labels {unknown}; there are {', '.join(OPTIONAL)}")
    required = (field for field in CONFORMER.values() if field.since <= version)
    return _table(
        *required,
        *(OPTIONAL[name] for name in OPTIONAL if name in optional_labels),
        *(COLUMNS[name] for name in at_levels),
    )


def store_groups(
    optional_labels: Sequence[str] = (), version: int = SCHEMA_VERSION
) -> Mapping[str, Mapping[str, Field]]:
    """Every array of a store, by group; as `conformer_fields`."""
    conformers = conformer_fields(optional_labels, version)
    index = dict(_CONFORMER_INDEX)
    if any(field.offset == _PAIR_OFFSET.name for field in conformers.values()):
        index[_PAIR_OFFSET.name] = _PAIR_OFFSET
    return MappingProxyType(
        {
            "molecules": MappingProxyType({**MOLECULE, **_MOLECULE_INDEX}),
            "conformers": MappingProxyType({**conformers, **index}),
            "failures": FAILURE,
        }
    )
