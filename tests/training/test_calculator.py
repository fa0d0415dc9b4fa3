"""The calculator against ASE's EMT, from which its model has learnt, and finite differences."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule as built
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from qmgen.dataset import MoleculeRecord, empty_conformers
from qmgen.errors import InputError
from qmgen.training import (
    ModelCalculator,
    TrainConfig,
    build_model,
    load_model,
    predict,
    train_model,
)
from qmgen.training.config import WarmupDecay
from qmgen.units import BOHR_PER_ANGSTROM, EV_PER_HARTREE

NCONF = 40


def _distorted(number):
    """Water as EMT sees it, at random geometries near its equilibrium, with forces."""
    rng = np.random.default_rng(number)
    water = built("H2O")
    values = empty_conformers(3, nao=0, nconf=NCONF, optional_labels=("forces",))
    values["index"][:] = np.arange(NCONF)
    values["converged"][:] = True
    for i in range(NCONF):
        atoms = water.copy()
        atoms.positions += rng.normal(scale=0.12, size=(3, 3))
        atoms.calc = EMT()
        values["pos"][i] = atoms.positions * BOHR_PER_ANGSTROM
        values["energy"][i] = atoms.get_potential_energy() / EV_PER_HARTREE
        values["forces"][i] = atoms.get_forces() / (EV_PER_HARTREE * BOHR_PER_ANGSTROM)
    return MoleculeRecord(
        line=number + 1,
        source_id=f"w{number}",
        smile=f"O{number}",
        charge=0,
        spin=0,
        z=np.array([8, 1, 1], dtype=np.uint8),
        nao=0,
        conformers=values,
    )


@pytest.fixture(scope="module")
def water(write, tmp_path_factory):
    """A network that has learnt energies and forces of water."""
    store = write([_distorted(i) for i in range(12)], optional_labels=("forces",))
    config = TrainConfig(
        targets={"energy": 0.1, "forces": 1.0},
        representation="painn",
        n_atom_basis=16,
        n_interactions=2,
        n_rbf=12,
        cutoff_angstrom=4.0,
        epochs=30,
        batch_size=20,
        learning_rate=5e-3,
        schedule=WarmupDecay(warmup_steps=20, decay_factor=0.5, decay_steps=100),
        ema_decay=0.95,
        accelerator="cpu",
    )
    return train_model(store, tmp_path_factory.mktemp("water") / "run", config).checkpoint


def _bent():
    atoms = built("H2O")
    atoms.positions += np.random.default_rng(5).normal(scale=0.05, size=(3, 3))
    return atoms


def test_forces_are_the_slope_of_the_energy(water):
    atoms = _bent()
    atoms.calc = ModelCalculator(water)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.5
    numerical = calculate_numerical_forces(atoms, eps=1e-4)
    # third derivative times eps^2, and float64 rounding of some eV over 2 eps
    np.testing.assert_allclose(forces, numerical, atol=1e-5)
    # No net force and torque.
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(np.cross(atoms.positions, forces).sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize(
    "representation", ["schnet", pytest.param("painn", marks=pytest.mark.slow)]
)
def test_forces_of_a_model_that_has_learnt_energies_alone(water, representation):
    standardisation = load_model(water).standardisation
    config = TrainConfig(
        targets={"energy": 1.0}, representation=representation, n_atom_basis=8, n_interactions=2
    )
    scalings = {"energy": standardisation["energy"]}
    model = build_model(config, type(standardisation)(scalings, standardisation.elements))
    atoms = _bent()
    atoms.calc = ModelCalculator(model)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-4
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_numbers_are_those_of_predict(water):
    atoms = _bent()
    atoms.calc = ModelCalculator(water)
    found = predict(load_model(water), [atoms.numbers], [atoms.positions])
    # float32 against float64
    assert atoms.get_potential_energy() == pytest.approx(found["energy_ev"][0], abs=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), found["forces_ev_per_angstrom"][0], atol=1e-3)


def test_relaxation_ends_where_that_of_the_reference_does(water):
    lengths, energies = [], []
    for calculator in (ModelCalculator(water), EMT()):
        atoms = _bent()
        atoms.calc = calculator
        assert BFGS(atoms, logfile=None).run(fmax=0.01, steps=60)
        lengths.append([atoms.get_distance(0, 1), atoms.get_distance(0, 2)])
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    atoms = _bent()
    atoms.calc = EMT()
    # EMT's angle is soft: it costs 1 meV to bend it by 8 degrees. Errors of energies are 5 meV.
    assert lengths[0] == pytest.approx(lengths[1], abs=0.01)
    assert 0 <= energies[0] - energies[1] < 0.01 < atoms.get_potential_energy() - energies[1]


def _spread_of_energy(checkpoint, step_fs, time_fs=10.0):
    atoms = _bent()
    atoms.calc = ModelCalculator(checkpoint)
    energies, kinetic = [], []
    dynamics = VelocityVerlet(atoms, step_fs * units.fs)
    for _ in dynamics.irun(steps=round(time_fs / step_fs)):
        energies.append(atoms.get_total_energy())
        kinetic.append(atoms.get_kinetic_energy())
    return np.std(energies), np.ptp(kinetic)


def test_dynamics_conserves_energy(water):
    coarse, swing = _spread_of_energy(water, 0.4)
    fine, _ = _spread_of_energy(water, 0.1)
    assert swing > 0.05
    assert fine < 2e-3 * swing
    # The error of Verlet's method is of second order: a quarter of the step, a sixteenth of it.
    assert coarse / fine == pytest.approx(16, rel=0.3)


def test_bad_atoms_and_models(water, trained):
    atoms = _bent()
    atoms.calc = ModelCalculator(water)
    with pytest.raises(NotImplementedError):
        atoms.get_dipole_moment()
    atoms.pbc = True
    with pytest.raises(InputError, match="pbc = False"):
        atoms.get_potential_energy()
    nitrogen = Atoms("N2", [(0, 0, 0), (0, 0, 1.1)], calculator=ModelCalculator(water))
    with pytest.raises(InputError, match="not been trained on atomic numbers"):
        nitrogen.get_forces()
    with pytest.raises(InputError, match="needs one that has learnt energy"):
        ModelCalculator(trained.checkpoint)
