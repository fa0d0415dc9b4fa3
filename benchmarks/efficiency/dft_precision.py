"""Which number formats the parts of a Kohn-Sham calculation bear.

Rounds what the large products of a Fock build read to each format (the two-electron integrals, the
orbitals on the grid, or both and the density) and sums in float64, so that what is seen is what the
operands lose. Energies are compared with float64 in three ways:

- alone: all builds in the format, to self-consistency;
- one build: then one in float64 at the density that was found, which is `precision: float32`;
- changes: Fock matrices are that build plus the format's build of the change of the density,
  again to self-consistency, which is `precision: mixed`.

Prints a table and draws it. Run as `make benchmark-efficiency`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Array, Float

from benchmarks.reporting import save_plot, table
from qmgen.dft.config import DFTConfig
from qmgen.dft.diis import DIISState, diis_extrapolate, diis_start
from qmgen.dft.hamiltonian import Hamiltonian, Reference, build_reference, fock_and_energy_near
from qmgen.dft.kohn_sham_problem import KohnShamProblem, kohn_sham_problems
from qmgen.dft.precision import double_precision
from qmgen.dft.quadrature import exchange_correlation
from qmgen.dft.scf import closed_shell_density, diagonalise, occupied_orbitals
from qmgen.dft.two_electron import two_electron_matrix
from qmgen.efficiency import element
from qmgen.efficiency.formats import MXFP8, Format, ScaleFormat
from qmgen.efficiency.granularity import blocks_along
from qmgen.efficiency.quantise import fake_quantise
from qmgen.molecules import ConformerConfig, embed_conformers, molecule_from_smiles
from qmgen.units import BOHR_PER_ANGSTROM

Matrix = Float[Array, "nao nao"]
# Fock matrix and energy of a density.
Build = Callable[[Matrix], tuple[Matrix, Array]]

# Of the largest number of a float16 there are few left for products of it; 2^8 leaves room.
_SCALED_16 = ScaleFormat(element.E8M0, target=256.0, rounding="toward_zero")
MOLECULES = {"water": "O", "formamide": "NC=O", "ethanol": "CCO"}
_CYCLES = 20
_CONVERGED = 1e-9
_SPACE = 8


class Rounding(NamedTuple):
    """A format, and how many numbers of it are added up to one operand."""

    format: Format | None
    terms: int = 1

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The operand as sums of this many numbers hold it."""
        if self.format is None:
            return x
        rounded = jnp.zeros_like(x)
        for _ in range(self.terms):
            rounded += fake_quantise(x - rounded, self.format)
        return rounded


EXACT = Rounding(None)
ROUNDINGS = {
    "float32": Rounding(Format(element.FLOAT32)),
    "3 x bfloat16": Rounding(Format(element.BFLOAT16), 3),
    "2 x bfloat16": Rounding(Format(element.BFLOAT16), 2),
    "int16, a scale for each 32": Rounding(
        Format(element.IntElement(16), ScaleFormat(), blocks_along(32))
    ),
    "TF32": Rounding(Format(element.TF32)),
    "float16, scaled": Rounding(Format(element.FLOAT16, _SCALED_16)),
    "float16": Rounding(Format(element.FLOAT16)),
    "int16, one scale": Rounding(Format(element.IntElement(16), ScaleFormat())),
    "bfloat16": Rounding(Format(element.BFLOAT16)),
    "MXFP8": Rounding(MXFP8),
}
PARTS = ("integrals", "grid", "all")


@jax.jit
def build_alone(
    problem: KohnShamProblem, rounded: Hamiltonian, density: Matrix, operand: Matrix
) -> tuple[Matrix, Array]:
    """Fock matrix and energy of a density; the products read ``operand`` in its place."""
    G = two_electron_matrix(rounded.supermatrix, operand)
    energy = rounded.nuclear_repulsion + jnp.sum(density * (rounded.hcore + 0.5 * G))
    xc_energy, xc_matrix = exchange_correlation(problem.functional, rounded.orbitals, operand)
    return rounded.hcore + G + xc_matrix, energy + xc_energy


@jax.jit
def build_exact(
    problem: KohnShamProblem, orbitals: Float[Array, "nao nslot"]
) -> tuple[Reference, Array]:
    """What builds of changes need of orbitals, and their energy, in float64."""
    exact = problem.hamiltonian
    density = closed_shell_density(orbitals)
    reference, _, energy = build_reference(problem.functional, exact, exact, orbitals, density)
    return reference, energy


@jax.jit
def build_change(
    problem: KohnShamProblem,
    rounded: Hamiltonian,
    reference: Reference,
    density: Matrix,
    operand: Matrix,
) -> tuple[Matrix, Array]:
    """As `build_alone` near a reference; ``operand`` is the change of the density."""
    G = reference.two_electron + two_electron_matrix(rounded.supermatrix, operand)
    return fock_and_energy_near(
        problem.functional, problem.hamiltonian, rounded, reference, density, G
    )


def rounded_hamiltonian(hamiltonian: Hamiltonian, rounding: Rounding, part: str) -> Hamiltonian:
    """The Hamiltonian with its large arrays rounded."""
    if part != "grid":
        hamiltonian = hamiltonian._replace(supermatrix=rounding(hamiltonian.supermatrix))
    if part != "integrals":
        orbitals = hamiltonian.orbitals
        hamiltonian = hamiltonian._replace(
            orbitals=orbitals._replace(values=rounding(orbitals.values))
        )
    return hamiltonian


@jax.jit
def occupied(problem: KohnShamProblem, fock: Matrix) -> Float[Array, "nao nslot"]:
    """Occupied orbitals of a Fock matrix."""
    _, C = diagonalise(fock, problem.orthogonaliser, problem.real_orbital)
    return occupied_orbitals(C, problem.noccupied, problem.nslot)


@jax.jit
def advance(
    problem: KohnShamProblem, fock: Matrix, density: Matrix, diis: DIISState, cycle: Array
) -> tuple[Float[Array, "nao nslot"], DIISState, Array]:
    """Next orbitals, and how far the density is from self-consistency."""
    X = problem.orthogonaliser
    error = X @ fock @ density @ jnp.linalg.inv(X)
    error -= error.T
    extrapolated, diis = diis_extrapolate(diis, fock, error, cycle)
    return occupied(problem, extrapolated), diis, jnp.linalg.norm(error)


def self_consistent(
    problem: KohnShamProblem, build: Build, orbitals: Float[Array, "nao nslot"]
) -> tuple[Float[Array, "nao nslot"], Array]:
    """Occupied orbitals and energy after Roothaan's equations with DIIS."""
    diis = diis_start(_SPACE, problem.orthogonaliser)
    found = []
    for cycle in range(_CYCLES):
        density = closed_shell_density(orbitals)
        fock, energy = build(density)
        new, diis, error = advance(problem, fock, density, diis, jnp.asarray(cycle))
        found.append((float(error), orbitals, energy))
        orbitals = new
        if found[-1][0] < _CONVERGED:
            break
    # Where rounding lets the last cycles wander, the one nearest to self-consistency.
    _, orbitals, energy = min(found, key=lambda of_cycle: of_cycle[0])
    return orbitals, energy


class Energies(NamedTuple):
    """Energies of the three ways, Hartree."""

    alone: Array
    one_build: Array
    changes: Array


def energies_in(problem: KohnShamProblem, rounding: Rounding, part: str) -> Energies:
    """Energies of a conformer with builds in a format."""
    rounded = rounded_hamiltonian(problem.hamiltonian, rounding, part)
    of_density = rounding if part == "all" else EXACT
    root = jnp.linalg.inv(problem.orthogonaliser)

    def alone(density: Matrix) -> tuple[Matrix, Array]:
        return build_alone(problem, rounded, density, of_density(density))

    orbitals, energy = self_consistent(
        problem, alone, occupied(problem, root @ problem.guess @ root)
    )
    reference, one_build = build_exact(problem, orbitals)

    def change(density: Matrix) -> tuple[Matrix, Array]:
        operand = of_density(density - reference.density)
        return build_change(problem, rounded, reference, density, operand)

    return Energies(energy, one_build, self_consistent(problem, change, orbitals)[1])


def problem_of(smiles: str, config: DFTConfig) -> KohnShamProblem:
    """Problem of a molecule's first conformer."""
    molecule = molecule_from_smiles(smiles)
    positions = BOHR_PER_ANGSTROM * embed_conformers(molecule, ConformerConfig(per_molecule=1), 0)
    return kohn_sham_problems(molecule.atomic_numbers, positions, config)[0]


def energy_errors(
    problems: list[KohnShamProblem], roundings: dict[str, Rounding], part: str
) -> dict[str, Energies]:
    """Largest difference from float64 over all molecules, Hartree."""
    with double_precision():
        exact = [energies_in(problem, EXACT, part).alone for problem in problems]
        errors = {}
        for name, rounding in roundings.items():
            found = [energies_in(problem, rounding, part) for problem in problems]
            errors[name] = Energies(
                *(
                    np.max([abs(e[i] - x) for e, x in zip(found, exact, strict=True)])
                    for i in range(3)
                )
            )
    return errors


def draw(errors: dict[str, dict[str, Energies]], figure: Path) -> None:
    """A panel for each way, a line for each part."""
    titles = ("alone", "one build in float64", "changes of the density")
    _, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True)
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for part, of_part in errors.items():
            # What is below cannot be told from the last digits of the energy.
            shown = [max(float(e[i]), 1e-13) for e in of_part.values()]
            axis.semilogy(list(of_part), shown, "o-", label=part)
        axis.axhline(1e-6, color="grey", linestyle=":")
        axis.set_title(title)
        axis.tick_params(axis="x", rotation=90)
    axes[0].set_ylabel("error of the energy, Hartree")
    axes[0].legend()
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--basis", default="6-31g")
    parser.add_argument("--functional", default="b3lyp")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "dft_precision.png")
    arguments = parser.parse_args()
    config = DFTConfig(
        basis=arguments.basis,
        functional=arguments.functional,
        precision="float64",
        two_electron="exact",
        grid_level=1,
    )
    problems = [problem_of(smiles, config) for smiles in MOLECULES.values()]
    errors = {part: energy_errors(problems, ROUNDINGS, part) for part in PARTS}
    for part, of_part in errors.items():
        table(
            [f"{part}; error in Hartree", "alone", "one build in float64", "changes"],
            [[name, *(f"{float(e):.0e}" for e in found)] for name, found in of_part.items()],
        )
    print(f"Largest of {', '.join(MOLECULES)}; {arguments.functional}/{arguments.basis}.")
    draw(errors, arguments.figure)


if __name__ == "__main__":
    main()
