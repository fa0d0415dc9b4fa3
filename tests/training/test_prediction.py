import csv

import numpy as np
import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import InputError, StoreError
from qmgen.molecules import ConformerConfig
from qmgen.training import (
    PredictionRow,
    Standardisation,
    build_schnet,
    load_model,
    predict,
    predict_file,
    write_predictions_csv,
)
from qmgen.units import ANGSTROM_PER_BOHR

ROUNDING_EV = 2e-5  # float32, some eV


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.checkpoint)


@pytest.fixture(scope="module")
def structures(store):
    dataset = open_dataset(store)
    rows = [dataset[i] for i in range(0, len(dataset), 6)]
    return [row["z"] for row in rows], [row["pos"] * ANGSTROM_PER_BOHR for row in rows]


def test_rotation_and_translation(model, structures):
    z, positions = structures
    rng = np.random.default_rng(0)
    moved = []
    for x in positions:
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # proper or improper
        moved.append(x @ rotation.T + rng.normal(scale=1000, size=3))
    expected = predict(model, z, positions)
    assert expected.std() > 0.1
    np.testing.assert_allclose(predict(model, z, moved), expected, atol=ROUNDING_EV)


def test_order_of_atoms(model, structures):
    z, positions = structures
    orders = [np.random.default_rng(i).permutation(len(x)) for i, x in enumerate(z)]
    shuffled = predict(
        model,
        [x[order] for x, order in zip(z, orders, strict=True)],
        [x[order] for x, order in zip(positions, orders, strict=True)],
    )
    np.testing.assert_allclose(shuffled, predict(model, z, positions), atol=ROUNDING_EV)


def test_batch_mates(model, structures):
    together = predict(model, *structures)
    alone = predict(model, *structures, batch_size=1)
    np.testing.assert_allclose(alone, together, atol=ROUNDING_EV)
    z, positions = structures
    assert min(map(len, z)) == 1  # a single atom, which has no neighbour
    np.testing.assert_allclose(
        predict(model, z[::-1], positions[::-1])[::-1], together, atol=ROUNDING_EV
    )


def test_far_fragments_add_up(small_config):
    standardisation = Standardisation(0.1, 2.0, {1: -13.0, 8: -2000.0}, (1, 8))
    model = build_schnet(small_config, standardisation)
    z, x = np.array([8, 1, 1]), np.array([[0, 0, 0], [0, 0.7, 0.6], [0, -0.7, 0.6]])
    one, two = predict(model, [z, np.tile(z, 2)], [x, np.concatenate([x, x + 50.0])])
    assert two == pytest.approx(2 * one, abs=1e-4)
    assert one == pytest.approx(-2026.0, abs=20)


def test_weights_and_mode_are_left_alone(model, structures):
    model.train()
    predict(model, *structures)
    assert model.training
    model.eval()


def test_bad_structures(model):
    x = np.zeros((1, 3))
    with pytest.raises(InputError, match=r"not been trained on atomic numbers \[53\]"):
        predict(model, [np.array([53])], [x])
    with pytest.raises(InputError, match="not finite"):
        predict(model, [np.array([1])], [x * np.nan])
    with pytest.raises(InputError, match="structure 0: atomic numbers of shape"):
        predict(model, [np.array([1, 1])], [x])
    with pytest.raises(InputError, match="give one of each"):
        predict(model, [np.array([1])], [])
    assert predict(model, [], []).shape == (0,)


def test_smiles_file(trained, model, tmp_path):
    path = tmp_path / "in.smi"
    path.write_text("C methane\nnot-a-smiles\nCO methanol\nCN amine\n", encoding="utf-8")
    rows = list(
        predict_file(trained.checkpoint, path, conformers=ConformerConfig(per_molecule=3), seed=2)
    )
    found = [(row.line, row.smile, row.conformer) for row in rows if row.predicted_ev is not None]
    assert found == [(1, "C", 0), (1, "C", 1), (1, "C", 2), *((3, "CO", i) for i in range(3))]
    skipped = [row for row in rows if row.predicted_ev is None]
    assert [row.line for row in skipped] == [2, 4, 4, 4]
    assert skipped[0].problem
    assert skipped[1].problem == "the training split has no N"
    assert all(row.reference_ev is None for row in rows)
    assert len(list(predict_file(trained.checkpoint, path))) == 4


def test_xyz_file(trained, model, tmp_path):
    path = tmp_path / "in.xyz"
    path.write_text("3\nwater\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n", encoding="utf-8")
    (row,) = predict_file(trained.checkpoint, path)
    z = np.array([8, 1, 1])
    x = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    assert row.predicted_ev == pytest.approx(predict(model, [z], [x])[0])
    assert (row.line, row.smile, row.conformer, row.reference_ev) == (1, "O", 0, None)


def test_store_without_split(trained, store):
    rows = list(predict_file(trained.checkpoint, store, batch_size=7))
    assert len(rows) == len(open_dataset(store))
    assert all(row.predicted_ev is not None and row.reference_ev is not None for row in rows)


def test_bad_inputs_raise_at_once(trained, store, tmp_path):
    path = tmp_path / "in.smi"
    path.write_text("C\n", encoding="utf-8")
    with pytest.raises(InputError, match="no split 'tset'"):
        predict_file(trained.checkpoint, store, split="tset")
    with pytest.raises(InputError, match="only a store has the split"):
        predict_file(trained.checkpoint, path, split="test")
    with pytest.raises(InputError, match="batch_size"):
        predict_file(trained.checkpoint, path, batch_size=0)
    with pytest.raises(StoreError):
        predict_file(trained.checkpoint, tmp_path)
    with pytest.raises(InputError, match=r"missing\.smi"):
        predict_file(trained.checkpoint, tmp_path / "missing.smi")


def test_bad_checkpoints(trained, tmp_path):
    content = trained.checkpoint.read_bytes()
    path = tmp_path / "model.ckpt"
    with pytest.raises(InputError, match="can't read the model"):
        load_model(path)
    with pytest.raises(InputError, match="is a folder"):
        load_model(tmp_path)
    for damaged in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or no trained model"):
            load_model(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="no model of qmgen"):
        load_model(path)
    whole = torch.load(trained.checkpoint, weights_only=True)
    for change, message in (
        ({"version": 99}, "reads 1"),
        ({"config": {"width": 1}}, "don't fit together"),
        ({"config": whole["qmgen_model"]["config"] | {"n_rbf": 5}}, "don't fit together"),
    ):
        torch.save({**whole, "qmgen_model": whole["qmgen_model"] | change}, path)
        with pytest.raises(InputError, match=message):
            load_model(path)


def test_loading_leaves_random_numbers_alone(trained):
    before = torch.random.get_rng_state()
    load_model(trained.checkpoint)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_csv(tmp_path):
    rows = [
        PredictionRow(1, "C", 0, 1.5, 1.0),
        PredictionRow(2, "O", 0, 2.0, None),
        PredictionRow(3, "x,y", -1, None, None, 'no "SMILES"'),
        PredictionRow(4, "N", 0, 3.0, 4.5),
    ]
    path = tmp_path / "out.csv"
    summary = write_predictions_csv(iter(rows), path)
    assert (summary.predicted, summary.skipped, summary.compared) == (3, 1, 2)
    assert summary.mae_ev == 1.0
    with path.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == [
        "line",
        "smile",
        "conformer",
        "predicted_ev",
        "reference_ev",
        "problem",
    ]
    assert table[0]["predicted_ev"] == "1.5"
    assert table[1]["reference_ev"] == ""
    assert table[2]["smile"] == "x,y"
    with pytest.raises(InputError, match="exists"):
        write_predictions_csv(rows, path)
    with pytest.raises(InputError, match="can't write"):
        write_predictions_csv(rows, tmp_path / "no" / "out.csv")


def test_broken_rows_leave_no_csv(tmp_path):
    def rows():
        yield PredictionRow(1, "C", 0, 1.5, None)
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        write_predictions_csv(rows(), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
