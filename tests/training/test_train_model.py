import csv
import json
import signal

import numpy as np
import pytest
import torch
from pyscf.data import nist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError, InputError, StoreError
from qmgen.training import PropertyTask, TrainConfig, load_model, predict_file, train_model
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE
from tests.training.synthetic import molecule

FILES = {
    *("model.ckpt", "config.json", "metrics.csv", "costs.csv", "metrics.json"),
    "learning_curve.png",
}


def _mae(rows, target):
    errors = [np.abs(row.predicted[target] - row.reference[target]).ravel() for row in rows]
    return np.concatenate(errors).mean()


def _quick(config, **changes):
    return config.model_copy(update={"epochs": 2, **changes})


def test_beats_the_mean_on_unseen_molecules(trained, store):
    rows = list(predict_file(trained.checkpoint, store, split="test"))
    dataset = open_dataset(store)
    gap_ev = dataset.column("gap", dataset.indices("test")) * EV_PER_HARTREE
    train_ev = dataset.column("gap", dataset.indices("train")) * EV_PER_HARTREE
    np.testing.assert_allclose([row.reference["gap"] for row in rows], gap_ev, rtol=1e-14)
    mae_ev = _mae(rows, "gap")
    found = trained.errors["gap"]
    baseline_ev = np.abs(gap_ev - train_ev.mean()).mean()
    assert mae_ev < 0.5 * baseline_ev
    assert (found.unit, found.composition_mae) == ("eV", None)
    assert found.baseline_mae == pytest.approx(baseline_ev)
    # float32 rounding of errors of order 1 eV
    assert found.test_mae == pytest.approx(mae_ev, rel=1e-4)


def test_files(trained, store, small_config):
    out = trained.checkpoint.parent
    assert {path.name for path in out.iterdir()} == FILES
    assert trained.plot.read_bytes().startswith(b"\x89PNG")
    assert type(small_config).model_validate_json(trained.config_json.read_text()) == small_config
    metrics = json.loads(trained.metrics_json.read_text())
    assert metrics["errors"]["gap"] == vars(trained.errors["gap"])
    assert metrics["train"] == vars(trained.train)
    config_hash = open_dataset(store).metadata.provenance.config_hash
    assert metrics["dataset_config_hash"] == config_hash
    model = load_model(trained.checkpoint)
    assert model.dataset["config_hash"] == config_hash
    assert model.config == small_config


def test_the_checkpoint_is_the_epoch_of_lowest_validation_error(trained, store):
    with trained.metrics_csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == list(range(1, trained.epochs + 1))
    errors = {int(row["epoch"]): float(row["val_gap_mae_ev"]) for row in rows}
    assert min(errors, key=errors.get) == trained.best_epoch
    assert errors[trained.best_epoch] == trained.errors["gap"].val_mae
    predicted = list(predict_file(trained.checkpoint, store, split="val"))
    assert _mae(predicted, "gap") == pytest.approx(trained.errors["gap"].val_mae, rel=1e-4)
    steps = -(-trained.train.conformers // 16)
    assert trained.steps == int(rows[-1]["step"]) == steps * trained.epochs
    scale_ev = load_model(trained.checkpoint).standardisation["gap"].scale
    assert trained.val_error == pytest.approx(trained.errors["gap"].val_mae / scale_ev)


def test_sizes(trained, store):
    dataset = open_dataset(store)
    for split in ("train", "val", "test"):
        rows = dataset.indices(split)
        size = getattr(trained, split)
        assert (size.conformers, size.unseen, size.unlabelled) == (len(rows), 0, 0)
        assert size.molecules == len(np.unique(dataset.column("molecule", rows)))


@pytest.mark.parametrize(("in_memory_gib", "num_workers"), [(2.0, 1), (0.0, 0)])
def test_same_seed_same_result(store, small_config, tmp_path, in_memory_gib, num_workers):
    config = _quick(small_config, in_memory_gib=in_memory_gib, epochs=3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = train_model(store, tmp_path / "one", config)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    changed = config.model_copy(update={"num_workers": num_workers})
    two = train_model(store, tmp_path / "two", changed)
    other = train_model(store, tmp_path / "other", config.model_copy(update={"seed": 9}))
    assert one.errors == two.errors
    assert other.errors != one.errors
    weights = load_model(two.checkpoint).state_dict()
    for name, tensor in load_model(one.checkpoint).state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_energy_is_explained_by_composition(store, small_config, tmp_path):
    config = _quick(small_config, targets={"energy": 1.0}, loss="mse")
    found = train_model(store, tmp_path / "out", config).errors["energy"]
    assert found.composition_mae < 1e-6  # float64 rounding of 10 keV
    assert found.baseline_mae > 100


@pytest.mark.parametrize("representation", ["schnet", "painn"])
def test_several_targets_are_learnt(force_store, small_config, tmp_path, representation):
    targets = {"dipole": 1.0, "gap": 1.0, "forces": 5.0, "energy": 0.1}
    config = _quick(
        small_config,
        targets=TrainConfig(targets=targets).targets,
        representation=representation,
        epochs=15,
        ema_decay=0.9,
        learning_rate=1e-2,
    )
    result = train_model(force_store, tmp_path / "out", config)
    assert list(result.errors) == ["energy", "forces", "gap", "dipole"]
    units = [errors.unit for errors in result.errors.values()]
    assert units == ["eV", "eV/Angstrom", "eV", "Debye"]
    rows = list(predict_file(result.checkpoint, force_store, split="test"))
    test = open_dataset(force_store)
    test = test.batch(test.indices("test"))
    zero = {
        "forces": np.abs(test["forces"]).mean() * EV_PER_HARTREE / ANGSTROM_PER_BOHR,
        "dipole": np.abs(test["dipole"]).mean() * nist.AU2DEBYE,
    }
    for target, errors in result.errors.items():
        # float32 rounding
        assert errors.test_mae == pytest.approx(_mae(rows, target), rel=1e-3)
        assert errors.test_mae < errors.baseline_mae
        if target in zero:
            assert errors.baseline_mae == pytest.approx(zero[target])
            assert errors.test_mae < 0.8 * errors.baseline_mae
    assert result.errors["energy"].test_mae < result.errors["energy"].composition_mae
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_smaller_training_set_and_same_test(trained, store, small_config, tmp_path):
    result = train_model(store, tmp_path / "out", _quick(small_config, train_size=50))
    assert 46 < result.train.conformers <= 50
    assert result.test == trained.test
    with pytest.raises(ConfigError, match="are asked for and the training split has"):
        train_model(store, tmp_path / "more", _quick(small_config, train_size=100_000))


def test_mixed_precision_and_tensorboard(store, small_config, tmp_path):
    config = _quick(small_config, precision="bf16-mixed", tensorboard=True, epochs=4)
    result = train_model(store, tmp_path / "out", config)
    assert result.errors["gap"].test_mae < result.errors["gap"].baseline_mae
    kinds = {weight.dtype for weight in load_model(result.checkpoint).parameters()}
    assert kinds == {torch.float32}
    log = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    logged = [event.value for event in log.Scalars("val_gap_mae_ev")]
    with result.metrics_csv.open(newline="") as stream:
        rows = [float(row["val_gap_mae_ev"]) for row in csv.DictReader(stream)]
    assert logged == pytest.approx(rows)


def test_existing_model_is_kept(trained, store, small_config):
    before = trained.checkpoint.read_bytes()
    with pytest.raises(InputError, match="exists; choose another output"):
        train_model(store, trained.checkpoint.parent, small_config)
    assert trained.checkpoint.read_bytes() == before


def test_bad_places(store, small_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another output"):
        train_model(store, tmp_path / "file", small_config)
    with pytest.raises(StoreError):
        train_model(tmp_path / "nothing", tmp_path / "out", small_config)
    with pytest.raises(ConfigError, match="abacus"):
        train_model(store, tmp_path / "out", _quick(small_config, accelerator="abacus"))
    with pytest.raises(ConfigError, match="'cpu' has no precision 16-mixed here; use bf16-mixed"):
        train_model(store, tmp_path / "out", _quick(small_config, precision="16-mixed"))


def test_divergence_is_reported(store, small_config, tmp_path):
    config = _quick(small_config, learning_rate=1e30, loss="mse")
    with pytest.raises(InputError, match="learning rate below 1e"):
        train_model(store, tmp_path / "out", config)
    assert not (tmp_path / "out" / "model.ckpt").exists()


def test_interrupt_leaves_the_best_model_so_far(store, small_config, tmp_path, monkeypatch):
    step = PropertyTask.training_step

    def interrupted(self, batch):
        if self.current_epoch == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    monkeypatch.setattr(PropertyTask, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_model(store, tmp_path / "out", small_config)
    assert signal.getsignal(signal.SIGINT) is handler
    rows = list(predict_file(tmp_path / "out" / "model.ckpt", store, split="test"))
    assert all(row.predicted for row in rows)


def test_early_stop(write, small_config, tmp_path):
    path = write([molecule(i, nconf=1) for i in range(12)])
    config = small_config.model_copy(
        update={"epochs": 50, "stop_patience": 2, "learning_rate": 1e-12}
    )
    assert train_model(path, tmp_path / "out", config).epochs < 50


def test_elements_only_outside_training(write, small_config, tmp_path):
    # All conformers of one test molecule have an element that training lacks.
    dataset = open_dataset(write([molecule(i, nconf=1) for i in range(20)]))
    number = int(dataset.column("molecule", dataset.indices("test"))[0])
    records = [molecule(i, nconf=1) for i in range(20)]
    records[number].z[:] = 17
    path = write(records)
    result = train_model(path, tmp_path / "out", _quick(small_config))
    assert (result.test.unseen, result.test.unlabelled) == (1, 0)
    rows = list(predict_file(result.checkpoint, path, split="test"))
    (problem,) = [row for row in rows if not row.predicted]
    assert problem.line == number + 1
    assert problem.problem == "the training split has no Cl"
