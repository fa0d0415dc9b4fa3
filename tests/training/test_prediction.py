import csv

import ase.io
import numpy as np
import pytest
import torch

from qmgen.dataset import open_dataset
from qmgen.errors import InputError, StoreError
from qmgen.molecules import ConformerConfig
from qmgen.training import (
    FilePredictions,
    PredictionRow,
    Scaling,
    Standardisation,
    build_model,
    load_model,
    predict,
    predict_file,
    train_model,
    write_predictions,
)
from qmgen.units import ANGSTROM_PER_BOHR

ROUNDING_EV = 2e-5  # float32, some eV


def _gap_ev(model, z, positions, **options):
    return predict(model, z, positions, **options)["gap_ev"]


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
    expected = _gap_ev(model, z, positions)
    assert expected.std() > 0.1
    np.testing.assert_allclose(_gap_ev(model, z, moved), expected, atol=ROUNDING_EV)


def test_order_of_atoms(model, structures):
    z, positions = structures
    orders = [np.random.default_rng(i).permutation(len(x)) for i, x in enumerate(z)]
    shuffled = _gap_ev(
        model,
        [x[order] for x, order in zip(z, orders, strict=True)],
        [x[order] for x, order in zip(positions, orders, strict=True)],
    )
    np.testing.assert_allclose(shuffled, _gap_ev(model, z, positions), atol=ROUNDING_EV)


def test_batch_mates(model, structures):
    together = _gap_ev(model, *structures)
    alone = _gap_ev(model, *structures, batch_size=1)
    np.testing.assert_allclose(alone, together, atol=ROUNDING_EV)
    z, positions = structures
    assert min(map(len, z)) == 1  # a single atom, which has no neighbour
    np.testing.assert_allclose(
        _gap_ev(model, z[::-1], positions[::-1])[::-1], together, atol=ROUNDING_EV
    )


def test_far_fragments_add_up(small_config):
    scaling = Scaling(0.1, 2.0, {1: -13.0, 8: -2000.0})
    model = build_model(small_config, Standardisation({"energy": scaling}, (1, 8)))
    z, x = np.array([8, 1, 1]), np.array([[0, 0, 0], [0, 0.7, 0.6], [0, -0.7, 0.6]])
    x = [x, np.concatenate([x, x + 50.0])]
    one, two = predict(model, [z, np.tile(z, 2)], x)["energy_ev"]
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
    assert predict(model, [], [])["gap_ev"].shape == (0,)


def test_smiles_file(trained, model, tmp_path):
    path = tmp_path / "in.smi"
    path.write_text("C methane\nnot-a-smiles\nCO methanol\nCN amine\n", encoding="utf-8")
    rows = list(
        predict_file(trained.checkpoint, path, conformers=ConformerConfig(per_molecule=3), seed=2)
    )
    found = [(row.line, row.smile, row.conformer) for row in rows if row.predicted]
    assert found == [(1, "C", 0), (1, "C", 1), (1, "C", 2), *((3, "CO", i) for i in range(3))]
    skipped = [row for row in rows if not row.predicted]
    assert [row.line for row in skipped] == [2, 4, 4, 4]
    assert skipped[0].problem
    assert skipped[1].problem == "the training split has no N"
    assert not any(row.reference for row in rows)
    # One row for each molecule, and for the line that is no SMILES; no references without a store.
    summary = write_predictions(predict_file(trained.checkpoint, path), tmp_path / "out.csv")
    assert (summary.predicted, summary.skipped, summary.mae) == (2, 2, {})
    header = (tmp_path / "out.csv").read_text().partition("\n")[0]
    assert header == "line,smile,conformer,gap_ev,problem"


def test_xyz_file(trained, model, tmp_path):
    path = tmp_path / "in.xyz"
    path.write_text("3\nwater\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n", encoding="utf-8")
    (row,) = predict_file(trained.checkpoint, path)
    z = np.array([8, 1, 1])
    x = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    assert row.predicted["gap"] == pytest.approx(_gap_ev(model, [z], [x])[0])
    assert (row.line, row.smile, row.conformer, row.reference) == (1, "O", 0, {})


def test_store_without_split(trained, store):
    rows = list(predict_file(trained.checkpoint, store, batch_size=7))
    assert len(rows) == len(open_dataset(store))
    assert all(set(row.predicted) == set(row.reference) == {"gap"} for row in rows)


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
        ({"version": 99}, "reads 2"),
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


def _predictions(rows, targets=("gap",)):
    return FilePredictions(targets, targets, iter(rows))


def _row(line, smile, predicted=None, reference=None, **other):
    values = [
        {"gap": np.array(value)} if value is not None else {} for value in (predicted, reference)
    ]
    return PredictionRow(line, smile, 0, *values, **other)


def test_csv(tmp_path):
    rows = [
        _row(1, "C", 1.5, 1.0),
        _row(2, "O", 2.0),
        PredictionRow(3, "x,y", -1, problem='no "SMILES"'),
        _row(4, "N", 3.0, 4.5),
    ]
    path = tmp_path / "out.csv"
    summary = write_predictions(_predictions(rows), path)
    assert (summary.predicted, summary.skipped, summary.forces) == (3, 1, None)
    assert (summary.compared, summary.mae) == ({"gap": 2}, {"gap": 1.0})
    with path.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    names = ["line", "smile", "conformer", "gap_ev", "reference_gap_ev", "problem"]
    assert list(table[0]) == names
    assert table[0]["gap_ev"] == "1.5"
    assert table[1]["reference_gap_ev"] == ""
    assert table[2]["smile"] == "x,y"
    with pytest.raises(InputError, match="exists"):
        write_predictions(_predictions(rows), path)
    with pytest.raises(InputError, match="can't write"):
        write_predictions(_predictions(rows), tmp_path / "no" / "out.csv")


@pytest.fixture(scope="module")
def force_model(force_store, small_config, tmp_path_factory):
    targets = {"energy": 1.0, "forces": 1.0, "dipole": 1.0}
    config = small_config.model_copy(update={"targets": targets, "epochs": 2})
    return train_model(force_store, tmp_path_factory.mktemp("forces") / "out", config)


def test_vectors_in_files(force_model, force_store, tmp_path):
    summary = write_predictions(
        predict_file(force_model.checkpoint, force_store, split="test"), tmp_path / "out.csv"
    )
    assert summary.forces == tmp_path / "out.xyz"
    for target, mae in summary.mae.items():
        assert mae == pytest.approx(force_model.errors[target].test_mae, rel=1e-3)
    frames = ase.io.read(summary.forces, ":")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    dataset = open_dataset(force_store)
    rows = dataset.indices("test")
    model = load_model(force_model.checkpoint)
    assert len(frames) == len(table) == len(rows)
    for frame, line, row in zip(frames, table, rows, strict=True):
        z, x = dataset[int(row)]["z"], dataset[int(row)]["pos"] * ANGSTROM_PER_BOHR
        expected = predict(model, [z], [x])
        assert float(line["energy_ev"]) == pytest.approx(expected["energy_ev"][0])
        dipole = [float(line[f"dipole_{axis}_debye"]) for axis in "xyz"]
        np.testing.assert_allclose(dipole, expected["dipole_debye"][0], atol=1e-4)
        assert line["reference_dipole_x_debye"]
        assert frame.numbers.tolist() == z.tolist()
        # The file has eight decimals.
        np.testing.assert_allclose(frame.positions, x, atol=1e-7)
        np.testing.assert_allclose(
            frame.get_forces(), expected["forces_ev_per_angstrom"][0], atol=1e-4
        )
        assert frame.get_potential_energy() == pytest.approx(expected["energy_ev"][0])
        assert frame.info["smile"] == line["smile"]


def test_forces_need_a_second_file(force_model, force_store, tmp_path):
    (tmp_path / "out.xyz").write_text("")
    for name, message in (("out.csv", "exists; delete it"), ("out.xyz", "choose a .csv")):
        with pytest.raises(InputError, match=message):
            write_predictions(predict_file(force_model.checkpoint, force_store), tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"out.xyz"}


def test_broken_rows_leave_no_csv(tmp_path):
    def rows():
        yield _row(1, "C", 1.5)
        raise InputError("damaged")

    with pytest.raises(InputError, match="damaged"):
        write_predictions(_predictions(rows()), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
