"""Graphs and a store of real molecules with made-up labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qmgen.dataset import MoleculeRecord, collect_provenance, empty_conformers, write_store
from qmgen.knowledge.graph import KnowledgeGraph, distinct_triples
from qmgen.molecules import molecule_from_smiles

# The eleventh is the first once more, in another writing.
SMILES = (
    "CCO",
    "Cc1ccccc1O",
    "c1ccccc1O",
    "CC(=O)O",
    "C1CC1CO",
    "C1CC1CCO",
    "CC(=O)Nc1ccccc1",
    "c1ccncc1",
    "C#N",
    "Cn1cccc1",
    "OCC",
)


@pytest.fixture(scope="session")
def random_graph() -> Callable[..., KnowledgeGraph]:
    """Graphs of random triples, loops included."""

    def make(seed: int, draws: int = 60, entities: int = 8, relations: int = 3) -> KnowledgeGraph:
        rng = np.random.default_rng(seed)
        triples = np.stack([rng.integers(0, n, draws) for n in (entities, relations, entities)], 1)
        return KnowledgeGraph(
            tuple(f"é {i}/x" for i in range(entities)),
            tuple(f"r{i}" for i in range(relations)),
            distinct_triples(triples),
            ("entity",),
            np.zeros(entities, dtype=np.int64),
        )

    return make


def made_up_record(smiles: str, line: int) -> MoleculeRecord:
    """A molecule with random labels; the ninth has no SMILES."""
    molecule = molecule_from_smiles(smiles)
    z = molecule.atomic_numbers.astype(np.uint8)
    nao = int(np.where(z == 1, 1, 5).sum())
    values = empty_conformers(z.size, nao, 3)
    rng = np.random.default_rng(line)
    for array in values.values():
        if array.dtype == np.float64:
            array[...] = rng.normal(scale=0.2, size=array.shape)
    values["index"][:] = np.arange(3)
    values["homo"][:] = rng.uniform(-0.4, -0.2, 3)
    values["lumo"][:] = rng.uniform(0.0, 0.2, 3)
    values["gap"][:] = values["lumo"] - values["homo"]
    values["converged"][:] = [True, True, False]
    values["energy"][2] = -1e3
    values["attempts"][:] = 1
    smile = "" if line == 9 else molecule.smiles
    return MoleculeRecord(line, f"m{line}", smile, 0, molecule.spin, z, nao, values)


def store_of(records: list[MoleculeRecord], folder: Path) -> Path:
    """Write a store of molecules to a folder."""
    source = folder / "input.smi"
    source.write_text("CC\n", encoding="utf-8")
    about = collect_provenance(
        config={"dft": {"functional": "b3lyp", "basis": "sto-3g"}},
        seed=1,
        source=source,
        command="qmgen generate input.smi out",
    )
    write_store(folder / "store.zarr", records, [], about, split_seed=1)
    return folder / "store.zarr"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [made_up_record(smiles, line) for line, smiles in enumerate(SMILES, start=1)]
    return store_of(records, tmp_path_factory.mktemp("knowledge"))
