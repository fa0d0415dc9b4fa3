"""Conformers per second of every loader, in shuffled order, against schnetpack's ASE database.

All read atomic numbers, positions, energies and forces of the same synthetic store, in one process
and batches of the same size; the database is smaller, and a part of it is read. Memory is what the
process has resident after a quarter and at the end of an epoch. Run as `make benchmark-loaders`.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader

from qmgen.dataset import (
    Dataset,
    MoleculeRecord,
    batch_loader,
    collect_provenance,
    empty_conformers,
    open_dataset,
    padded_batches,
    write_store,
)
from qmgen.training import (
    BatchStream,
    ConformerDataModule,
    TrainConfig,
    iter_atoms,
    pyg_batch,
    schnetpack_batch,
)
from qmgen.training.export_ase import export_ase_database
from qmgen.training.neighbors import NeighborList

ATOMS = 18
CUTOFF_ANGSTROM = 5.0
COLUMNS = ("z", "pos", "energy", "forces")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conformers", type=int, default=200_000)
    parser.add_argument("--per-molecule", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--database", type=int, default=10_000, help="Conformers in the database.")
    parser.add_argument("--slow", type=int, default=2_000, help="Of which the peer reads so many.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = make_store(folder / "large.zarr", arguments.conformers, arguments.per_molecule)
        small = make_store(folder / "small.zarr", arguments.database, arguments.per_molecule)
        export_ase_database(small, folder / "small.db")
        print(
            f"{arguments.conformers} conformers of {ATOMS} atoms, batches of "
            f"{arguments.batch_size}; the database has {arguments.database}"
        )
        print("| | conformers/s | ratio | of processor time | ratio | MiB, quarter | MiB, end |")
        print("|---|---|---|---|---|---|---|")
        for neighbors in (False, True):
            batches = database_batches(folder / "small.db", arguments.batch_size, neighbors)
            peer = measure(islice(batches, arguments.slow // arguments.batch_size))
            kind = f"neighbours within {CUTOFF_ANGSTROM:g} A" if neighbors else "no neighbours"
            show(f"schnetpack `ASEAtomsData`, {kind}", peer, peer)
            for title, loader in loaders(dataset, arguments.batch_size, neighbors):
                show(title, measure(loader), peer)


def loaders(dataset: Dataset, size: int, neighbors: bool) -> Iterator[tuple[str, Iterable[int]]]:
    """Loaders of qmgen with or without neighbours, as iterators over the sizes of batches."""
    loader = batch_loader(dataset, size, columns=COLUMNS, seed=0)
    if neighbors:
        convert = partial(
            schnetpack_batch,
            neighbor_list=NeighborList(CUTOFF_ANGSTROM),
            targets=("energy", "forces"),
        )
        stream = DataLoader(BatchStream(loader, convert), batch_size=None)
        yield "schnetpack inputs", (len(batch["energy"]) for batch in stream)
        config = TrainConfig(
            targets={"energy": 1.0, "forces": 1.0},
            batch_size=size,
            cutoff_angstrom=CUTOFF_ANGSTROM,
            train_size=len(dataset) // 20,
        )
        for title, gib in (("trainer, from memory", 4.0), ("trainer, from the store", 0.0)):
            module = ConformerDataModule(dataset, config.model_copy(update={"in_memory_gib": gib}))
            batches = module.train_dataloader()
            yield f"{title}, of {len(module.train)}", (len(batch["_n_atoms"]) for batch in batches)
        return
    yield "NumPy", (len(batch) for batch in loader.batches())
    yield "NumPy or JAX, padded", (int(batch.row_mask.sum()) for batch in padded_batches(loader))
    stream = DataLoader(BatchStream(loader), batch_size=None)
    yield "PyTorch", (len(batch["row"]) for batch in stream)
    pyg_batch(next(loader.batches()))  # imports it
    graphs = DataLoader(BatchStream(loader, pyg_batch), batch_size=None)
    yield "PyTorch Geometric", (batch.num_graphs for batch in graphs)
    yield "ASE `Atoms`, stored order", (1 for _ in islice(iter_atoms(dataset), len(dataset) // 10))


def database_batches(path: Path, size: int, neighbors: bool) -> Iterator[int]:
    """Batches of schnetpack's own loader, with the fastest of its neighbour lists."""
    # After qmgen.training, without which some releases can't be imported.
    from schnetpack.data import ASEAtomsData, AtomsLoader
    from schnetpack.transform import TorchNeighborList

    transforms = [TorchNeighborList(cutoff=CUTOFF_ANGSTROM)] if neighbors else None
    data = ASEAtomsData(str(path), load_properties=["energy", "forces"], transforms=transforms)
    return (len(batch["energy"]) for batch in AtomsLoader(data, batch_size=size, shuffle=True))


def measure(sizes: Iterable[int]) -> tuple[float, float, list[float]]:
    """Conformers a second and a second of processor time, and resident MiB after each batch."""
    process = psutil.Process()
    number, memory = 0, []
    start, cpu = time.perf_counter(), time.process_time()
    for size in sizes:
        number += size
        memory.append(process.memory_info().rss / 2**20)
    return (
        number / (time.perf_counter() - start),
        number / (time.process_time() - cpu),
        memory,
    )


def show(title: str, found: tuple[float, float, list[float]], peer: tuple) -> None:
    rate, cpu_rate, memory = found
    print(
        f"| {title} | {rate:,.0f} | {rate / peer[0]:.1f} | {cpu_rate:,.0f} | "
        f"{cpu_rate / peer[1]:.1f} | {memory[len(memory) // 4]:.0f} | {memory[-1]:.0f} |",
        flush=True,
    )


def make_store(path: Path, conformers: int, per_molecule: int) -> Dataset:
    provenance = collect_provenance(config={}, seed=0, source=__file__, command="")
    write_store(
        path,
        records(conformers, per_molecule),
        (),
        provenance,
        split_seed=0,
        optional_labels=("forces",),
    )
    return open_dataset(path)


def records(conformers: int, per_molecule: int) -> Iterator[MoleculeRecord]:
    """Molecules of as many atoms as QM9's, on a grid of bond lengths; labels at random."""
    rng = np.random.default_rng(0)
    sites = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 2.4
    for number in range(conformers // per_molecule):
        z = rng.choice(np.array([1, 6, 7, 8], np.uint8), ATOMS, p=[0.5, 0.35, 0.07, 0.08])
        nao = int(np.where(z == 1, 1, 5).sum())
        values = empty_conformers(ATOMS, nao, per_molecule, ("forces",))
        for array in values.values():
            if array.dtype == np.float64:
                array[...] = rng.normal(scale=0.1, size=array.shape)
        values["index"][:] = np.arange(per_molecule)
        values["converged"][:] = True
        values["energy"] -= 380.0
        values["pos"] += rng.permutation(sites)[:ATOMS]
        yield MoleculeRecord(number + 1, f"m{number}", f"C{number}", 0, 0, z, nao, values)


if __name__ == "__main__":
    main()
