import csv

import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError, InputError
from qmgen.training import load_model

SMALL = "n_atom_basis: 8\nn_interactions: 1\nn_rbf: 5\naccelerator: cpu\nepochs: 50\n"


def _run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return " ".join(done.stdout.split())


def test_train_and_predict(force_store, tmp_path):
    settings = tmp_path / "train.yaml"
    settings.write_text(f"{SMALL}targets: {{gap: 1.0}}\n")
    out = tmp_path / "run"
    options = ("--target", "forces", "--target", "energy", "--epochs", 2, "--train-size", 40)
    said = _run("train", force_store, "--config", settings, "--out", out, *options)
    config = load_model(out / "model.ckpt").config
    assert config.targets == {"energy": 1.0, "forces": 1.0}
    assert (config.epochs, config.n_atom_basis, config.train_size) == (2, 8, 40)
    for word in (
        "energy: test MAE",
        "forces: test MAE",
        "eV/Angstrom, zero",
        "eV, atom references",
    ):
        assert word in said
    table = tmp_path / "out.csv"
    said = _run("predict", out / "model.ckpt", force_store, "--split", "val", "--out", table)
    assert "forces: MAE against" in said
    assert f"forces in {table.with_suffix('.xyz')}" in said
    with table.open(newline="") as stream:
        assert {"energy_ev", "reference_energy_ev"} <= set(next(csv.DictReader(stream)))


def test_gap_is_the_default(store, tmp_path):
    settings = tmp_path / "train.yaml"
    settings.write_text(SMALL)
    said = _run("train", store, "--config", settings, "--out", tmp_path / "run", "--epochs", 1)
    assert "gap: test MAE" in said
    settings.write_text("epochs: nine\n")
    with pytest.raises(ConfigError, match=r"train\.yaml: epochs"):
        _run("train", store, "--config", settings, "--out", tmp_path / "other")


def test_export(force_store, tmp_path):
    dataset = open_dataset(force_store)
    numbers = {part: len(dataset.indices(part)) for part in (None, "train")}
    for kind, name, options, number in (
        ("extxyz", "all.xyz", (), numbers[None]),
        ("ase", "train.db", ("--split", "train"), numbers["train"]),
        ("huggingface", "hub", ("--license", "cc-by-4.0"), numbers[None]),
    ):
        out = tmp_path / name
        said = _run("export", force_store, out, "--format", kind, *options)
        assert said.startswith(f"{number} rows written to {out}, {len(dataset) - number} skipped")
        assert out.exists()
    assert "license: cc-by-4.0" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="--split is for extxyz and ase"):
        _run("export", force_store, tmp_path / "x", "--split", "train")
    with pytest.raises(InputError, match="--license is for huggingface"):
        _run("export", force_store, tmp_path / "x", "--license", "mit", "--format", "ase")
