"""Labels per second per core: qmgen against PySCF's RKS on the same conformers, same options.

Both sides run on one thread, in this process, on the same geometries; compilation is timed apart.
qmgen labels all conformers of a molecule, PySCF the first few of them, whose labels are compared,
so that speed is shown at equal accuracy. Run as `make benchmark`, which does it for the settings
of the table in benchmarks/README.md.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

# Before JAX and libcint start: one thread on each side.
os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    # XLA takes as many threads as there are cores, whatever its flags say.
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax
import numpy as np
from jaxtyping import Float
from pyscf import lib

from qmgen.dataset import package_versions
from qmgen.dataset.provenance import describe_hardware
from qmgen.dft import DFTConfig, label_conformers
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.interop import pyscf_calculation
from qmgen.dft.process_memory import keep_freed_memory
from qmgen.errors import ConformerError
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers, read_molecules
from qmgen.units import BOHR_PER_ANGSTROM

MOLECULES = Path(__file__).parent / "data" / "gdb9.smi"


class Row(NamedTuple):
    """Seconds a label on both sides, and the largest differences, Hartree and Hartree / Bohr."""

    qmgen: float
    pyscf: float
    energy_error: float
    force_error: float


def ours(
    molecule: Molecule, positions: Float[np.ndarray, "nconf nat 3"], config: DFTConfig, forces: bool
) -> tuple[Float[np.ndarray, " nconf"], Float[np.ndarray, "nconf nat 3"] | None]:
    labels = label_conformers(molecule.atomic_numbers, positions, config)
    if not labels.converged.all():
        print(f"{molecule.smiles}: {np.sum(~labels.converged)} not converged", file=sys.stderr)
    if not forces:
        return labels.energy, None
    return labels.energy, nuclear_forces(molecule.atomic_numbers, positions, config, labels)


def theirs(
    molecule: Molecule, positions: Float[np.ndarray, "nat 3"], config: DFTConfig, forces: bool
) -> tuple[float, Float[np.ndarray, "nat 3"] | None]:
    calculation = pyscf_calculation(molecule.atomic_numbers, positions, config)
    energy = calculation.kernel()
    return energy, -calculation.nuc_grad_method().kernel() if forces else None


def compare(
    molecule: Molecule,
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    forces: bool,
    reference: int,
) -> Row:
    start = time.perf_counter()
    energies, our_forces = ours(molecule, positions, config, forces)
    qmgen = (time.perf_counter() - start) / len(positions)
    some = positions[:reference]
    start = time.perf_counter()
    solutions = [theirs(molecule, conformer, config, forces) for conformer in some]
    pyscf = (time.perf_counter() - start) / len(some)
    energy_error = max(abs(e - ours) for (e, _), ours in zip(solutions, energies, strict=False))
    force_error = 0.0
    if our_forces is not None:
        pairs = zip(solutions, our_forces, strict=False)
        force_error = max(float(np.abs(f - ours).max()) for (_, f), ours in pairs)
    return Row(qmgen, pyscf, float(energy_error), force_error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=20)
    parser.add_argument("--conformers", type=int, default=64)
    parser.add_argument("--reference", type=int, default=2, help="conformers that PySCF labels")
    parser.add_argument("--functional", default="b3lyp5")
    parser.add_argument("--basis", default="sto-3g")
    parser.add_argument("--grid-level", type=int, default=0)
    parser.add_argument("--precision", default="mixed")
    parser.add_argument("--two-electron", default="exact")
    parser.add_argument("--forces", action="store_true")
    parser.add_argument("--input", type=Path, default=MOLECULES)
    arguments = parser.parse_args()
    config = DFTConfig(
        functional=arguments.functional,
        basis=arguments.basis,
        grid_level=arguments.grid_level,
        precision=arguments.precision,
        two_electron=arguments.two_electron,
    )
    lib.num_threads(1)
    keep_freed_memory()

    rows: list[Row] = []
    compile_seconds = 0.0
    programs = 0
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(seconds)
            if event == "/jax/core/compile/backend_compile_duration"
            else None
        )
    )
    compiled: list[float] = []
    print("| molecule | qmgen s | PySCF s | ratio | max error Ha | of forces Ha/Bohr |")
    print("|---|---|---|---|---|---|")
    wanted = ConformerConfig(per_molecule=arguments.conformers)
    for molecule in (m for m in read_molecules(arguments.input) if isinstance(m, Molecule)):
        if len(rows) == arguments.molecules:
            break
        try:
            positions = BOHR_PER_ANGSTROM * embed_conformers(molecule, wanted, run_seed=0)
        except ConformerError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        compiled.clear()
        row = compare(molecule, positions, config, arguments.forces, arguments.reference)
        if compiled:
            # Once more without compilation, which is counted apart.
            compile_seconds += sum(compiled)
            programs += len(compiled)
            row = compare(molecule, positions, config, arguments.forces, arguments.reference)
        rows.append(row)
        print(
            f"| {molecule.smiles} | {row.qmgen:.3f} | {row.pyscf:.3f} "
            f"| {row.pyscf / row.qmgen:.2f} | {row.energy_error:.1e} | {row.force_error:.1e} |",
            flush=True,
        )
    our_seconds, their_seconds, energy_error, force_error = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    ratio = their_seconds / our_seconds
    print()
    print(f"{config.functional}/{arguments.basis}, grid {config.grid_level}, {config.precision}, ")
    print(
        f"labels per second per core: qmgen {1 / our_seconds.mean():.2f}, "
        f"PySCF {1 / their_seconds.mean():.2f}"
    )
    print(
        f"ratio to PySCF: median {statistics.median(ratio):.2f}, {ratio.min():.2f} to "
        f"{ratio.max():.2f}"
    )
    print(f"compile time apart: {compile_seconds:.1f} s for {programs} programs")
    print(f"largest error: {energy_error.max():.1e} Ha, {force_error.max():.1e} Ha/Bohr")
    hardware = describe_hardware([d.device_kind for d in jax.devices()])
    print(
        f"{hardware.cpu}, {hardware.cores} cores, one thread each side; {platform.system()}; "
        f"{package_versions()}"
    )


if __name__ == "__main__":
    main()
