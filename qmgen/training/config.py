"""What a training run is told."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from qmgen.configuration import read_yaml, validated
from qmgen.training.splits import SplitKind
from qmgen.training.targets import TARGETS, Target


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plateau(_Frozen):
    """The rate drops when the validation error stops falling."""

    kind: Literal["plateau"] = Field("plateau", description="Which schedule this is.")
    patience: int = Field(
        8, ge=0, description="Epochs without a better validation error before the rate drops."
    )
    factor: float = Field(0.5, gt=0, lt=1, description="What the rate is then multiplied with.")


class WarmupDecay(_Frozen):
    """The rate rises linearly, then falls exponentially; both by steps."""

    kind: Literal["warmup_decay"] = Field("warmup_decay", description="Which schedule this is.")
    warmup_steps: int = Field(2500, ge=1, description="Steps of the linear rise.")
    warmup_from: float = Field(
        0.2, gt=0, le=1, description="Rate of the first step, as a part of the learning rate."
    )
    decay_factor: float = Field(0.96, gt=0, le=1, description="What the rate is multiplied with.")
    decay_steps: int = Field(
        9600, ge=1, description="Steps after which it is, counted from the first step."
    )


Schedule = Annotated[Plateau | WarmupDecay, Field(discriminator="kind")]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainConfig(_Frozen):
    """A network and its training; the defaults suit some thousand conformers on a laptop."""

    targets: dict[Target, Weight] = Field(
        {"gap": 1.0},
        min_length=1,
        description="Labels to learn, each with the weight of its loss. A loss is in units of the "
        "label's spread over the training split, so weights of 1 are a fair start. forces are "
        "minus the gradient of the predicted energy and need energy beside them.",
    )
    split: SplitKind = Field(
        "stored",
        description="The split that the store was written with, or scaffold: one in which all "
        "molecules of a Bemis-Murcko scaffold are in one split, the rare scaffolds in test.",
    )
    train_size: int | None = Field(
        None,
        ge=1,
        description="Most conformers of the training split to learn from, by whole molecules; all "
        "by default. With the same seed a smaller set is part of a larger one.",
    )
    train_molecules: int | None = Field(
        None, ge=1, description="The same by number of molecules, instead of train_size."
    )
    init_from: Path | None = Field(
        None,
        description="model.ckpt to start from: its representation, and its readouts of the "
        "targets that both have. A relative path in a file starts at the file's folder.",
    )

    representation: Literal["schnet", "painn"] = Field(
        "schnet", description="Network that describes atoms in their surroundings."
    )
    n_atom_basis: int = Field(64, ge=2, description="Features an atom.")
    n_filters: int | None = Field(
        None, ge=1, description="Filters of SchNet's convolutions; as n_atom_basis by default."
    )
    n_interactions: int = Field(3, ge=1, description="Interaction blocks.")
    n_rbf: int = Field(20, ge=2, description="Gaussians that expand a distance.")
    cutoff_angstrom: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Atoms farther apart don't interact, Angstrom."
    )
    max_neighbors: int | None = Field(
        None,
        ge=1,
        description="Nearest neighbours within the cutoff that act on an atom; all by default. "
        "Predictions jump where an atom's neighbours change places in that order.",
    )

    epochs: int = Field(100, ge=1, description="Most epochs; one is a pass over the training set.")
    epoch_steps: int | None = Field(
        None,
        ge=1,
        description="Steps of an epoch instead, for large training sets: after each epoch the "
        "model is validated and the state to resume from is written.",
    )
    batch_size: int = Field(32, ge=1, description="Conformers a step.")
    learning_rate: float = Field(
        1e-3, gt=0, allow_inf_nan=False, description="Step length of AdamW before the schedule."
    )
    weight_decay: float = Field(
        1e-4, ge=0, allow_inf_nan=False, description="Decoupled weight decay of AdamW."
    )
    schedule: Schedule = Field(Plateau(), description="How the learning rate changes.")
    loss: Literal["l1", "mse"] = Field(
        "l1", description="Absolute or squared error of the standardised targets."
    )
    gradient_clip: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Largest norm of a gradient."
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, which is then what is validated "
        "and kept; none by default.",
    )
    stop_patience: int = Field(
        25, ge=1, description="Epochs without a better validation error before training stops."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed of weights, of the order of rows and of the choice of a smaller "
        "training set.",
    )

    accelerator: str = Field(
        "auto", description="Where to train: auto, cpu, gpu, mps and so on, as Lightning names it."
    )
    precision: Literal[32, "bf16-mixed", "16-mixed"] = Field(
        32, description="float32, or mixed with a 16-bit type where the accelerator has it."
    )
    num_workers: int = Field(
        0, ge=0, description="Processes that prepare batches beside the one that trains."
    )
    in_memory_gib: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="Geometries are held in memory up to this size, GiB; a larger dataset is read "
        "anew each epoch in shuffled blocks.",
    )
    tensorboard: bool = Field(False, description="Also write the errors for TensorBoard.")

    @field_validator("targets")
    @classmethod
    def _in_order(cls, value: dict[Target, float]) -> dict[Target, float]:
        if "forces" in value and "energy" not in value:
            raise ValueError(
                "forces are the gradient of the energy: add energy, with a small weight if only "
                "forces matter"
            )
        # One order, so that the order in a file has no influence on the weights.
        return {target: value[target] for target in TARGETS if target in value}

    @model_validator(mode="after")
    def _no_contradiction(self) -> "TrainConfig":
        if self.train_size is not None and self.train_molecules is not None:
            raise ValueError("give train_size or train_molecules, not both")
        if self.representation == "painn" and self.n_filters is not None:
            raise ValueError("n_filters is a size of schnet: leave it out, or choose schnet")
        return self


def load_train_config(path: Path | None, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a training's configuration from YAML and apply what the command line says.

    Parameters
    ----------
    path : Path or None
        YAML file; None for the defaults. `init_from` in it is relative to the file's folder.
    overrides : dict, optional
        Values that replace those of the file; None values are left out.

    Raises
    ------
    ConfigError
        The file can't be read, is no YAML, or holds an unknown or impossible value; the message
        names file and field.
    """
    values = {} if path is None else read_yaml(path)
    if path is not None and isinstance(values.get("init_from"), str):
        values["init_from"] = str(path.parent / values["init_from"])
    values.update({name: v for name, v in (overrides or {}).items() if v is not None})
    return validated(TrainConfig, values, path, "train-config")
