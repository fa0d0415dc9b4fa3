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
from qmgen.training.model import PropertyModel, build_schnet
from qmgen.training.standardise import Standardisation

KEY = "qmgen_model"
VERSION = 1
PREFIX = "model."
"""What Lightning puts before the names of the model's weights."""


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
        "versions": versions,
    }


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
        The file is missing, damaged, of another kind, or a newer qmgen wrote it.
    """
    path = Path(path)
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
    description = content[KEY]
    if description["version"] != VERSION:
        raise InputError(
            f"{path}: format {description['version']} of a model; this qmgen reads {VERSION}, "
            "use the qmgen that trained it"
        )
    try:
        config = TrainConfig.model_validate(description["config"])
        standardisation = Standardisation.from_dict(description["standardisation"])
        # Its random weights are overwritten, so they must not use up the caller's generator.
        with torch.random.fork_rng(devices=[]):
            model = build_schnet(config, standardisation, description["dataset"])
        weights = content["state_dict"]
        model.load_state_dict({k.removeprefix(PREFIX): v for k, v in weights.items()})
    except (ValidationError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path}: the model's weights and configuration don't fit together ({error}); train "
            "it again"
        ) from error
    return model.eval()
