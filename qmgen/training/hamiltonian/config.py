"""What the training of a network of Hamiltonians is told."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qmgen.configuration import read_yaml, validated
from qmgen.dataset.splits import check_fractions
from qmgen.dft.config import DFTConfig
from qmgen.molecules import ConformerConfig


class HamiltonianConfig(BaseModel):
    """A network of Hamiltonians and its training; the defaults suit some hundred molecules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Literal["energy", "fock"] = Field(
        "energy",
        description="energy is the Kohn-Sham energy of the predicted orbitals, which needs no "
        "labels; fock the squared error of the self-consistent Fock matrix, which each conformer "
        "is labelled with first.",
    )
    dft: DFTConfig = Field(
        DFTConfig(basis="sto-3g", grid_level=0, precision="float32"),
        description="Level of theory; precision float32 holds integrals in single precision.",
    )
    conformers: ConformerConfig = Field(
        ConformerConfig(per_molecule=1),
        description="Conformers of each molecule, or with fresh_conformers of each in each epoch.",
    )
    test_conformers: int = Field(
        1, ge=1, description="Conformers of each molecule of validation and test."
    )
    fresh_conformers: bool = Field(
        True,
        description="New conformers of the training molecules in each epoch, without repeats; "
        "otherwise the same ones. A geometry that the input gives stays as it is, but for "
        "conformers.rattle_angstrom.",
    )
    visits: int = Field(
        4,
        ge=1,
        description="Steps that a conformer's integrals are used for in an epoch.",
    )
    window: int = Field(
        64,
        ge=1,
        description="Conformers that those steps are drawn from, in random order; so many are in "
        "the memory of each process that makes them.",
    )
    cache_gib: float = Field(
        4.0,
        ge=0,
        allow_inf_nan=False,
        description="Memory for integrals of conformers that stay the same, GiB.",
    )
    split: Literal["molecule", "record"] = Field(
        "molecule",
        description="Whether all records of a molecule go to one split, or each by itself, as for "
        "frames of one trajectory.",
    )
    fractions: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="Shares of train, validation and test; their sum is 1."
    )
    train_records: int | None = Field(
        None,
        ge=1,
        description="Most records to train on, drawn by the seed; all of the split by default.",
    )

    representation: Literal["schnet", "painn"] = Field(
        "painn", description="Network that describes atoms in their surroundings."
    )
    n_atom_basis: int = Field(64, ge=2, description="Features an atom.")
    n_interactions: int = Field(3, ge=1, description="Interaction blocks.")
    n_rbf: int = Field(20, ge=2, description="Gaussians that expand a distance.")
    n_channels: int = Field(
        16, ge=1, description="Tensors of each degree and parity of a pair of atoms."
    )
    cutoff_angstrom: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Atoms farther apart don't interact, Angstrom."
    )

    epochs: int = Field(20, ge=1, description="Passes over the molecules.")
    batch_size: int = Field(8, ge=1, description="Conformers a step.")
    learning_rate: float = Field(
        2e-3,
        gt=0,
        allow_inf_nan=False,
        description="Largest step length of AdamW; it rises, and falls as a cosine to zero.",
    )
    warmup_steps: int = Field(50, ge=1, description="Steps in which it rises.")
    weight_decay: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay of AdamW."
    )
    gradient_clip: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Largest norm of a gradient."
    )
    stop_patience: int = Field(
        1000, ge=1, description="Epochs without a better validation error before training stops."
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of weights, splits, conformers, and their order."
    )
    num_workers: int = Field(
        0, ge=0, description="Processes that compute integrals beside the one that trains."
    )
    accelerator: str = Field(
        "cpu", description="Where the network is: cpu, gpu and so on, as Lightning names it."
    )

    @property
    def held_out(self) -> ConformerConfig:
        """How conformers of validation and test are made."""
        return self.conformers.model_copy(update={"per_molecule": self.test_conformers})

    @field_validator("fractions")
    @classmethod
    def _usable_fractions(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        check_fractions(value)
        return value


def load_hamiltonian_config(
    path: Path | None, overrides: dict[str, Any] | None = None
) -> HamiltonianConfig:
    """Read a training's configuration from YAML and apply what the command line says.

    Parameters
    ----------
    path : Path or None
        YAML file; None for the defaults.
    overrides : dict, optional
        Values that replace those of the file; None values are left out.

    Raises
    ------
    ConfigError
        The file can't be read, is no YAML, or holds an unknown or impossible value; the message
        names file and field.
    """
    values = {} if path is None else read_yaml(path)
    values.update({name: v for name, v in (overrides or {}).items() if v is not None})
    return validated(HamiltonianConfig, values, path, "hamiltonian-config")
