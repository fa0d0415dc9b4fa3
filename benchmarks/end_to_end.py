"""A whole run: `qmgen generate` against a script that loops PySCF over the same conformers.

Both sides have the same number of processes of one thread each. qmgen starts with an empty cache
of compiled programs, and all of its time counts: compilation, conformers, the store. PySCF labels
the first conformers of each molecule, and its time is scaled to all of them; embedding them is not
counted on its side. Run as `make benchmark-run`.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from pyscf import lib

from qmgen.dataset import open_dataset
from qmgen.dft import DFTConfig
from qmgen.dft.interop import pyscf_calculation

MOLECULES = Path(__file__).parents[1] / "tests" / "data" / "molecules" / "gdb_sample.smi"
CONFIG = DFTConfig(functional="b3lyp5", basis="sto-3g", grid_level=0)
Task = tuple[np.ndarray, np.ndarray, int]


def reference_energy(task: Task) -> tuple[float, bool]:
    """Energy in Hartree, and whether it is converged."""
    lib.num_threads(1)
    atomic_numbers, positions, charge = task
    calculation = pyscf_calculation(atomic_numbers, positions, CONFIG, charge)
    return float(calculation.kernel()), bool(calculation.converged)


def generate(
    source: Path, store: Path, cache: Path, conformers: int, workers: int, precision: str
) -> float:
    """Seconds that a run takes, with a folder for compiled programs."""
    command = [sys.executable, "-m", "qmgen.cli", "generate", str(source), str(store)]
    command += ["--functional", CONFIG.functional, "--basis", CONFIG.basis]
    command += ["--grid-level", str(CONFIG.grid_level), "--precision", precision]
    command += ["--conformers", str(conformers), "--workers", str(workers)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=MOLECULES)
    parser.add_argument("--molecules", type=int, default=200)
    parser.add_argument("--conformers", type=int, default=64)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--reference", type=int, default=1, help="conformers that PySCF labels")
    parser.add_argument("--precision", default="mixed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "molecules.smi"
        lines = arguments.input.read_text(encoding="utf-8").splitlines()
        # Spread over the file, which is sorted by size.
        chosen = np.linspace(0, len(lines) - 1, min(arguments.molecules, len(lines))).astype(int)
        source.write_text("".join(f"{lines[n]}\n" for n in chosen), encoding="utf-8")
        store, cache = folder / "run.zarr", folder / "cache"
        seconds = generate(
            source, store, cache, arguments.conformers, arguments.workers, arguments.precision
        )
        programs = len(list(cache.glob("*-cache")))
        dataset = open_dataset(store)
        tasks: list[Task] = []
        labels: list[tuple[str, float, bool]] = []
        weights: list[float] = []
        for number in range(dataset.num_molecules):
            molecule = dataset.molecule(number)
            some = molecule["pos"][: arguments.reference]
            tasks += [
                (molecule["z"].astype(np.int32), xyz, int(molecule["charge"])) for xyz in some
            ]
            labels += [
                (molecule["smile"], float(energy), bool(converged))
                for energy, converged in zip(molecule["energy"], molecule["converged"], strict=True)
            ][: len(some)]
            weights.append(len(molecule["pos"]) / len(some))
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
            references = pool.map(reference_energy, tasks, chunksize=1)
        their_seconds = (time.perf_counter() - start) * float(np.mean(weights))
    errors = []
    for (smiles, energy, ours), (reference, theirs) in zip(labels, references, strict=True):
        if ours and theirs:
            errors.append((abs(energy - reference), smiles))
        else:
            print(f"{smiles}: converged by qmgen {ours}, by PySCF {theirs}")
    error, worst = max(errors)
    print(
        f"{dataset.num_molecules} molecules, {len(dataset)} conformers, {arguments.workers} "
        f"processes, {arguments.precision}"
    )
    print(f"qmgen generate: {seconds:.0f} s, {programs} programs compiled into the cache")
    print(f"PySCF: {their_seconds:.0f} s, from {len(tasks)} conformers")
    print(f"ratio: {their_seconds / seconds:.2f}")
    print(f"largest energy difference of converged conformers: {error:.1e} Ha ({worst})")


if __name__ == "__main__":
    main()
