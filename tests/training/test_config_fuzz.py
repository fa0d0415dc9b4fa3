"""Whatever a training's configuration holds, reading it gives one or one clear error."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from qmgen.training import TrainConfig, load_train_config
from qmgen.training.hamiltonian.config import HamiltonianConfig, load_hamiltonian_config
from tests.fuzzing import damaged_json, fuzz, or_refused

_TRAIN = TrainConfig(targets={"energy": 1.0}).model_dump(mode="json")
_HAMILTONIAN = HamiltonianConfig().model_dump(mode="json")


def check(values: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        for load in (load_train_config, load_hamiltonian_config):
            or_refused(path, partial(load, path))


test_quick, test_slow = fuzz(check, damaged_json(_TRAIN))
test_hamiltonian_quick, test_hamiltonian_slow = fuzz(check, damaged_json(_HAMILTONIAN))
