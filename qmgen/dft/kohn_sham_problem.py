"""The energy of given orbitals of a conformer, without self-consistency, for losses and optimisers.

A `KohnShamProblem` is all that the energy of a closed shell needs of a conformer. Orbitals, and
Hamiltonians that are predicted for it, are over Löwdin's orthonormal orbitals S^(-1/2), which turn
with the molecule as the atomic orbitals do.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_hamiltonian import build_hamiltonian
from qmgen.dft.functionals import Functional, get_functional
from qmgen.dft.hamiltonian import Hamiltonian, fock_and_energy, two_electron_part
from qmgen.dft.integrals import IntegralEngine
from qmgen.dft.orbital_projection import Orbitals
from qmgen.dft.precision import double_precision
from qmgen.dft.program_arrays import (
    ConformerArrays,
    MoleculeTables,
    conformer_arrays,
    first_orbitals,
    molecule_tables,
)
from qmgen.dft.scf import closed_shell_density, diagonalise, symmetric_orthogonaliser
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.sizes import check_memory, default_engine, shape_of
from qmgen.errors import UnsupportedMoleculeError


class KohnShamProblem(eqx.Module):
    """What the energy of a conformer's orbitals needs; padded as `ProgramShape` says.

    Attributes
    ----------
    hamiltonian
        Integrals and orbitals on the grid.
    orthogonaliser
        S^(-1/2).
    guess
        Hamiltonian of superposed atoms (the ``minao`` density) over Löwdin's orbitals, Hartree.
    guess_density
        That density over Löwdin's orbitals.
    noccupied
        Number of doubly occupied orbitals.
    real_orbital
        False for padded basis functions.
    nslot
        Number of orbitals that may be occupied.
    functional
        Exchange-correlation functional.
    """

    hamiltonian: Hamiltonian
    orthogonaliser: Float[Array, "*nconf nao nao"]
    guess: Float[Array, "*nconf nao nao"]
    guess_density: Float[Array, "*nconf nao nao"]
    noccupied: Int[Array, "*nconf"]
    real_orbital: Bool[Array, "*nconf nao"]
    nslot: int = eqx.field(static=True)
    functional: Functional = eqx.field(static=True)


def kohn_sham_problems(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    *,
    charge: int = 0,
    integral_engine: IntegralEngine | None = None,
) -> list[KohnShamProblem]:
    """Compute the integrals of each conformer, and the Hamiltonian of its guess.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    positions
        Of the nuclei, Bohr.
    config
        Level of theory. ``precision: float64`` has all of it in float64, the others hold
        integrals and orbitals on the grid in float32; its thresholds don't count.
    charge
        Of the molecule, elementary charges.
    integral_engine
        Where integrals come from; by default see `qmgen.dft.sizes.default_engine`.

    Raises
    ------
    UnsupportedMoleculeError
        An open shell, effective core potentials, or too large integrals.
    UnknownBasisError, MissingElementError
        As `qmgen.dft.basis.build_basis`.
    """
    atomic_numbers = np.asarray(atomic_numbers, np.int32)
    positions = np.asarray(positions, np.float64)
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    nelectron = int(atomic_numbers.sum()) - charge
    if nelectron % 2 or not 0 < nelectron // 2 <= basis.nao:
        raise UnsupportedMoleculeError(
            f"{nelectron} electrons in {basis.nao} orbitals: only closed shells have an energy of "
            "doubly occupied orbitals"
        )
    shape = shape_of(basis, config)
    check_memory(shape, config.precision)
    engine, at_a_time = default_engine(basis, positions, shape, config)
    if integral_engine is not None:
        engine = integral_engine
    noccupied = (nelectron // 2, nelectron // 2)
    problems = []
    with double_precision():
        tables = molecule_tables(basis, shape, config, noccupied, level_shift=0.0, damping=0.0)
        for start in range(0, len(positions), at_a_time):
            part = positions[start : start + at_a_time]
            integrals = engine(basis, part)
            orbitals, occupation = first_orbitals(basis, shape, part, integrals, None, False)
            arrays = conformer_arrays(basis, shape, part, integrals, orbitals, occupation)
            problems += [
                problem_of_arrays(config, tables, jax.tree.map(lambda leaf, i=i: leaf[i], arrays))
                for i in range(len(part))
            ]
    return problems


@shared_program(static_argnums=0)
def problem_of_arrays(
    config: DFTConfig, tables: MoleculeTables, conformer: ConformerArrays
) -> KohnShamProblem:
    """Problem of one conformer, whose initial orbitals are those of superposed atoms."""
    functional = get_functional(config.functional)
    double, single = build_hamiltonian(config, tables, conformer)
    hamiltonian = double if single is None else single
    assert isinstance(hamiltonian, Hamiltonian)
    C, n = conformer.initial_orbitals, conformer.initial_occupation
    D = (C * n) @ C.T
    fock, _ = fock_and_energy(
        functional, hamiltonian, D, two_electron_part(functional, hamiltonian, C, n)
    )
    X, _ = symmetric_orthogonaliser(conformer.overlap)
    root = conformer.overlap @ X
    return KohnShamProblem(
        hamiltonian=hamiltonian,
        orthogonaliser=X,
        guess=X @ fock @ X,
        guess_density=root @ D @ root,
        noccupied=tables.noccupied,
        real_orbital=tables.real_orbital,
        nslot=tables.nslot,
        functional=functional,
    )


def _fock_and_energy(
    problem: KohnShamProblem, orbitals: Orbitals
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Fock matrix over Löwdin's orbitals, and energy."""
    C = problem.orthogonaliser @ orbitals
    twice = jnp.full(C.shape[1], 2.0, C.dtype)
    fock, energy = fock_and_energy(
        problem.functional,
        problem.hamiltonian,
        closed_shell_density(C),
        two_electron_part(problem.functional, problem.hamiltonian, C, twice),
    )
    return problem.orthogonaliser @ fock @ problem.orthogonaliser, energy


@jax.custom_vjp
def energy_of_orbitals(problem: KohnShamProblem, orbitals: Orbitals) -> Float[Array, ""]:
    r"""Total Kohn-Sham energy (Hartree) of a conformer with given occupied orbitals.

    Its derivative by the orbitals Q is $4 F Q$ with the Fock matrix of their density, which is
    built with the energy anyhow; nothing flows back to the integrals.

    Parameters
    ----------
    problem
        Of one conformer; use `jax.vmap` for a batch of one shape.
    orbitals
        Orthonormal columns over Löwdin's orbitals, float64, as of `qmgen.dft.orbital_projection`.
    """
    return _fock_and_energy(problem, orbitals)[1]


def _forward(problem: KohnShamProblem, orbitals: Orbitals) -> tuple[Array, Orbitals]:
    fock, energy = _fock_and_energy(problem, orbitals)
    return energy, 4 * fock @ orbitals


def _backward(slope: Orbitals, cotangent: Float[Array, ""]) -> tuple[None, Orbitals]:
    return None, cotangent * slope


energy_of_orbitals.defvjp(_forward, _backward)


class OrbitalLabels(eqx.Module):
    """Labels of given orbitals, Hartree.

    Attributes
    ----------
    energy
        Total energy.
    orbital_energies
        Eigenvalues of the orbitals' Fock matrix, ascending; those of padding come last.
    homo, lumo, gap
        Of these.
    fock
        Fock matrix over Löwdin's orbitals.
    """

    energy: Float[Array, "*nconf"]
    orbital_energies: Float[Array, "*nconf nao"]
    homo: Float[Array, "*nconf"]
    lumo: Float[Array, "*nconf"]
    gap: Float[Array, "*nconf"]
    fock: Float[Array, "*nconf nao nao"]


def labels_of_orbitals(problem: KohnShamProblem, orbitals: Orbitals) -> OrbitalLabels:
    """Energy, and orbital energies of the Fock matrix, of a conformer's orbitals."""
    fock, energy = _fock_and_energy(problem, orbitals)
    identity = jnp.eye(fock.shape[0], dtype=fock.dtype)
    energies, _ = diagonalise(fock, identity, problem.real_orbital)
    homo = energies[problem.noccupied - 1]
    virtual = problem.noccupied < jnp.sum(problem.real_orbital)
    lumo = jnp.where(virtual, energies[jnp.minimum(problem.noccupied, len(energies) - 1)], jnp.nan)
    return OrbitalLabels(energy, energies, homo, lumo, lumo - homo, fock)
