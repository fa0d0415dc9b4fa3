"""What a training run is told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Target = Literal["gap", "homo", "lumo", "energy"]


class TrainConfig(BaseModel):
    """A SchNet and its training; the defaults suit some thousand conformers on a laptop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target = Field("gap", description="Label to learn; stored in Hartree, learnt in eV.")
    n_atom_basis: int = Field(64, ge=2, description="Features an atom.")
    n_interactions: int = Field(3, ge=1, description="Interaction blocks.")
    n_rbf: int = Field(20, ge=2, description="Gaussians that expand a distance.")
    cutoff_angstrom: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Atoms farther apart don't interact, Angstrom."
    )
    epochs: int = Field(100, ge=1, description="Most passes over the training split.")
    batch_size: int = Field(32, ge=1, description="Conformers a step.")
    learning_rate: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Initial step length of AdamW."
    )
    weight_decay: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay of AdamW."
    )
    loss: Literal["l1", "mse"] = Field(
        "l1", description="Absolute or squared error of the standardised target."
    )
    gradient_clip: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Largest norm of a gradient."
    )
    lr_patience: int = Field(
        8, ge=0, description="Epochs without a better validation error before the rate drops."
    )
    lr_factor: float = Field(0.5, gt=0, lt=1, description="What the rate is then multiplied with.")
    stop_patience: int = Field(
        25, ge=1, description="Epochs without a better validation error before training stops."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of weights and of the order of rows.")
    num_workers: int = Field(
        0, ge=0, description="Processes that prepare batches beside the one that trains."
    )
    accelerator: str = Field(
        "auto", description="Where to train: auto, cpu, gpu, mps and so on, as Lightning names it."
    )
    in_memory_gib: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="Geometries are held in memory up to this size, GiB; a larger dataset is read "
        "anew each epoch in shuffled blocks.",
    )
