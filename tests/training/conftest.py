"""Synthetic stores, and one small training run for all tests."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from qmgen.dataset import collect_provenance, write_store
from tests.training.synthetic import molecule

# Without the train extra only its absence can be tested.
if find_spec("torch") is None:
    collect_ignore_glob = ["test_[!m]*.py"]

# torch has no `copy` in Tensor.__array__ yet; schnetpack gives its tensors to ASE.
_THIRD_PARTY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(_THIRD_PARTY))


@pytest.fixture(scope="session")
def provenance(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "input.smi"
    source.write_text("C methane\n", encoding="utf-8")
    return collect_provenance(config={"scf": {"xc": "b3lyp"}}, seed=0, source=source, command="")


@pytest.fixture(scope="session")
def write(tmp_path_factory, provenance):
    def _write(records, fractions=(0.7, 0.15, 0.15), optional_labels=()):
        path = tmp_path_factory.mktemp("data") / "store"
        write_store(
            path,
            records,
            (),
            provenance,
            split_seed=3,
            split_fractions=fractions,
            optional_labels=optional_labels,
        )
        return path

    return _write


@pytest.fixture(scope="session")
def store(write):
    """80 molecules of four conformers."""
    return write([molecule(i) for i in range(80)])


@pytest.fixture(scope="session")
def force_store(write):
    """40 molecules of four conformers, with forces and dipoles."""
    return write([molecule(i, pairs=True) for i in range(40)], optional_labels=("forces",))


@pytest.fixture(scope="session")
def small_config():
    from qmgen.training import TrainConfig

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
    from qmgen.training import train_model

    return train_model(store, tmp_path_factory.mktemp("run") / "out", small_config)
