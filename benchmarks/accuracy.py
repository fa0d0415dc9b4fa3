"""Differences from PySCF over molecules, bases and functionals; fails above the stated bars.

Run as `make accuracy`. Every combination is labelled in float64; every third in the other
precisions, too, and of every seventh the forces are compared. Both are prime to the number of
functionals, so that each has its turn.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np
from jaxtyping import Float
from pyscf import scf

from qmgen.dft import ConformerLabels, DFTConfig, label_conformers
from qmgen.dft.forces import nuclear_forces
from qmgen.dft.functionals import FUNCTIONAL_NAMES
from qmgen.dft.interop import pyscf_calculation
from qmgen.dft.process_memory import forget_programs
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM, DEBYE_PER_ATOMIC_UNIT

CLOSED_SHELLS = (
    "O", "N", "CO", "C=O", "C#N", "NC=O", "CF", "FCF", "C1CO1", "CS", "O=S=O", "CCl", "ClC=O",
    "CP", "FP(F)F", "OO", "FCl", "C=C",
)  # fmt: skip
IONS = ("[NH4+]", "[O-]C=O", "[OH-]", "C[NH3+]", "C[O-]", "[CH3+]", "[S-]C")
# None that is linear with a degenerate ground state: neither program settles where such a density
# turns to.
RADICALS = (
    "[CH3]", "[O]N=O", "[O][O]", "[CH2]", "C=C[CH2]", "[NH2]", "[NH3+]", "[SiH3]", "C[CH2]",
    "[CH2]O", "[PH2]",
)  # fmt: skip
SMALL = ("O", "[H]F", "N", "[CH3]", "[NH2]")
BASES = ("sto-3g", "6-31g*", "def2-svp")
PRECISIONS: tuple[str, ...] = get_args(DFTConfig.model_fields["precision"].annotation)

# Hartree, of energies and of orbital energies; Hartree / Bohr.
BARS = {"energy": 1e-6, "HOMO": 1e-6, "LUMO": 1e-6, "forces": 1e-5}
# What float32 leaves in a density is of first order in orbital energies, and rounding of Fock
# matrices that no build in float64 follows is in the energy.
BARS_FLOAT32 = {"energy": 5e-5, "HOMO": 1e-3, "LUMO": 1e-3}
COLUMNS = ("energy", "HOMO", "LUMO", "dipole", "forces")


@dataclass(frozen=True)
class Combination:
    """One calculation of the sweep."""

    number: int
    smiles: str
    basis: str
    functional: str


def combinations() -> Iterator[Combination]:
    """Every molecule in every basis, the functionals in turn."""
    everything = (*CLOSED_SHELLS, *IONS, *RADICALS)
    pairs = (*itertools.product(BASES, everything), *(("cc-pvtz", s) for s in SMALL))
    for number, (basis, smiles) in enumerate(pairs):
        yield Combination(number, smiles, basis, FUNCTIONAL_NAMES[number % len(FUNCTIONAL_NAMES)])


def reference_solution(
    molecule: Molecule, positions: Float[np.ndarray, "nat 3"], config: DFTConfig
) -> scf.hf.SCF:
    """PySCF's, converged further than what is compared, so that the error is not PySCF's."""
    reference = pyscf_calculation(
        molecule.atomic_numbers, positions, config, molecule.charge, molecule.spin
    )
    reference.conv_tol_grad = 1e-6
    reference.max_cycle = 200
    reference.kernel()
    return reference


def force_difference(
    molecule: Molecule,
    positions: Float[np.ndarray, "1 nat 3"],
    config: DFTConfig,
    labels: ConformerLabels,
    reference: scf.hf.SCF,
) -> float:
    """Largest difference of a component from PySCF's gradient, Hartree / Bohr."""
    forces = nuclear_forces(
        molecule.atomic_numbers,
        positions,
        config,
        labels,
        charge=molecule.charge,
        spin=molecule.spin,
    )
    return float(np.abs(forces[0] + reference.nuc_grad_method().kernel()).max())


def compare(combination: Combination) -> Iterator[tuple[str, dict[str, float]]]:
    """Precision and differences of each calculation of a combination."""
    molecule = molecule_from_smiles(combination.smiles)
    positions = BOHR_PER_ANGSTROM * embed_conformers(
        molecule, ConformerConfig(per_molecule=1), run_seed=1
    )
    config = DFTConfig(functional=combination.functional, basis=combination.basis, grid_level=1)
    reference = reference_solution(molecule, positions[0], config)
    occupied = np.asarray(reference.mo_occ) > 0
    energies = np.asarray(reference.mo_energy)
    # Open shells are float64 whatever the precision.
    others = combination.number % 3 == 0 and not molecule.spin
    for precision in PRECISIONS if others else ("float64",):
        config = config.model_copy(update={"precision": precision})
        labels = label_conformers(
            molecule.atomic_numbers, positions, config, charge=molecule.charge, spin=molecule.spin
        )
        if not (labels.converged[0] and reference.converged):
            raise SystemExit(f"{combination} did not converge")
        dipole = labels.dipole[0] * DEBYE_PER_ATOMIC_UNIT - reference.dip_moment(verbose=0)
        row = {
            "energy": abs(labels.energy[0] - reference.e_tot),
            "HOMO": abs(labels.homo[0] - energies[occupied].max()),
            "LUMO": abs(labels.lumo[0] - energies[~occupied].min()),
            "dipole": float(np.abs(dipole).max()),
        }
        if precision == "float64" and combination.number % 7 == 0:
            row["forces"] = force_difference(molecule, positions, config, labels, reference)
        yield precision, row


def main() -> None:
    errors: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    above: list[str] = []
    print("| molecule | basis | functional | cycles | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (4 + len(COLUMNS)))
    for combination in combinations():
        forget_programs()
        for precision, row in compare(combination):
            errors[precision].append(row)
            c = combination
            shown = [f"{row[name]:.1e}" if name in row else "" for name in COLUMNS]
            line = " | ".join([c.smiles, c.basis, c.functional, precision, *shown])
            print(f"| {line} |", flush=True)
            bars = BARS_FLOAT32 if precision == "float32" else BARS
            # What is no number is not below a bar either.
            if any(name in row and not row[name] <= bar for name, bar in bars.items()):
                above.append(line)
    print("\nenergy, HOMO, LUMO Ha; dipole Debye; forces Ha/Bohr")
    for precision, rows in errors.items():
        print(f"{precision}, {len(rows)} combinations: " + ", ".join(COLUMNS))
        values = {name: [row[name] for row in rows if name in row] for name in COLUMNS}
        for title, q in (("median", 50), ("90 %", 90), ("maximum", 100)):
            shown = [f"{np.percentile(v, q):.1e}" if v else "-" for v in values.values()]
            print(f"  {title:8s}", "  ".join(shown))
    if above:
        raise SystemExit("above the bars:\n" + "\n".join(above))


if __name__ == "__main__":
    main()
