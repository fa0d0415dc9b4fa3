"""What the training of a network on the Kohn-Sham energy is told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qmgen.dft.config import DFTConfig
from qmgen.molecules import ConformerConfig


class DensityConfig(BaseModel):
    """A network of Hamiltonians and its training; defaults suit some hundred molecules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dft: DFTConfig = Field(
        DFTConfig(basis="sto-3g", grid_level=0, precision="float32"),
        description="Level of theory of the energy; float32 holds integrals in single precision.",
    )
    conformers: ConformerConfig = Field(
        ConformerConfig(per_molecule=1), description="Conformers of each molecule an epoch."
    )
    fresh_conformers: bool = Field(
        True,
        description="New conformers in each epoch; otherwise the same, whose integrals are kept.",
    )
    visits: int = Field(
        4, ge=1, description="Steps in which a conformer's integrals are used before new ones."
    )
    window: int = Field(64, ge=1, description="Conformers whose integrals are at hand at a time.")
    representation: Literal["schnet", "painn"] = Field("painn", description="From schnetpack.")
    n_atom_basis: int = Field(64, ge=2, description="Features an atom.")
    n_interactions: int = Field(3, ge=1, description="Interaction blocks.")
    n_rbf: int = Field(20, ge=2, description="Gaussians that expand a distance.")
    n_channels: int = Field(16, ge=1, description="Tensors of each degree of a pair of atoms.")
    cutoff_angstrom: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Atoms farther apart don't interact, Angstrom."
    )
    epochs: int = Field(20, ge=1, description="Passes over the molecules.")
    batch_size: int = Field(8, ge=1, description="Conformers a step.")
    learning_rate: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Largest step length of AdamW."
    )
    warmup_steps: int = Field(50, ge=0, description="Steps in which it rises.")
    weight_decay: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay of AdamW."
    )
    gradient_clip: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Largest norm of a gradient."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights, conformers, and order.")
