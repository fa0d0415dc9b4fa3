import numpy as np
import pytest

from qmgen.dataset import open_dataset
from qmgen.training import Standardisation, fit_standardisation, select_rows
from qmgen.units import EV_PER_HARTREE
from tests.training.synthetic import REFERENCES, molecule


def _fit(path, target):
    dataset = open_dataset(path)
    return fit_standardisation(dataset, select_rows(dataset, "train", [target]), [target])


def test_atom_references_are_recovered(store):
    fitted = _fit(store, "energy")["energy"]
    for number, energy in REFERENCES.items():
        # float64 rounding of sums of 10 keV
        assert fitted.atom_references_ev[number] == pytest.approx(energy * EV_PER_HARTREE, abs=1e-6)
    assert fitted.mean == pytest.approx(0.0, abs=1e-6)
    assert fitted.scale == 1.0


def test_energies_are_standardised_per_atom(write):
    records = [molecule(i) for i in range(40)]
    for record in records:
        noise = np.random.default_rng(record.line).normal(scale=0.01, size=4)
        record.conformers["energy"] += noise * len(record.z)
    dataset = open_dataset(write(records))
    train = select_rows(dataset, "train", ["energy"])
    fitted = fit_standardisation(dataset, train, ["energy"])["energy"]
    block = dataset.batch(train.rows, ["z"])
    residual = train.scalars["energy"] - fitted.offset(block["z"], block.atom_offset)
    per_atom = residual / block.n_atoms
    assert per_atom.mean() == pytest.approx(0.0, abs=1e-9)
    assert per_atom.std() == pytest.approx(fitted.scale)
    assert fitted.scale == pytest.approx(0.01 * EV_PER_HARTREE, rel=0.3)


def test_undetermined_references_still_give_the_energy(write):
    records = [molecule(i) for i in range(12)]
    for record in records:  # one composition ratio only
        record.z[:] = 6
    assert set(_fit(write(records), "energy")["energy"].atom_references_ev) == {6}


def test_constant_target_has_unit_scale(store):
    fitted = _fit(store, "homo")["homo"]
    assert fitted.mean == pytest.approx(-0.2 * EV_PER_HARTREE)
    assert fitted.scale == 1.0


@pytest.mark.parametrize("target", ["gap", "energy"])
def test_plain_values_and_back(store, target):
    fitted = _fit(store, target)
    assert Standardisation.from_dict(fitted.as_dict()) == fitted
