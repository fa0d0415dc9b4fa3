"""Differences from PySCF over molecules, bases and functionals, in each precision.

Run as `make accuracy`.
"""

import itertools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np

from qmgen.dft import DFTConfig, label_conformers
from qmgen.dft.interop import pyscf_calculation
from qmgen.molecules import ConformerConfig, embed_conformers, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM, DEBYE_PER_ATOMIC_UNIT

MOLECULES = (
    "O", "CO", "C=O", "C#N", "NC=O", "CF", "FCF", "C1CO1", "CS", "O=S=O", "CCl", "ClC=O", "CP",
    "FP(F)F", "[NH4+]", "[O-]C=O",
)  # fmt: skip
BASES = ("sto-3g", "6-31g*", "def2-svp")
FUNCTIONALS = ("hf", "svwn", "pbe", "pbe0", "b3lyp", "b3lyp5", "b3lypg")


def main() -> None:
    functionals = itertools.cycle(FUNCTIONALS)
    errors: dict[str, list[tuple[float, ...]]] = {
        "float64": [],
        "mixed": [],
        "float32": [],
    }
    print("| molecule | basis | functional | cycles | energy Ha | HOMO Ha | LUMO Ha | dipole D |")
    print("|---|---|---|---|---|---|---|---|")
    for basis, smiles in itertools.product(BASES, MOLECULES):
        functional = next(functionals)
        molecule = molecule_from_smiles(smiles)
        positions = BOHR_PER_ANGSTROM * embed_conformers(
            molecule, ConformerConfig(per_molecule=1), run_seed=1
        )
        for precision, rows in errors.items():
            config = DFTConfig(
                functional=functional, basis=basis, grid_level=1, precision=precision
            )
            reference = pyscf_calculation(
                molecule.atomic_numbers, positions[0], config, molecule.charge
            )
            # Converged further than what is compared, so that the error is not PySCF's.
            reference.conv_tol_grad = 1e-6
            energy = reference.kernel()
            nocc = molecule.nelectron // 2
            labels = label_conformers(
                molecule.atomic_numbers, positions, config, charge=molecule.charge
            )
            if not (labels.converged[0] and reference.converged):
                raise SystemExit(f"{smiles} {functional}/{basis} did not converge")
            dipole = labels.dipole[0] * DEBYE_PER_ATOMIC_UNIT - reference.dip_moment(verbose=0)
            row = (
                abs(labels.energy[0] - energy),
                abs(labels.homo[0] - reference.mo_energy[nocc - 1]),
                abs(labels.lumo[0] - reference.mo_energy[nocc]),
                float(np.abs(dipole).max()),
            )
            rows.append(row)
            print(
                f"| {smiles} | {basis} | {functional} | {precision} | "
                + " | ".join(f"{x:.1e}" for x in row)
                + " |",
                flush=True,
            )
    print()
    for precision, rows in errors.items():
        table = np.array(rows)
        print(f"{precision}, {len(table)} combinations (energy Ha, HOMO Ha, LUMO Ha, dipole D)")
        for name, q in (("median", 50), ("90 %", 90), ("maximum", 100)):
            print(f"  {name:8s}", "  ".join(f"{x:.1e}" for x in np.percentile(table, q, axis=0)))


if __name__ == "__main__":
    main()
