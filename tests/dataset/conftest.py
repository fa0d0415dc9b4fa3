"""Synthetic records: realistic shapes and magnitudes, no chemistry."""

import shutil

import numpy as np
import pytest

from qmgen.dataset import Chunking, Failure, MoleculeRecord, empty_conformers, write_store
from qmgen.dataset.provenance import collect_provenance

# Several shards from a few dozen molecules.
TINY = Chunking(rows=20, elements=200, strings=10, chunks_per_shard=2)


def _record(number, rng, nconf=None, optional_labels=()):
    nat = int(rng.integers(1, 12))
    z = rng.choice(np.array([1, 6, 7, 8, 9], dtype=np.uint8), nat)
    nao = int(np.where(z == 1, 1, 5).sum())
    nconf = int(rng.integers(0, 6)) if nconf is None else nconf
    values = empty_conformers(nat, nao, nconf, optional_labels)
    for array in values.values():
        if array.dtype == np.float64:
            array[...] = rng.normal(size=array.shape)
    values["index"][:] = np.sort(rng.choice(20, nconf, replace=False))
    values["energy"] -= 200
    values["gap"][:] = values["lumo"] - values["homo"]
    values["std"][:] = rng.uniform(0, 0.01, nconf)
    values["converged"][:] = rng.random(nconf) < 0.8
    values["iterations"][:] = rng.integers(5, 30, nconf)
    values["attempts"][:] = rng.integers(1, 3, nconf)
    # A third of the molecules share their SMILES with another line; some have none.
    smile = "" if number % 10 == 9 else "C" * (number % 7 + 1) if number % 3 == 0 else f"CN{number}"
    return MoleculeRecord(
        line=number + 1,
        source_id=f"mol-é{number}",
        smile=smile,
        charge=int(rng.integers(-1, 2)),
        spin=0,
        z=z,
        nao=nao,
        conformers=values,
    )


@pytest.fixture(scope="session")
def make_records():
    def make(count, seed=0, nconf=None, optional_labels=()):
        return [
            _record(i, np.random.default_rng([seed, i]), nconf, optional_labels)
            for i in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def some_failures():
    return [
        Failure(3, "mol-3", "not a smiles", -1, "read", "SMILES does not parse"),
        Failure(7, "mol-7", "CC", 4, "label", "not converged after 128 cycles"),
    ]


@pytest.fixture(scope="session")
def provenance(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "input.smi"
    source.write_text("CC ethane\n", encoding="utf-8")
    return collect_provenance(
        config={"scf": {"xc": "b3lyp5", "basis": "sto-3g"}, "conformers": 5},
        seed=7,
        source=source,
        command="qmgen generate input.smi out",
    )


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def write(tmp_path, provenance):
    """Write records to a fresh folder, cut into tiny shards."""

    def _write(records, failures=(), name="store", **options):
        options = {"split_seed": 1, "chunking": TINY, **options}
        path = tmp_path / name
        write_store(path, records, failures, provenance, **options)
        return path

    return _write


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory, make_records, some_failures, provenance):
    """A store of 40 molecules that tests only read."""
    path = tmp_path_factory.mktemp("shared") / "store"
    write_store(path, make_records(40), some_failures, provenance, split_seed=1, chunking=TINY)
    return path


@pytest.fixture
def own_store(shared_store, tmp_path):
    """A copy of the shared store that a test may damage."""
    return shutil.copytree(shared_store, tmp_path / "store")
