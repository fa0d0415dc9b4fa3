"""A step on the Kohn-Sham energy against an SCF of PySCF on the same conformers.

A step is the loss of a batch of predicted Hamiltonians and its derivative; a network's own time and
the integrals, which are made ahead, are given apart. One thread on both sides; compilation is not
part of the times. Run as `make benchmark-loss`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from qmgen.dft import DFTConfig
from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.dft.interop import pyscf_calculation
from qmgen.molecules import ConformerConfig, embed_conformers, read_molecules
from qmgen.training.dft_loss import kohn_sham_energy
from qmgen.training.hamiltonian import HamiltonianConfig, HamiltonianModel
from qmgen.training.hamiltonian.inputs import batch_of, conformers_of
from qmgen.training.neighbors import NeighborList
from qmgen.units import BOHR_PER_ANGSTROM

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT / "workflows/data/demo.smi")
    parser.add_argument("--molecules", type=int, default=8, help="The last ones of the file.")
    parser.add_argument("--precision", default="float64", choices=("float64", "float32"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    use_compilation_cache()
    dft = DFTConfig(functional="b3lyp", basis="sto-3g", grid_level=0, precision=arguments.precision)
    molecules = list(read_molecules(arguments.source))[-arguments.molecules :]
    elements = tuple(sorted({int(z) for m in molecules for z in m.atomic_numbers}))
    model = HamiltonianModel(HamiltonianConfig(dft=dft), elements)
    places = [embed_conformers(m, ConformerConfig(per_molecule=1), 0) for m in molecules]

    def prepare() -> list:
        return [
            conformer
            for m, place in zip(molecules, places, strict=True)
            for conformer in conformers_of(
                m.atomic_numbers,
                place * BOHR_PER_ANGSTROM,
                dft,
                model.slots,
                NeighborList(model.config.cutoff_angstrom),
                m.charge,
            )
        ]

    conformers = prepare()
    integrals_s = timed(prepare, 1)
    problems = [conformer.problem for conformer in conformers]
    batch = batch_of(conformers, model.slots)

    def network() -> list[torch.Tensor]:
        return model.hamiltonians(batch)

    hamiltonians = [H.detach().requires_grad_() for H in network()]

    def step() -> None:
        kohn_sham_energy("hamiltonian", problems, hamiltonians).sum().backward()

    def whole() -> None:
        kohn_sham_energy("hamiltonian", problems, network()).sum().backward()

    step_s, whole_s = timed(step, arguments.repeats), timed(whole, arguments.repeats)
    start = time.perf_counter()
    for m, place in zip(molecules, places, strict=True):
        mf = pyscf_calculation(m.atomic_numbers, place[0] * BOHR_PER_ANGSTROM, dft, m.charge, 0)
        mf.kernel()
    pyscf_s = time.perf_counter() - start
    number = len(conformers)
    print(f"{number} conformers, B3LYP/STO-3G, grid level 0, {arguments.precision}")
    print(f"loss and derivative   {1e3 * step_s / number:8.1f} ms a conformer")
    print(f"with the network      {1e3 * whole_s / number:8.1f} ms")
    print(f"integrals, once       {1e3 * integrals_s / number:8.1f} ms")
    print(f"SCF of PySCF          {1e3 * pyscf_s / number:8.1f} ms")
    print(f"SCF of PySCF over loss and derivative: {pyscf_s / step_s:.0f}")
    print(f"SCF of PySCF over a step with the network: {pyscf_s / whole_s:.0f}")
    print(f"... with integrals made anew for it: {pyscf_s / (whole_s + integrals_s):.1f}")


def timed(function, repeats: int) -> float:
    """Median seconds of some calls after a first one."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main()
