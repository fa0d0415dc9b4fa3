"""Labels per second of one accelerator, by batch size and source of the integrals.

Integrals come from the engine's default, or from libcint on the host's cores. The peer is PySCF's
RKS on one thread of the host, on the first conformers of each molecule, whose energies are
compared; what the first call takes longer is compilation, given apart. Run as
`make benchmark-accelerator` where JAX finds a GPU; without one it measures the CPU in the same way.
"""

import argparse
import itertools
import os
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from pyscf import lib

from qmgen.dft import DFTConfig, label_conformers
from qmgen.dft.integrals import libcint_integrals
from qmgen.dft.interop import pyscf_calculation
from qmgen.errors import ConformerError
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers, read_molecules
from qmgen.units import BOHR_PER_ANGSTROM

MOLECULES = Path(__file__).parent / "data" / "gdb9.smi"


def timed_labels(
    molecule: Molecule,
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    batch_size: int,
    integrals: str,
) -> tuple[Float[np.ndarray, " nconf"], float]:
    """Energies, Hartree, and the seconds of all of them; not converged ones are NaN."""
    engine = {"default": None, "libcint": libcint_integrals}[integrals]
    start = time.perf_counter()
    labels = label_conformers(
        molecule.atomic_numbers, positions, config, batch_size=batch_size, integral_engine=engine
    )
    return np.where(labels.converged, labels.energy, np.nan), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, default=MOLECULES)
    parser.add_argument("--molecules", type=int, default=3)
    parser.add_argument("--conformers", type=int, default=256)
    parser.add_argument("--batch-sizes", default="32,128")
    parser.add_argument("--integrals", default="default,libcint")
    parser.add_argument("--precisions", default="mixed,float64")
    parser.add_argument("--reference", type=int, default=2, help="conformers that PySCF labels")
    parser.add_argument("--host-threads", type=int, default=os.cpu_count())
    parser.add_argument("--functional", default="b3lyp5")
    parser.add_argument("--basis", default="sto-3g")
    parser.add_argument("--grid-level", type=int, default=0)
    arguments = parser.parse_args()
    (device, *_) = jax.devices()
    print(
        f"{device.device_kind} ({device.platform}), JAX {jax.__version__}, {os.cpu_count()} cores"
    )

    wanted = ConformerConfig(per_molecule=arguments.conformers)
    chosen: list[tuple[Molecule, np.ndarray]] = []
    for molecule in (m for m in read_molecules(arguments.input) if isinstance(m, Molecule)):
        if len(chosen) == arguments.molecules:
            break
        try:
            embedded = embed_conformers(molecule, wanted, run_seed=0)
        except ConformerError as error:
            print(f"left out: {error}")
            continue
        chosen.append((molecule, BOHR_PER_ANGSTROM * embedded))
    config = DFTConfig(
        functional=arguments.functional, basis=arguments.basis, grid_level=arguments.grid_level
    )
    lib.num_threads(1)
    references, start = [], time.perf_counter()
    for molecule, positions in chosen:
        of_molecule = [
            pyscf_calculation(molecule.atomic_numbers, conformer, config)
            for conformer in positions[: arguments.reference]
        ]
        references.append([calculation.kernel() for calculation in of_molecule])
    their_rate = len(chosen) * arguments.reference / (time.perf_counter() - start)
    print(f"PySCF, one thread: {their_rate:.2f} labels/s", flush=True)
    lib.num_threads(arguments.host_threads)

    print(
        "| integrals | precision | batch | labels/s | ratio to a PySCF core | error Ha | first s |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for integrals, precision, size in itertools.product(
        arguments.integrals.split(","),
        arguments.precisions.split(","),
        map(int, arguments.batch_sizes.split(",")),
    ):
        of_row = config.model_copy(update={"precision": precision})
        first = seconds = 0.0
        conformers, errors = 0, []
        for (molecule, positions), energies in zip(chosen, references, strict=True):
            _, with_compilation = timed_labels(molecule, positions, of_row, size, integrals)
            found, again = timed_labels(molecule, positions, of_row, size, integrals)
            first += with_compilation - again
            seconds += again
            conformers += len(positions)
            errors.append(np.abs(found[: arguments.reference] - energies).max())
            if np.isnan(found).any():
                print(f"{molecule.smiles}: {np.isnan(found).sum()} not converged")
        rate = conformers / seconds
        print(
            f"| {integrals} | {precision} | {size} | {rate:.1f} | {rate / their_rate:.1f} "
            f"| {np.max(errors):.1e} | {first:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
