"""Synthetic stores whose labels a small network can learn."""

import os

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")

from qmgen.dataset import MoleculeRecord, collect_provenance, empty_conformers, write_store
from qmgen.training import TrainConfig, train_model
from qmgen.units import BOHR_PER_ANGSTROM

# Lightning asks for more workers than a test needs, and says so before train_model is involved.
QUIET = [
    "ignore:.*does not have many workers.*",
]
REFERENCES = {1: -0.5, 6: -37.8, 8: -75.0}
"""Energy of an atom in the synthetic stores, Hartree."""


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path).startswith(os.path.dirname(__file__)):
            for message in QUIET:
                item.add_marker(pytest.mark.filterwarnings(message))


def exponential_sum(z, positions_angstrom):
    """Mean over atoms of the sum over neighbours of Z_j-weighted exp(-r)."""
    r = np.linalg.norm(positions_angstrom[:, None] - positions_angstrom, axis=-1)
    weights = np.exp(-r) * np.sqrt(z)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights.sum() / len(z)


def molecule(number, nconf=4, seed=0, elements=(1, 6, 8)):
    rng = np.random.default_rng([seed, number])
    nat = int(rng.integers(1, 7)) if number else 1  # the first is a single atom
    z = rng.choice(np.array(elements, dtype=np.uint8), nat)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
    values = empty_conformers(nat, nao=nat, nconf=nconf)
    values["index"][:] = np.arange(nconf)
    values["converged"][:] = True
    for i in range(nconf):
        sites = grid[rng.permutation(8)[:nat]] * rng.uniform(0.9, 1.8)
        positions = sites + rng.normal(scale=0.08, size=(nat, 3)) + rng.normal(scale=5, size=3)
        values["pos"][i] = positions * BOHR_PER_ANGSTROM
        values["gap"][i] = 0.3 + 0.2 * exponential_sum(z, positions)
        values["energy"][i] = sum(REFERENCES[int(number)] for number in z)
    values["homo"][:] = -0.2
    values["lumo"][:] = values["homo"] + values["gap"]
    return MoleculeRecord(
        line=number + 1,
        source_id=f"m{number}",
        smile=f"S{number}",
        charge=0,
        spin=0,
        z=z,
        nao=nat,
        conformers=values,
    )


@pytest.fixture(scope="session")
def provenance(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "input.smi"
    source.write_text("C methane\n", encoding="utf-8")
    return collect_provenance(config={"scf": {"xc": "b3lyp"}}, seed=0, source=source, command="")


@pytest.fixture(scope="session")
def write(tmp_path_factory, provenance):
    def _write(records, fractions=(0.7, 0.15, 0.15)):
        path = tmp_path_factory.mktemp("data") / "store"
        write_store(path, records, (), provenance, split_seed=3, split_fractions=fractions)
        return path

    return _write


@pytest.fixture(scope="session")
def store(write):
    """80 molecules of four conformers."""
    return write([molecule(i) for i in range(80)])


@pytest.fixture(scope="session")
def small_config():
    return TrainConfig(
        n_atom_basis=24,
        n_interactions=2,
        n_rbf=16,
        cutoff_angstrom=4.0,
        epochs=25,
        batch_size=16,
        learning_rate=3e-3,
        accelerator="cpu",
        seed=1,
    )


@pytest.fixture(scope="session")
def trained(store, small_config, tmp_path_factory):
    """A training run that tests only read."""
    return train_model(store, tmp_path_factory.mktemp("run") / "out", small_config)
