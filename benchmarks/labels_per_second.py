"""Labels per second per core: qmgen against PySCF's RKS on the same conformers, same options.

Both sides run on one thread, in this process, on the same geometries; compilation is timed apart.
Every label is also compared, so that speed is shown at equal accuracy. Run as `make benchmark`.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

# Before JAX and libcint start: one thread on each side.
os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    # XLA takes as many threads as there are cores, whatever its flags say.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax
import numpy as np
from pyscf import lib

from qmgen.dataset import package_versions
from qmgen.dataset.provenance import describe_hardware
from qmgen.dft import DFTConfig, label_conformers, program_shape
from qmgen.dft.interop import pyscf_calculation
from qmgen.errors import ConformerError
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers, read_molecules
from qmgen.units import BOHR_PER_ANGSTROM

MOLECULES = Path(__file__).parent / "data" / "gdb9.smi"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=20)
    parser.add_argument("--conformers", type=int, default=4)
    parser.add_argument("--functional", default="b3lyp5")
    parser.add_argument("--basis", default="sto-3g")
    parser.add_argument("--grid-level", type=int, default=0)
    parser.add_argument("--precision", default="mixed")
    parser.add_argument("--input", type=Path, default=MOLECULES)
    arguments = parser.parse_args()
    config = DFTConfig(
        functional=arguments.functional,
        basis=arguments.basis,
        grid_level=arguments.grid_level,
        precision=arguments.precision,
    )
    lib.num_threads(1)

    records = [m for m in read_molecules(arguments.input) if isinstance(m, Molecule)]
    rows, shapes = [], set()
    compile_seconds = 0.0
    print("| molecule | orbitals | qmgen s | PySCF s | ratio | max error Ha |")
    print("|---|---|---|---|---|---|")
    wanted = ConformerConfig(per_molecule=arguments.conformers)
    for molecule in records:
        if len(rows) == arguments.molecules:
            break
        try:
            positions = BOHR_PER_ANGSTROM * embed_conformers(molecule, wanted, run_seed=0)
        except ConformerError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        shape = program_shape(molecule.atomic_numbers, config)
        if shape not in shapes:
            shapes.add(shape)
            start = time.perf_counter()
            label_conformers(molecule.atomic_numbers, positions[:1], config)
            first = time.perf_counter() - start
            start = time.perf_counter()
            label_conformers(molecule.atomic_numbers, positions[:1], config)
            compile_seconds += first - (time.perf_counter() - start)
        start = time.perf_counter()
        labels = label_conformers(molecule.atomic_numbers, positions, config)
        ours = (time.perf_counter() - start) / len(positions)
        errors = []
        start = time.perf_counter()
        for conformer, energy in zip(positions, labels.energy, strict=True):
            reference = pyscf_calculation(molecule.atomic_numbers, conformer, config)
            errors.append(abs(reference.kernel() - energy))
        theirs = (time.perf_counter() - start) / len(positions)
        nao = labels.orbital_energies.shape[1]
        rows.append((ours, theirs, max(errors)))
        print(
            f"| {molecule.smiles} | {nao} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} "
            f"| {max(errors):.1e} |",
            flush=True,
        )
    ours_all, theirs_all, error_all = (np.array(column) for column in zip(*rows, strict=True))
    print()
    print(
        f"labels per second per core: qmgen {1 / ours_all.mean():.2f}, "
        f"PySCF {1 / theirs_all.mean():.2f}"
    )
    print(
        f"ratio to PySCF: median {statistics.median(theirs_all / ours_all):.2f}, "
        f"{(theirs_all / ours_all).min():.2f} to {(theirs_all / ours_all).max():.2f}"
    )
    print(f"compile time apart: {compile_seconds:.1f} s for {len(shapes)} programs")
    print(f"largest energy error: {error_all.max():.1e} Ha")
    hardware = describe_hardware([d.device_kind for d in jax.devices()])
    print(
        f"{hardware.cpu}, {hardware.cores} cores, one thread each side; {platform.system()}; "
        f"{package_versions()}"
    )


if __name__ == "__main__":
    main()
