"""A small study, interrupted and taken up again."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import open_dataset, write_store
from qmgen.errors import ConfigError, InputError
from qmgen.training import TrainConfig, evaluate, load_model, scaling_law
from qmgen.training.data import ConformerDataModule
from qmgen.training.train import train_model
from tests.training.synthetic import molecule

SIZES = [48, 96, 192]


@pytest.fixture(scope="module")
def config(small_config):
    return small_config.model_copy(update={"epochs": 8, "stop_patience": 8})


@pytest.fixture(scope="module")
def study(store, config, tmp_path_factory):
    return scaling_law(store, tmp_path_factory.mktemp("scaling") / "out", config, SIZES)


def test_points_are_nested_trainings_of_as_many_steps(study, store, config):
    out = study.csv.parent
    test_rows, train_rows = [], []
    for size, point in zip(SIZES, study.points, strict=True):
        model = load_model(out / f"size-{size:06d}" / "model.ckpt")
        assert model.config.train_size == size
        data = ConformerDataModule(open_dataset(store), model.config)
        assert point.conformers == len(data.train) <= size
        assert point.molecules == data.train.num_molecules
        train_rows.append(set(data.train.rows.tolist()))
        test_rows.append(data.test.rows.tolist())
        assert point.steps == point.epochs * 192 // config.batch_size
        total = evaluate(out / f"size-{size:06d}" / "model.ckpt", store, "molecule").total[0]
        assert point.test_mae["gap"] == pytest.approx(total.mae, rel=1e-4)
        assert point.seconds > 0
    assert train_rows[0] < train_rows[1] < train_rows[2]
    assert test_rows[0] == test_rows[1] == test_rows[2]
    errors = [point.test_mae["gap"] for point in study.points]
    assert errors[2] < errors[0] < study.points[0].baseline_mae["gap"]


def test_files(study):
    with study.csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["size"]) for row in rows] == SIZES
    assert [float(row["test_mae"]) for row in rows] == [p.test_mae["gap"] for p in study.points]
    content = json.loads(study.json.read_text())
    fit = content["fits"]["gap"]
    slope, intercept = np.polyfit(
        np.log([p.conformers for p in study.points]),
        np.log([p.test_mae["gap"] for p in study.points]),
        1,
    )
    assert fit["exponent"] == pytest.approx(-slope)
    assert fit["factor"] == pytest.approx(np.exp(intercept))
    assert study.plot.read_bytes().startswith(b"\x89PNG")


def test_finished_sizes_are_kept(study, store, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(study.csv.parent, out)
    shutil.rmtree(out / f"size-{SIZES[1]:06d}")
    trained = []

    def interrupted(store, folder, config):
        if trained:
            raise KeyboardInterrupt
        trained.append(config.train_size)
        return train_model(store, folder, config)

    monkeypatch.setattr(sys.modules["qmgen.training.scaling_law"], "train_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scaling_law(store, out, config, [24, *SIZES])
    again = scaling_law(store, out, config, SIZES)
    assert trained == [SIZES[1]]
    for one, two in zip(again.points, study.points, strict=True):
        assert one.test_mae == two.test_mae


def test_another_study_is_refused(study, store, config, provenance, tmp_path):
    out = study.csv.parent
    other = config.model_copy(update={"learning_rate": 1e-4})
    with pytest.raises(ConfigError, match="another configuration"):
        scaling_law(store, out, other, SIZES)
    elsewhere = tmp_path / "store"
    records = [molecule(i, seed=1) for i in range(80)]
    other_run = provenance.model_copy(update={"config_hash": "0"})
    write_store(elsewhere, records, (), other_run, split_seed=3)
    with pytest.raises(ConfigError, match="another store"):
        scaling_law(elsewhere, out, config, SIZES)


def test_bad_sizes(store, config, tmp_path):
    for sizes in ([], [100], [0, 100]):
        with pytest.raises(InputError, match="two sizes"):
            scaling_law(store, tmp_path / "out", config, sizes)
    with pytest.raises(ConfigError, match="leave train_size"):
        scaling_law(store, tmp_path / "out", config.model_copy(update={"train_size": 9}), SIZES)
    with pytest.raises(ConfigError, match="100000 conformers are asked for"):
        scaling_law(store, tmp_path / "out", config, [10, 100000])
    result = CliRunner().invoke(
        app, ["scaling-law", str(store), "--sizes", "1;2", "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, InputError)


def test_command_line(study, store, config, tmp_path):
    file = tmp_path / "train.yaml"
    values = TrainConfig.model_validate(config).model_dump(mode="json", exclude={"train_size"})
    file.write_text(json.dumps(values))  # JSON is YAML
    arguments = ["scaling-law", str(store), "--sizes", "48,96,192", "--config", str(file)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(study.csv.parent)])
    assert result.exit_code == 0, result.output
    assert f"b = {study.fits['gap'].exponent:.3f}" in result.output
    assert "scaling_law.png" in result.output.replace("\n", "")
