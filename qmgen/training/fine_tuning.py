"""Starts a training from the weights of another."""

from pathlib import Path
from typing import Any

import torch

from qmgen.dataset import file_sha256
from qmgen.errors import ConfigError
from qmgen.training.checkpoint import load_model
from qmgen.training.config import TrainConfig
from qmgen.training.model import PropertyModel

_ARCHITECTURE = (
    "representation",
    "n_atom_basis",
    "n_filters",
    "n_interactions",
    "n_rbf",
    "cutoff_angstrom",
    "max_neighbors",
)


def load_initial(path: Path, config: TrainConfig) -> tuple[PropertyModel, dict[str, Any]]:
    """Load a model to start from.

    Parameters
    ----------
    path : Path
        ``model.ckpt`` of a training run.
    config : TrainConfig
        What is to be trained.

    Returns
    -------
    PropertyModel
        The model.
    dict
        Where it comes from: SHA-256 of the file, its targets, its training set, and the model that
        it was itself started from.

    Raises
    ------
    InputError
        The file can't be used.
    ConfigError
        The architectures differ.
    """
    model = load_model(path)
    differences = [
        f"{name} is {there!r} there and {here!r} here"
        for name in _ARCHITECTURE
        if (there := getattr(model.config, name)) != (here := getattr(config, name))
    ]
    if differences:
        raise ConfigError(
            f"can't start from {path}: {'; '.join(differences)}; give its configuration or another "
            "model"
        )
    origin = {
        "sha256": file_sha256(path),
        "targets": list(model.targets),
        "dataset": model.dataset,
        "initial": model.initial,
    }
    return model, origin


def copy_weights(source: PropertyModel, model: PropertyModel) -> None:
    """Give a model another's representation, and its readouts of targets that both have.

    The embedding has a vector for every element. Those of elements that `source` has not learnt
    are still random, as in a new model.
    """
    model.representation.load_state_dict(source.representation.state_dict())
    with torch.no_grad():
        for target, head in model.heads.items():
            if target in source.heads:
                head.load_state_dict(source.heads[target].state_dict())
