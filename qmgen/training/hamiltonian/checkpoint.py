"""The file of a trained network of Hamiltonians."""

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from qmgen.errors import InputError
from qmgen.training.checkpoint import KEY, VERSION, read_checkpoint
from qmgen.training.hamiltonian.config import HamiltonianConfig
from qmgen.training.hamiltonian.model import HamiltonianModel

KIND = "hamiltonian"


def describe_hamiltonian(
    model: HamiltonianModel, dataset: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """Give all but the weights, as plain values.

    Parameters
    ----------
    model : HamiltonianModel
        Model.
    dataset : dict
        What it is trained on.
    versions : dict of str to str
        Versions of the packages that train it.
    """
    return {
        "version": VERSION,
        "kind": KIND,
        "config": model.config.model_dump(mode="json"),
        "elements": list(model.elements),
        "dataset": dataset,
        "initial": None,
        "versions": versions,
    }


def load_hamiltonian(path: str | os.PathLike[str]) -> HamiltonianModel:
    """Load a trained network of Hamiltonians on the CPU, ready to predict.

    Parameters
    ----------
    path : path
        ``model.ckpt`` of ``qmgen train --loss dft``. Only plain values and tensors are unpickled.

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or another qmgen wrote it.
    """
    content = read_checkpoint(Path(path))
    description = content[KEY]
    if description.get("kind") != KIND:
        raise InputError(
            f"{path} predicts labels, not Hamiltonians; give the model.ckpt of "
            "`qmgen train --loss dft`"
        )
    try:
        config = HamiltonianConfig.model_validate(description["config"])
        # Its random weights are overwritten, so they must not use up the caller's generator.
        with torch.random.fork_rng(devices=[]):
            model = HamiltonianModel(config, tuple(description["elements"]))
        model.load_state_dict(content["state_dict"])
    except (ValidationError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: the model's weights and configuration don't fit together ({error}); train "
            "it again"
        ) from error
    return model.eval()
