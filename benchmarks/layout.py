"""Qmgen's store, cut in several ways, against Parquet and HDF5 with the same rows.

All hold the same labels of the same synthetic conformers of real molecules and compress with
Zstandard at the same level. What is read are atomic numbers, positions, energies and forces: in
stored order; in blocks of 2048 neighbours at random, of which 16 at a time are mixed, by the same
code for all; and one conformer at a time. One thread each; the operating system is asked to forget
the files before each reading. Rates are of processor time, those by the clock follow in brackets;
kilobytes are what one conformer took from the files, which no other work on the machine changes.
Run as `make benchmark-layout`.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import zarr
from layout_peers import (
    OPTIONAL,
    Rows,
    open_hdf5,
    open_parquet,
    parquet_files,
    write_hdf5,
    write_parquet,
)

from qmgen.dataset import (
    BatchLoader,
    Chunking,
    MoleculeRecord,
    collect_provenance,
    empty_conformers,
    open_dataset,
    write_store,
)
from qmgen.dataset.row_mask import RowMask
from qmgen.molecules import ConformerConfig, embed_conformers, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM

COLUMNS = ("z", "pos", "energy", "forces")
BLOCK_ROWS, WINDOW_BLOCKS, BATCH_SIZE = 2048, 16, 100
SCAN_ROWS = 16384
SOURCE = Path(__file__).parents[1] / "workflows" / "data" / "scaling.smi"
DEFAULT = Chunking()
MILLION = 1_000_000


class Cost(NamedTuple):
    """Seconds of processor time and by the clock, and bytes that were read from files."""

    processor: float
    clock: float
    read: int


@dataclass(frozen=True)
class Layout:
    """A way to write records, and to open what was written."""

    title: str
    write: Callable[[Path, list[MoleculeRecord]], None]
    open: Callable[[Path], Rows]
    files: Callable[[Path, float], int]
    """How many files there would be with so many times the conformers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conformers", type=int, default=200_000)
    parser.add_argument("--per-molecule", type=int, default=64)
    parser.add_argument("--single", type=int, default=200, help="Conformers read one at a time.")
    parser.add_argument("--repeats", type=int, default=2, help="Of reading; the best one counts.")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    zarr.config.set({"threading.max_workers": 1})
    records = list(synthetic_records(arguments.conformers, arguments.per_molecule))
    conformers = sum(record.num_conformers for record in records)
    atoms = np.mean([record.z.size for record in records])
    print(f"{conformers} conformers of {len(records)} molecules, {atoms:.1f} atoms on average")
    print(
        "| | in order, 1000/s | shuffled, 1000/s | kB | one alone, ms | kB | bytes stored | files "
        "a million | written, 1000/s |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for layout in layouts():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data"
            writing = measure(lambda: layout.write(path, records))  # noqa: B023
            files = [file for file in path.rglob("*") if file.is_file()]
            rows = layout.open(path)
            again = partial(best, files, arguments.repeats)
            scan = again(partial(in_order, rows))
            shuffle = again(partial(shuffled, rows))
            single = again(partial(one_by_one, rows, arguments.single))
            cells = [
                layout.title,
                rate(conformers, scan),
                rate(conformers, shuffle),
                f"{shuffle.read / conformers / 1000:.2f}",
                f"{single.processor / arguments.single * 1000:.1f} "
                f"({single.clock / arguments.single * 1000:.1f})",
                f"{single.read / arguments.single / 1000:.0f}",
                f"{sum(file.stat().st_size for file in files) / conformers:.0f}",
                f"{layout.files(path, MILLION / conformers)}",
                rate(conformers, writing),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def layouts() -> Iterator[Layout]:
    """Stores cut in several ways, the default first; the peers in small and in large pieces."""
    for cut in (
        DEFAULT,
        Chunking(rows=16384, elements=65536, chunks_per_shard=16),
        Chunking(rows=16384, elements=65536, chunks_per_shard=64),
        Chunking(rows=2048, elements=16384, chunks_per_shard=64),
        Chunking(rows=16384, elements=262144, chunks_per_shard=16),
    ):
        title = f"qmgen, {cut.rows} rows, {cut.elements} values, {cut.chunks_per_shard} a shard"
        yield Layout(title, partial(write_qmgen, cut=cut), open_dataset, store_files)
    for size in (BLOCK_ROWS, SCAN_ROWS):
        write = partial(write_parquet, group_rows=size, level=DEFAULT.level)
        yield Layout(f"Parquet, row groups of {size}", write, open_parquet, parquet_files)
    for cut in (Chunking(rows=BLOCK_ROWS, elements=16384), Chunking(rows=16384, elements=65536)):
        title = f"HDF5, {cut.rows} rows, {cut.elements} values a chunk"
        yield Layout(title, partial(write_hdf5, cut=cut), open_hdf5, lambda *_: 1)


def write_qmgen(path: Path, records: list[MoleculeRecord], *, cut: Chunking) -> None:
    about = collect_provenance(config={}, seed=0, source=SOURCE, command="")
    write_store(path, records, (), about, split_seed=0, optional_labels=OPTIONAL, chunking=cut)


def store_files(path: Path, times: float) -> int:
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    arrays = [member for _, member in members if isinstance(member, zarr.Array)]
    shards = [
        math.ceil(array.shape[0] * times / (array.shards or array.chunks)[0]) for array in arrays
    ]
    return len([*path.rglob("zarr.json")]) + sum(shards)


def in_order(rows: Rows) -> None:
    for start in range(0, len(rows), SCAN_ROWS):
        rows.batch(np.arange(start, min(start + SCAN_ROWS, len(rows))), COLUMNS)


def shuffled(rows: Rows) -> None:
    places = np.arange(-(-len(rows) // BLOCK_ROWS) * BLOCK_ROWS).reshape(-1, BLOCK_ROWS)
    wanted = places < len(rows)
    mask = RowMask(np.packbits(wanted, axis=1), wanted.sum(axis=1), BLOCK_ROWS)
    # The loader asks no more of a dataset than this.
    loader = BatchLoader(rows, mask, COLUMNS, BATCH_SIZE, 0, WINDOW_BLOCKS, False, 0)  # type: ignore[arg-type]
    read = sum(len(batch) for batch in loader.batches())
    assert read == len(rows)


def one_by_one(rows: Rows, number: int) -> None:
    for row in np.random.default_rng(0).integers(len(rows), size=number).tolist():
        rows.batch(np.array([row]), COLUMNS)


def best(files: list[Path], repeats: int, work: Callable[[], None]) -> Cost:
    """Cheapest of several readings, each of files that are not in memory if the system obliges."""
    found = []
    for _ in range(repeats):
        for file in files:
            forget(file)
        found.append(measure(work))
    return min(found)


def forget(path: Path) -> None:
    """Let the operating system write a file and drop what it keeps of it in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def measure(work: Callable[[], None]) -> Cost:
    read, clock, processor = bytes_read(), time.perf_counter(), time.process_time()
    work()
    spent = time.process_time() - processor, time.perf_counter() - clock
    return Cost(*spent, bytes_read() - read)


def bytes_read() -> int:
    """Bytes that this process has asked the operating system for (Linux)."""
    name, count = Path("/proc/self/io").read_text(encoding="utf-8").split()[:2]
    assert name == "rchar:"
    return int(count)


def rate(number: int, cost: Cost) -> str:
    return f"{number / cost.processor / 1000:.0f} ({number / cost.clock / 1000:.0f})"


def synthetic_records(conformers: int, per_molecule: int) -> Iterator[MoleculeRecord]:
    """Molecules of the scaling law, each embedded once and rattled; labels at random."""
    rng = np.random.default_rng(0)
    shapes = []
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        molecule = molecule_from_smiles(line.split()[0])
        positions = embed_conformers(molecule, ConformerConfig(per_molecule=1), 0)[0]
        shapes.append((molecule, BOHR_PER_ANGSTROM * positions))
        if len(shapes) * per_molecule >= conformers:
            break
    wanted = -(-conformers // per_molecule)
    for number, (molecule, positions) in zip(range(wanted), cycle(shapes), strict=False):
        z = molecule.atomic_numbers.astype(np.uint8)
        nao = int(np.where(z == 1, 1, 5).sum())
        values = empty_conformers(z.size, nao, per_molecule, OPTIONAL)
        for array in values.values():
            if array.dtype == np.float64:
                array[...] = rng.normal(scale=0.1, size=array.shape)
        values["pos"] += positions
        values["energy"] -= 6.3 * float(z.sum())
        values["nuclear_repulsion"] += 250.0
        values["orbital_energies"].sort(axis=1)
        values["gap"][:] = values["lumo"] - values["homo"]
        values["std"][:] = 10.0 ** rng.uniform(-8, -5, per_molecule)
        values["index"][:] = np.arange(per_molecule)
        values["converged"][:] = True
        values["iterations"][:] = rng.integers(5, 14, per_molecule)
        values["attempts"][:] = 1
        yield MoleculeRecord(number + 1, f"m{number}", molecule.smiles, 0, 0, z, nao, values)


if __name__ == "__main__":
    main()
