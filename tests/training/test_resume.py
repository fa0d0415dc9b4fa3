"""A training that is interrupted at any moment comes to the same end."""

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError, InputError, StoreMismatchError
from qmgen.training import PropertyTask, load_model, train_model
from qmgen.training import recorder as recorder_module
from tests.training.synthetic import molecule


class KilledError(Exception):
    """The end of a process, as far as files show it."""


@pytest.fixture(scope="module")
def tiny_store(write):
    return write([molecule(i, pairs=True) for i in range(20)], optional_labels=("forces",))


@pytest.fixture(scope="module", params=["plateau", "streamed", "short epochs"])
def whole(request, tiny_store, small_config, tmp_path_factory):
    """A configuration, and its training without interruption."""
    changes = {
        "plateau": {
            "targets": {"gap": 1.0},
            "schedule": {"kind": "plateau", "patience": 0},
            "stop_patience": 2,
            "learning_rate": 0.1,
            "epochs": 50,
        },
        "streamed": {
            "targets": {"energy": 1.0, "forces": 3.0},
            "schedule": {"kind": "warmup_decay", "warmup_steps": 10, "decay_steps": 5},
            "in_memory_gib": 0.0,
            "ema_decay": 0.9,
        },
        "short epochs": {"targets": {"dipole": 1.0}, "epoch_steps": 3, "batch_size": 7},
    }[request.param]
    config = type(small_config).model_validate(
        small_config.model_dump() | {"n_atom_basis": 8, "n_rbf": 5, "epochs": 6} | changes
    )
    return config, train_model(tiny_store, tmp_path_factory.mktemp("whole") / "out", config)


def _kill_at(monkeypatch, owner, name, count):
    """Let the count-th call raise; the ones before it are done."""
    original, calls = getattr(owner, name), iter(range(count))

    def killed(*arguments):
        if next(calls, None) is None:
            raise KilledError
        return original(*arguments)

    monkeypatch.setattr(owner, name, _step(killed) if owner is PropertyTask else killed)


def _step(killed):
    # Lightning looks at the number of arguments.
    def step(self, batch):
        return killed(self, batch)

    return step


def _same(one, two):
    assert one.metrics_csv.read_bytes() == two.metrics_csv.read_bytes()
    assert one.errors == two.errors
    assert (one.best_epoch, one.epochs, one.steps) == (two.best_epoch, two.epochs, two.steps)
    assert one.metrics_json.read_bytes() == two.metrics_json.read_bytes()
    weights = load_model(two.checkpoint).state_dict()
    for name, tensor in load_model(one.checkpoint).state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert {path.name for path in one.plot.parent.iterdir()} == {
        path.name for path in two.plot.parent.iterdir()
    }


def test_the_settings_do_something(whole):
    config, result = whole
    if config.epoch_steps:
        assert (result.steps, result.epochs) == (18, 6)
        return
    if config.stop_patience == 2:
        assert result.epochs == result.best_epoch + 2 < config.epochs
    with result.metrics_csv.open(newline="") as stream:
        rates = {float(row["learning_rate"]) for row in csv.DictReader(stream)}
    assert len(rates) > 1


def test_interrupted_anywhere(whole, tiny_store, tmp_path, monkeypatch):
    config, expected = whole
    steps = expected.steps // expected.epochs
    out = tmp_path / "out"
    moments = [
        (PropertyTask, "training_step", steps // 2),  # in the first epoch
        (recorder_module, "save_model", 0),  # the log has an epoch that nothing else has
        (recorder_module, "write_in_one_go", 0),  # the model, too
        (os, "fsync", 1),  # the log, and the model or the state is being written
        (PropertyTask, "training_step", steps + 1),
        (PropertyTask, "validation_step", 0),
        (PropertyTask, "test_step", 0),  # everything is trained
    ]
    for owner, name, count in moments:
        with monkeypatch.context() as patch:
            _kill_at(patch, owner, name, count)
            with pytest.raises(KilledError):
                train_model(tiny_store, out, config)
    _same(train_model(tiny_store, out, config), expected)


_KILLED = """
import os, signal, sys
from qmgen.training import PropertyTask, TrainConfig, train_model

number, store, out, config = sys.argv[1:]
step = PropertyTask.training_step

def killed(self, batch):
    if self.global_step == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)

PropertyTask.training_step = killed
train_model(store, out, TrainConfig.model_validate_json(config))
"""


@pytest.mark.parametrize("whole", ["short epochs"], indirect=True)
def test_killed(whole, tiny_store, tmp_path):
    config, expected = whole
    step = 3 * expected.steps // expected.epochs + 1
    arguments = [str(step), str(tiny_store), str(tmp_path / "out"), config.model_dump_json()]
    # A process of its own: a forked one would lack this one's threads.
    ended = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False)
    assert ended.returncode == -signal.SIGKILL
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "costs.csv", "last.ckpt", "metrics.csv", "model.ckpt"}
    _same(train_model(tiny_store, tmp_path / "out", config), expected)


def test_only_the_same_training_goes_on(whole, tiny_store, store, tmp_path, monkeypatch):
    config, expected = whole
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _kill_at(patch, PropertyTask, "training_step", expected.steps // expected.epochs)
        with pytest.raises(KilledError):
            train_model(tiny_store, out, config)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = config.model_copy(update={"seed": 99})
    with pytest.raises(ConfigError, match=r"another configuration \(seed was 1, now 99"):
        train_model(tiny_store, out, other)
    if "forces" not in config.targets:
        with pytest.raises(StoreMismatchError, match="on another store"):
            train_model(store, out, config)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert len(open_dataset(store)) != len(open_dataset(tiny_store))
    (out / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json can't be read"):
        train_model(tiny_store, out, config)


def test_a_foreign_model_is_not_touched(whole, tiny_store, tmp_path):
    config, _ = whole
    (tmp_path / "model.ckpt").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; choose another output"):
        train_model(tiny_store, tmp_path, config)
    assert (tmp_path / "model.ckpt").read_bytes() == b"mine"
