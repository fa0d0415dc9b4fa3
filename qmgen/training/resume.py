"""Whether a folder has a training to go on with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qmgen.errors import ConfigError, InputError, StoreMismatchError
from qmgen.training.checkpoint import KEY, read_checkpoint
from qmgen.training.config import TrainConfig
from qmgen.training.recorder import MODEL_FILE, STATE_FILE, Recorder

CONFIG_FILE = "config.json"
RESULT_FILE = "metrics.json"


@dataclass(frozen=True)
class Unfinished:
    """A training that was interrupted after at least one epoch.

    Attributes
    ----------
    state : Path
        Checkpoint of its last epoch.
    recorded : dict
        State of its `Recorder`.
    initial : dict or None
        The model that its weights began with, as in the checkpoint.
    """

    state: Path
    recorded: dict[str, Any]
    initial: dict[str, Any] | None


def find_unfinished(out: Path, config: TrainConfig, origin: dict[str, Any]) -> Unfinished | None:
    """Look for a training of this configuration on this store.

    Parameters
    ----------
    out : Path
        Output folder, which may not exist.
    config : TrainConfig
        What is to be trained.
    origin : dict
        What the training set is, as in a checkpoint.

    Returns
    -------
    Unfinished or None
        None if nothing stands in the way of a start.

    Raises
    ------
    InputError
        The folder has a complete training, or a model of unknown origin.
    ConfigError
        It has an interrupted training of another configuration.
    StoreMismatchError
        It has an interrupted training on another store.
    """
    model, state, result = (out / name for name in (MODEL_FILE, STATE_FILE, RESULT_FILE))
    if result.exists() or (model.exists() and not (out / CONFIG_FILE).exists()):
        raise InputError(f"{model} exists; choose another output or delete it")
    if not model.exists() and not state.exists():
        return None
    _check_config(out, config)
    if not state.exists():
        return None  # killed while the first epoch was taken down
    content = read_checkpoint(state)
    description = content[KEY]
    if description["dataset"] != origin:
        raise StoreMismatchError(
            f"{out} has an interrupted training on another store; give that one, or choose another "
            "output"
        )
    return Unfinished(state, content["callbacks"][Recorder.__name__], description["initial"])


def _check_config(out: Path, config: TrainConfig) -> None:
    path = out / CONFIG_FILE
    try:
        before = TrainConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{out} has an interrupted training and {path.name} can't be read ({error}); choose "
            "another output"
        ) from error
    old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
    if changes := [
        f"{name} was {old[name]!r}, now {new[name]!r}" for name in old if old[name] != new[name]
    ]:
        raise ConfigError(
            f"{out} has an interrupted training of another configuration ({'; '.join(changes)}); "
            "give the same to go on, or choose another output"
        )
