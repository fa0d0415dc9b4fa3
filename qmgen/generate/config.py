"""Configuration of a run, read from YAML and checked before anything starts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from dask.utils import parse_bytes
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from qmgen.configuration import read_yaml, validated
from qmgen.dataset.schema import CONFORMER, OPTIONAL
from qmgen.dataset.splits import check_fractions
from qmgen.dft import DFTConfig
from qmgen.dft.functionals import get_functional
from qmgen.errors import ConfigError
from qmgen.molecules import ConformerConfig

FORCE_FIELD_NOTE = (
    "Labels are energies and forces of the force field MMFF94, which has no orbitals; the zero of "
    "its energy is that of no strain, so energies of different molecules can't be compared."
)
# What a worker takes with its imports, before it labels anything.
_LEAST_MEMORY = 256 << 20
# Coarser grids than this give energies that are useful and forces that are less so.
_GRID_LEVEL_OF_FORCES = 3


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitConfig(_Frozen):
    """How molecules are shared out among training, validation and test."""

    seed: int = Field(0, description="Seed of the split.")
    fractions: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="Shares of train, validation and test; their sum is 1."
    )

    @field_validator("fractions")
    @classmethod
    def _usable_fractions(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        check_fractions(value)
        return value


class LabelConfig(_Frozen):
    """Labels beyond those that every dataset has."""

    forces: bool = Field(False, description="Nuclear forces, Hartree/Bohr.")
    forces_grid_response: bool = Field(
        False,
        description="Let the integration grid move with the nuclei: forces are then the exact "
        "derivative of the energy on this grid, and sum up to zero.",
    )
    dispersion: Literal["d3bj", "d4"] | None = Field(
        None,
        description="Dispersion energy (with forces: its forces, too) by D3(BJ) or D4 as labels "
        "of their own, never added to the others; needs the extra dispersion. b3lyp5 and b3lypg "
        "take the parameters of b3lyp.",
    )
    density_matrix: bool = Field(
        False, description="Density matrix of each conformer: 4 nao (nao + 1) bytes."
    )
    fock_matrix: bool = Field(
        False, description="Fock (Kohn-Sham) matrix of each conformer: 4 nao (nao + 1) bytes."
    )

    @model_validator(mode="after")
    def _grid_response_is_used(self) -> "LabelConfig":
        if self.forces_grid_response and not self.forces:
            raise ValueError(
                "forces_grid_response is only used with forces: set that, or leave "
                "forces_grid_response out"
            )
        return self

    @property
    def optional_labels(self) -> tuple[str, ...]:
        """Names of the dataset's optional arrays that are asked for."""
        asked = {
            "forces": self.forces,
            "dispersion_energy": self.dispersion is not None,
            "dispersion_forces": self.dispersion is not None and self.forces,
            "density_matrix": self.density_matrix,
            "fock_matrix": self.fock_matrix,
        }
        return tuple(name for name, wanted in asked.items() if wanted)


class SlurmConfig(_Frozen):
    """Jobs that dask-jobqueue submits; each runs one or more workers."""

    jobs: int = Field(1, ge=1, description="Number of Slurm jobs at a time.")
    fewest_jobs: int | None = Field(
        None,
        ge=0,
        description="Let the number of jobs follow the work that is left, between this and `jobs`; "
        "constant if null.",
    )
    queue: str | None = Field(None, description="Partition; the cluster's default if null.")
    account: str | None = Field(None, description="Account to charge.")
    cores: int = Field(16, ge=1, description="Cores of a job.")
    processes: int = Field(16, ge=1, description="Workers of a job; they share its cores.")
    memory: str = Field("64GB", description="Memory of a job.")
    walltime: str = Field("24:00:00", description="Time limit of a job, hours:minutes:seconds.")
    interface: str | None = Field(None, description="Network interface, such as ib0.")
    job_extra_directives: tuple[str, ...] = Field((), description="Further #SBATCH lines.")
    job_script_prologue: tuple[str, ...] = Field(
        (), description="Shell lines before the workers start, such as loading an environment."
    )


class StorageConfig(_Frozen):
    """How exact the dataset keeps labels."""

    precision: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {},
        description="Largest error, in the unit of the dataset, by which a label may be rounded so "
        "that it compresses better: {pos: 1e-5, energy: 1e-9}, say. Positions are rounded before "
        "they are labelled. Labels that are not named are kept to the last bit.",
    )

    @field_validator("precision")
    @classmethod
    def _labels_can_be_rounded(cls, value: dict[str, float]) -> dict[str, float]:
        labels = (*CONFORMER.values(), *OPTIONAL.values())
        usable = sorted(field.name for field in labels if field.dtype == "float64")
        unknown = sorted(set(value) - set(usable))
        if unknown:
            names = ", ".join(usable)
            raise ValueError(f"no label {unknown[0]!r} can be rounded; there are {names}")
        return dict(sorted(value.items()))


class ClusterConfig(_Frozen):
    """Where the work is done; it never changes a result."""

    workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes on this machine; one a core by default. With `scheduler`, "
        "how many workers to have work for where more may join than are there at the start.",
    )
    scheduler: str | None = Field(
        None, description="Address of a running Dask scheduler, tcp://host:port."
    )
    slurm: SlurmConfig | None = Field(None, description="Start workers as Slurm jobs.")
    worker_threads: int | None = Field(
        None,
        ge=1,
        description="Cores a worker uses; by default this machine's cores shared out among its "
        "workers, and 1 elsewhere.",
    )
    worker_memory: str | None = Field(
        None,
        description="Memory of a worker process on this machine, such as 4GB; one that takes more "
        "is ended and its batch given to another. No limit but the machine's by default.",
    )
    parts: str | None = Field(
        None,
        description="Folder, or URL such as s3://bucket/parts, that this process and all workers "
        "reach: workers put finished batches there themselves, and the run removes them when its "
        "dataset is there. By default they come to this process, which writes them.",
    )
    batch_hours: float = Field(
        6.0,
        gt=0,
        allow_inf_nan=False,
        description="A worker that takes longer over a batch is ended and the batch given to "
        "another; a molecule that ends worker after worker is recorded as a failure.",
    )
    silent_minutes: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="A worker on this machine or of a Slurm job that gives no sign of life for so "
        "long is replaced.",
    )

    @field_validator("worker_memory")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        if value is not None and parse_bytes(value) < _LEAST_MEMORY:
            raise ValueError(f"a worker takes at least {_LEAST_MEMORY >> 20} MiB, not {value}")
        return value


class RunConfig(_Frozen):
    """A whole run. All but ``cluster`` determines the content of the dataset."""

    seed: int = Field(0, ge=0, description="Seed that every molecule's own seed derives from.")
    method: Literal["dft", "mmff94"] = Field(
        "dft",
        description="What labels conformers: dft, at the level of theory of the section dft, or "
        "the force field MMFF94, which has energies and forces only and costs next to nothing.",
    )
    conformers: ConformerConfig = Field(ConformerConfig(), description="Conformer generation.")
    dft: DFTConfig = Field(DFTConfig(), description="Level of theory.")
    labels: LabelConfig = Field(LabelConfig(), description="Labels beyond the usual ones.")
    storage: StorageConfig = Field(StorageConfig(), description="How exact labels are kept.")
    split: SplitConfig = Field(SplitConfig(), description="Training, validation and test.")
    batch_conformers: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Conformers a batch: the unit of work that is committed or done again.",
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="Where the work is done.")

    @model_validator(mode="after")
    def _labels_of_the_method(self) -> "RunConfig":
        unsuited = set(self.labels.optional_labels) - {"forces"}
        if self.method == "mmff94" and (unsuited or self.labels.forces_grid_response):
            raise ValueError("method mmff94 has no labels but energies and forces")
        return self

    def science(self) -> dict[str, Any]:
        """All that determines the dataset's content, as plain values for provenance."""
        # Configurations from before there was a choice of methods say nothing about it.
        unused = {"cluster", "method" if self.method == "dft" else "dft"}
        if not self.storage.precision:
            unused.add("storage")
        return self.model_dump(mode="json", exclude=unused)

    def notes(self) -> tuple[str, ...]:
        """What whoever uses the labels should know; kept in the dataset's metadata."""
        if self.method == "mmff94":
            return (FORCE_FIELD_NOTE,)
        level = self.dft.grid_level
        on_grid = bool(get_functional(self.dft.functional).terms)
        if self.labels.forces and on_grid and level < _GRID_LEVEL_OF_FORCES:
            return (
                f"Forces are computed on integration grid level {level}. On level 0 their "
                "components are off by up to 0.4 eV/Angstrom against level 3; use grid level "
                f"{_GRID_LEVEL_OF_FORCES} or finer where forces matter.",
            )
        return ()


Overrides = dict[str, dict[str, Any]]


def load_config(path: Path | None, overrides: Overrides | None = None) -> RunConfig:
    """Read a run's configuration from YAML and apply what the command line says.

    Parameters
    ----------
    path
        YAML file, or None for the defaults.
    overrides
        Values by section (``""`` is the top level), which replace those of the file; None values
        are left out.

    Raises
    ------
    ConfigError
        The file can't be read, is no YAML, or holds an unknown or impossible value; the message
        names file, place and remedy.
    """
    values: dict[str, Any] = {} if path is None else read_yaml(path)
    where = "command line" if path is None else str(path)
    for section, options in (overrides or {}).items():
        given = {name: value for name, value in options.items() if value is not None}
        if not section:
            values.update(given)
        elif given:
            current = values.get(section) or {}
            if not isinstance(current, dict):
                raise ConfigError(f"{where}: {section} must be a mapping, not {current!r}")
            values[section] = {**current, **given}
    return validated(RunConfig, values, path, "run-config")
