import hashlib

import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError, InputError
from qmgen.training import PropertyTask, load_model, train_model
from tests.training.synthetic import molecule


@pytest.fixture(scope="module")
def other_store(write):
    """Molecules with an element that the first training has not seen, and other gaps."""
    records = [molecule(i, seed=1) for i in range(30)]
    for record in records:
        record.z[record.z == 8] = 7
        record.conformers["gap"] += 0.2
        record.conformers["homo"] -= record.conformers["gap"] / 2
    return write(records)


@pytest.fixture(scope="module")
def config(small_config, trained):
    return small_config.model_copy(
        update={
            "targets": {"homo": 1.0, "gap": 1.0},
            "init_from": trained.checkpoint,
            "epochs": 2,
        }
    )


def _first_weights(store, out, config, monkeypatch):
    found = {}

    def look(self):
        found.update({name: w.clone() for name, w in self.model.state_dict().items()})
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(PropertyTask, "on_train_start", look)
        with pytest.raises(KeyError):
            train_model(store, out, config)
    return found


def test_weights_are_those_of_the_first_training(
    trained, other_store, config, tmp_path, monkeypatch
):
    found = _first_weights(other_store, tmp_path / "out", config, monkeypatch)
    source = load_model(trained.checkpoint).state_dict()
    assert all(torch.equal(found[name], weights) for name, weights in source.items())
    assert {name for name in found if name not in source} == {
        name.replace("gap", "homo") for name in source if name.startswith("heads.gap")
    }


def test_starts_better_than_from_nothing(trained, store, other_store, config, tmp_path):
    tuned = train_model(other_store, tmp_path / "tuned", config)
    fresh = train_model(
        other_store, tmp_path / "fresh", config.model_copy(update={"init_from": None})
    )
    assert tuned.errors["gap"].test_mae < 0.7 * fresh.errors["gap"].test_mae
    model = load_model(tuned.checkpoint)
    assert model.initial["sha256"] == hashlib.sha256(trained.checkpoint.read_bytes()).hexdigest()
    assert model.initial["targets"] == ["gap"]
    first = open_dataset(store).metadata.provenance.config_hash
    assert model.initial["dataset"]["config_hash"] == first
    assert model.initial["initial"] is None
    assert load_model(fresh.checkpoint).initial is None
    # Standardised by what it is tuned on, which has nitrogen and no oxygen.
    assert model.standardisation.elements == (1, 6, 7)
    before = load_model(trained.checkpoint).standardisation["gap"].mean
    assert model.standardisation["gap"].mean > before + 2.0


def test_other_sizes_are_named(store, config, tmp_path):
    wide = config.model_copy(update={"n_atom_basis": 32, "n_rbf": 5})
    with pytest.raises(ConfigError, match=r"n_atom_basis is 24 there and 32 here; n_rbf is 16"):
        train_model(store, tmp_path / "out", wide)
    missing = config.model_copy(update={"init_from": tmp_path / "missing.ckpt"})
    with pytest.raises(InputError, match=r"missing\.ckpt"):
        train_model(store, tmp_path / "out", missing)
    assert not (tmp_path / "out").exists()
