"""What a store says about itself, one record's form in JSON, and the JSON Schemas of both."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic import Field as Described

from qmgen.dataset.schema import COLUMNS, SCHEMA_VERSION, is_at_level


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceFile(_Frozen):
    """The input file that the molecules came from."""

    name: str = Described(description="file name without its folder")
    sha256: str = Described(description="SHA-256 of the file, hexadecimal")
    bytes: int = Described(description="size of the file (bytes)", ge=0)


class Hardware(_Frozen):
    """The machine that made the labels."""

    cpu: str = Described(description="model of the processor")
    cores: int = Described(description="processor cores that the run could use", ge=1)
    memory_gib: float | None = Described(description="main memory (GiB); null if not known")
    devices: tuple[str, ...] = Described(description="accelerators used, one name a device")
    platform: str = Described(description="operating system and architecture")


class ImportedLabels(_Frozen):
    """The published dataset that labels were taken from, instead of computing them."""

    dataset: str = Described(description="name of the dataset")
    program: str = Described(description="program that computed the labels")
    level_of_theory: str = Described(description="functional and basis, of labels and geometries")
    reference: str = Described(description="paper that published the dataset")
    license: str = Described(description="licence of the data")


class Provenance(_Frozen):
    """How the labels were made, or where they come from."""

    versions: dict[str, str] = Described(description="version of each package, and of Python")
    config: dict[str, JsonValue] = Described(
        description="scientific configuration of the run; quantities in Hartree and Bohr "
        "unless a name says otherwise"
    )
    config_hash: str = Described(description="SHA-256 of the configuration as canonical JSON")
    seed: int = Described(
        description="seed of the conformer generation, or of the choice of imported molecules"
    )
    source: SourceFile = Described(
        description="input file; of several merged stores their names, the SHA-256 of their "
        "checksums and the sum of their sizes"
    )
    hardware: Hardware | None = Described(
        description="machine that made the labels; null for imported ones, and where parts of a "
        "merged store come from several"
    )
    command: str = Described(description="command line of the run")
    imported: ImportedLabels | None = Described(
        None, description="origin of imported labels; null where qmgen computed them"
    )


class Counts(_Frozen):
    """How much the store holds."""

    molecules: int = Described(description="molecules, those without conformers included", ge=0)
    conformers: int = Described(description="conformers, unconverged ones included", ge=0)
    converged: int = Described(description="conformers whose SCF converged", ge=0)
    failures: int = Described(description="rows of the failures group", ge=0)
    rejected: dict[str, int] = Described(
        description="records of the input file that were rejected, by reason"
    )


class Part(_Frozen):
    """A store that was merged into this one, as it was, or a run that was appended to it.

    Such a store has its parts' molecules one part after the other, and so their failures with each
    part's duplicates.
    """

    created: str = Described(description="time of writing (ISO 8601)")
    source: SourceFile = Described(description="input file; lines of the part's rows are its")
    versions: dict[str, str] = Described(description="version of each package, and of Python")
    hardware: Hardware | None = Described(
        description="machine that made the labels; null for imported ones"
    )
    command: str = Described(description="command line of the run")
    counts: Counts = Described(description="how much the part held")
    duplicates: int = Described(
        description="molecules of it that are left out, as a part before it has them", ge=0
    )


class Level(_Frozen):
    """Another level of theory, at which some labels of all conformers were computed afterwards."""

    name: str = Described(
        description="what the arrays of its labels end with, <label>@<name>", pattern=r"^[\w.+-]+$"
    )
    labels: tuple[str, ...] = Described(description="labels that the store has at this level")
    config: dict[str, JsonValue] = Described(
        description="scientific configuration; quantities in Hartree and Bohr unless a name says "
        "otherwise"
    )
    config_hash: str = Described(description="SHA-256 of the configuration as canonical JSON")
    created: str = Described(description="time of writing (ISO 8601)")
    versions: dict[str, str] = Described(description="version of each package, and of Python")
    hardware: Hardware = Described(description="machine that made the labels")
    command: str = Described(description="command line of the run")


class Split(_Frozen):
    """How molecules were split."""

    seed: int = Described(description="seed of the split")
    fractions: tuple[float, float, float] = Described(
        description="shares of train, validation and test among the distinct molecules"
    )


class StoreMetadata(_Frozen):
    """Attributes of a store's root group."""

    schema_version: Annotated[int, Described(description="version of the store's layout", ge=1)] = (
        SCHEMA_VERSION
    )
    qmgen_kind: Annotated[
        Literal["qmgen-dataset"], Described(description="marks a dataset store")
    ] = "qmgen-dataset"
    created: str = Described(description="time of writing (ISO 8601)")
    provenance: Provenance = Described(description="how the labels were made")
    counts: Counts = Described(description="how much the store holds")
    split: Split = Described(description="how molecules were split")
    optional_labels: tuple[str, ...] = Described(
        (),
        description="arrays of the conformers that only runs store which ask for them or have "
        "open shells",
    )
    parts: tuple[Part, ...] = Described(
        (),
        description="stores that this one was merged from, or the run that made it and those that "
        "were appended; empty if one run made it",
    )
    levels: tuple[Level, ...] = Described(
        (), description="other levels of theory that some labels were computed at afterwards"
    )
    precision: dict[str, float] = Described(
        {},
        description="largest error of labels that were rounded, in the unit of each; also of those "
        "at other levels",
    )
    notes: tuple[str, ...] = Described(
        (), description="what a user of the labels should know, one sentence or two each"
    )


Label = float | None
Vector = tuple[Label, Label, Label]


def _described(name: str) -> Any:
    field = COLUMNS[name]
    return Described(description=f"{field.description} (unit: {field.unit})")


class Record(_Frozen):
    """One conformer with its molecule, as the reader returns it; null stands for NaN.

    Labels that the store doesn't have are null as well. Those at other levels are left out.
    """

    molecule: Annotated[int, _described("molecule")]
    smile: Annotated[str, _described("smile")]
    source_id: Annotated[str, _described("source_id")]
    line: Annotated[int, _described("line")]
    charge: Annotated[int, _described("charge")]
    spin: Annotated[int, _described("spin")]
    nao: Annotated[int, _described("nao")]
    split: Annotated[
        Literal["train", "val", "test"],
        Described(description="split of the molecule, the same for all its conformers"),
    ]
    z: Annotated[list[int], _described("z")]
    index: Annotated[int, _described("index")]
    energy: Annotated[Label, _described("energy")]
    nuclear_repulsion: Annotated[Label, _described("nuclear_repulsion")]
    homo: Annotated[Label, _described("homo")]
    lumo: Annotated[Label, _described("lumo")]
    gap: Annotated[Label, _described("gap")]
    std: Annotated[Label, _described("std")]
    energy_change: Annotated[Label, _described("energy_change")]
    converged: Annotated[bool, _described("converged")]
    iterations: Annotated[int, _described("iterations")]
    attempts: Annotated[int, _described("attempts")]
    dipole: Annotated[Vector, _described("dipole")]
    quadrupole: Annotated[tuple[Vector, Vector, Vector] | None, _described("quadrupole")] = None
    pos: Annotated[list[Vector], _described("pos")]
    mulliken_charges: Annotated[list[Label], _described("mulliken_charges")]
    orbital_energies: Annotated[list[Label], _described("orbital_energies")]
    forces: Annotated[list[Vector] | None, _described("forces")] = None
    dispersion_energy: Annotated[Label, _described("dispersion_energy")] = None
    dispersion_forces: Annotated[list[Vector] | None, _described("dispersion_forces")] = None
    density_matrix: Annotated[list[Label] | None, _described("density_matrix")] = None
    fock_matrix: Annotated[list[Label] | None, _described("fock_matrix")] = None
    orbital_energies_beta: Annotated[list[Label] | None, _described("orbital_energies_beta")] = None
    spin_square: Annotated[Label, _described("spin_square")] = None
    mulliken_spins: Annotated[list[Label] | None, _described("mulliken_spins")] = None
    spin_density_matrix: Annotated[list[Label] | None, _described("spin_density_matrix")] = None
    fock_matrix_beta: Annotated[list[Label] | None, _described("fock_matrix_beta")] = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """Make a record of what ``dataset[i]`` returns.

        Raises
        ------
        pydantic.ValidationError
            The row lacks a column or a value is of another type.
        """
        own = {name: _plain(value) for name, value in row.items() if not is_at_level(name)}
        return cls.model_validate(own)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


SCHEMA_MODELS: Mapping[str, type[BaseModel]] = {"store-metadata": StoreMetadata, "record": Record}
"""Models whose JSON Schemas are kept as ``<name>.schema.json``."""


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of the store's metadata and of one record, by name."""
    return {name: json.loads(schema_text(model)) for name, model in SCHEMA_MODELS.items()}


def schema_text(model: type[BaseModel]) -> str:
    """JSON Schema of a model as the text of a file: sorted keys, final newline."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= model.model_json_schema()
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_schema(model: type[BaseModel], path: str | os.PathLike[str]) -> None:
    """Write a model's JSON Schema to a file.

    Raises
    ------
    OSError
        The file can't be written.
    """
    Path(path).write_text(schema_text(model), encoding="utf-8")
