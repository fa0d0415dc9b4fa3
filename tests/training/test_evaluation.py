"""Evaluations against errors computed one conformer at a time."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.dataset import open_dataset
from qmgen.errors import InputError
from qmgen.molecules import scaffold
from qmgen.training import TrainConfig, build_model, evaluate, predict_file, write_evaluation
from qmgen.training.checkpoint import describe_model, save_model
from qmgen.training.data import ConformerDataModule
from tests.training.synthetic import molecule

SMILES = ["CCO", "C1CC1", "CC1CC1", "c1ccccc1O", "OC", "C1CCC1", "Cc1ccccc1", "CCC", "CC1CO1", "N"]


@pytest.fixture(scope="module")
def labelled(write):
    """Ten molecules with forces and dipoles; the last is charged, one label is missing."""
    records = []
    for i, smile in enumerate(SMILES):
        record = molecule(i + 1, nconf=3)
        rng = np.random.default_rng(i)
        record.conformers["forces"] = rng.normal(size=record.conformers["pos"].shape)
        record.conformers["dipole"][:] = rng.normal(size=(3, 3))
        charge = int(i == len(SMILES) - 1)
        records.append(type(record)(**{**vars(record), "smile": smile, "charge": charge}))
    records[1].conformers["gap"][0] = np.nan
    return write(records, optional_labels=("forces",))


@pytest.fixture(scope="module")
def checkpoint(labelled, tmp_path_factory):
    """An untrained network for all kinds of targets."""
    targets = dict.fromkeys(("energy", "forces", "gap", "dipole"), 1.0)
    config = TrainConfig(targets=targets, n_atom_basis=8, n_interactions=1, n_rbf=8)
    data = ConformerDataModule(open_dataset(labelled), config)
    model = build_model(config, data.standardisation, {})
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    save_model(path, model.state_dict(), describe_model(model, {}))
    return path


def _one_by_one(checkpoint, labelled, split=None):
    """Absolute errors of each conformer by target, with its SMILES."""
    charged = SMILES[-1]
    for row in predict_file(checkpoint, labelled, split=split):
        for target, reference in row.reference.items():
            if not (target == "dipole" and row.smile == charged):
                yield row, target, row.predicted[target] - reference


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("by", ["molecule", "heavy-atoms", "scaffold"])
def test_errors_are_those_of_the_predictions(checkpoint, labelled, by, split):
    group_of = {
        "molecule": lambda smile: smile,
        "heavy-atoms": None,
        "scaffold": lambda smile: scaffold(smile) or "(no ring)",
    }[by]
    errors, members = {}, {}
    for row, target, error in _one_by_one(checkpoint, labelled, split):
        heavy = str(int((row.structure.atomic_numbers > 1).sum()))
        key = target, heavy if group_of is None else group_of(row.smile)
        errors.setdefault(key, []).append(np.ravel(error))
        members.setdefault(key, []).append(row.smile)
    result = evaluate(checkpoint, labelled, by, split)
    found = {
        (g.target, g.group.split()[0] if by == "molecule" else g.group): g for g in result.groups
    }
    assert found.keys() == errors.keys()
    for key, parts in errors.items():
        group, e = found[key], np.concatenate(parts)
        assert group.conformers == len(parts)
        assert group.molecules == len(set(members[key]))
        # Batches of other sizes: float32 rounding.
        assert group.mae == pytest.approx(np.abs(e).mean(), rel=1e-4)
        assert group.rmse == pytest.approx(np.sqrt((e**2).mean()), rel=1e-4)
        assert group.bias == pytest.approx(e.mean(), rel=1e-3, abs=1e-4)
        assert group.largest == pytest.approx(np.abs(e).max(), rel=1e-4)
    for total in result.total:
        e = np.concatenate([x for key, p in errors.items() if key[0] == total.target for x in p])
        assert total.mae == pytest.approx(np.abs(e).mean(), rel=1e-4)
        assert total.group == "all"


def test_order_and_units(checkpoint, labelled):
    groups = evaluate(checkpoint, labelled, "heavy-atoms", None).groups
    sizes = [int(g.group) for g in groups if g.target == "gap"]
    assert sizes == sorted(sizes)
    assert len(sizes) > 2
    by_molecule = evaluate(checkpoint, labelled, "molecule", None).groups
    gap = [g.mae for g in by_molecule if g.target == "gap"]
    assert gap == sorted(gap, reverse=True)
    by_scaffold = evaluate(checkpoint, labelled, "scaffold", None).groups
    sizes = [g.conformers for g in by_scaffold if g.target == "energy"]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    units = {g.target: g.unit for g in groups}
    assert units["dipole"] == "Debye"
    assert units["forces"] == "eV/Angstrom"


def test_elements_that_the_model_has_not_learnt(checkpoint, write):
    records = [molecule(i) for i in range(1, 9)]
    for record in records[:3]:
        record.z[-1] = 17
    with_chlorine = 3 * 4
    result = evaluate(checkpoint, write(records), "heavy-atoms", None)
    assert result.unseen == with_chlorine
    assert {total.target for total in result.total} == {"energy", "gap", "dipole"}
    assert all(total.conformers == 32 - with_chlorine for total in result.total)
    only_chlorine = write(records[:3])
    with pytest.raises(InputError, match="no conformer with a label"):
        evaluate(checkpoint, only_chlorine, "molecule")


def test_command_line(checkpoint, labelled, tmp_path):
    arguments = ["evaluate", str(checkpoint), str(labelled), "--split", "train"]
    out = ["--by", "scaffold", "--out", str(tmp_path / "errors.csv")]
    result = CliRunner().invoke(app, [*arguments, *out])
    assert result.exit_code == 0, result.output
    assert "(no ring)" in result.output
    assert "all" in result.output
    groups = evaluate(checkpoint, labelled, "scaffold", "train").groups
    with (tmp_path / "errors.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["target"], row["group"]) for row in rows] == [(g.target, g.group) for g in groups]
    assert [float(row["mae"]) for row in rows] == [g.mae for g in groups]
    with pytest.raises(InputError, match="exists"):
        write_evaluation(evaluate(checkpoint, labelled, "scaffold"), tmp_path / "errors.csv")
    with pytest.raises(InputError, match="can't write"):
        write_evaluation(evaluate(checkpoint, labelled, "scaffold"), tmp_path / "no" / "e.csv")
