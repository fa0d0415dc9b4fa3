"""The file of a trained model: weights, configuration and origin, and no code."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from qmgen.errors import InputError
from qmgen.training.config import TrainConfig
from qmgen.training.files import write_in_one_go
from qmgen.training.model import PropertyModel, build_model
from qmgen.training.standardise import Standardisation

KEY = "qmgen_model"
VERSION = 2


def describe_model(model: PropertyModel, versions: dict[str, str]) -> dict[str, Any]:
    """Give all but the weights, as plain values.

    Parameters
    ----------
    model : PropertyModel
        Model.
    versions : dict of str to str
        Versions of the packages that trained it.
    """
    return {
        "version": VERSION,
        "config": model.config.model_dump(mode="json"),
        "standardisation": model.standardisation.as_dict(),
        "dataset": model.dataset,
        "initial": model.initial,
        "versions": versions,
    }


def save_model(
    path: Path, weights: dict[str, torch.Tensor], model: PropertyModel, versions: dict[str, str]
) -> None:
    """Write a model that stands alone, in one go.

    Parameters
    ----------
    path : Path
        File to write or replace.
    weights : dict of str to Tensor
        What the model is to have: its own state or an average of it.
    model : PropertyModel
        All but the weights.
    versions : dict of str to str
        Versions of the packages that trained it.
    """
    content = {"state_dict": weights, KEY: describe_model(model, versions)}
    write_in_one_go(path, lambda part: torch.save(content, part))


def load_model(path: str | os.PathLike[str]) -> PropertyModel:
    """Load a trained model on the CPU, ready to predict.

    Parameters
    ----------
    path : path
        ``model.ckpt`` of a training run. Only plain values and tensors are unpickled.

    Returns
    -------
    PropertyModel
        In evaluation mode.

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or another qmgen wrote it.
    """
    path = Path(path)
    content = read_checkpoint(path)
    description = content[KEY]
    try:
        config = TrainConfig.model_validate(description["config"])
        standardisation = Standardisation.from_dict(description["standardisation"])
        # Its random weights are overwritten, so they must not use up the caller's generator.
        with torch.random.fork_rng(devices=[]):
            model = build_model(
                config, standardisation, description["dataset"], description["initial"]
            )
        model.load_state_dict(content["state_dict"])
    except (ValidationError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: the model's weights and configuration don't fit together ({error}); train "
            "it again"
        ) from error
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that a training wrote, a model or a state, onto the CPU.

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or another qmgen wrote it.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the model.ckpt of a training run")
    damaged = f"{path} is damaged or no trained model; give the model.ckpt of a training run"
    try:
        with path.open("rb") as stream:
            # torch takes any other file for a pickle of old, and fails in as many ways.
            if not zipfile.is_zipfile(stream):
                raise InputError(damaged)
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"can't read the model {path}: {error.strerror or error}") from error
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(damaged) from error
    if not isinstance(content, dict) or KEY not in content:
        raise InputError(f"{path} is no model of qmgen; give the model.ckpt of a training run")
    if (version := content[KEY]["version"]) != VERSION:
        raise InputError(
            f"{path}: format {version} of a model; this qmgen reads {VERSION}, use the qmgen that "
            "trained it"
        )
    return content
