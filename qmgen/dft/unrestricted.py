"""Unrestricted self-consistent field of one conformer (Pople and Nesbet 1954), as one JAX program.

Spins a and b have orbitals of their own; arrays of both have them along a first axis. Write the
single case here; `qmgen.dft.label` maps it over a batch.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.dft.convergence import Course, course_start, evaluated, has_converged, unfinished
from qmgen.dft.diis import DIISState, diis_extrapolate, diis_start
from qmgen.dft.factorised import exchange, spin_coulomb_exchange
from qmgen.dft.functionals import Functional
from qmgen.dft.grid_orbitals import OrbitalsOnGrid
from qmgen.dft.quadrature import unrestricted_exchange_correlation
from qmgen.dft.scf import (
    SCFResult,
    diagonalise,
    is_idempotent,
    occupied_orbitals,
    symmetric_orthogonaliser,
)
from qmgen.dft.two_electron import two_electron_matrix
from qmgen.errors import UnsupportedMoleculeError

BothSpins = Float[Array, "2 nao nao"]


class SpinHamiltonian(NamedTuple):
    """What the energy of two spins' densities needs, float64.

    With the total density D = D_a + D_b and the spin density M = D_a - D_b, the Coulomb and
    exchange parts of the two Fock matrices are G D ± X M: ``total_supermatrix`` is that of a
    closed shell, ``spin_supermatrix`` its exchange alone, and absent where there is none. Or there
    are factors in their place.
    """

    hcore: Float[Array, "nao nao"]
    total_supermatrix: Float[Array, "npair npair"] | None
    spin_supermatrix: Float[Array, "npair npair"] | None
    factors: Float[Array, "naux npair"] | None
    factors_long_range: Float[Array, "naux_long_range npair"] | None
    orbitals: OrbitalsOnGrid | None
    nuclear_repulsion: Float[Array, ""]


class SpinResult(eqx.Module):
    """What an open shell has beside the fields of `SCFResult`.

    There, the density is that of both spins, and orbital energies and Fock matrix are those of
    spin a. ``spin_square`` is the determinant's <S^2>.
    """

    mo_energy_beta: Float[Array, " nao"]
    fock_beta: Float[Array, "nao nao"]
    spin_density: Float[Array, "nao nao"]
    spin_square: Float[Array, ""]


class _State(NamedTuple):
    """The densities that come next, and what is known of those before them."""

    density: BothSpins
    two_electron: BothSpins
    fock_input: BothSpins
    diis: DIISState
    course: Course


def spin_occupations(nelectron: int, spin: int) -> tuple[int, int]:
    """Numbers of occupied orbitals of spin a and spin b.

    Parameters
    ----------
    nelectron
        Number of electrons.
    spin
        2S, the number of unpaired electrons.

    Raises
    ------
    UnsupportedMoleculeError
        No such state exists.
    """
    if nelectron <= 0 or not 0 <= spin <= nelectron or (nelectron - spin) % 2:
        raise UnsupportedMoleculeError(
            f"{nelectron} electrons, {spin} of them unpaired: there is no such molecule; its "
            "charge or spin is wrong"
        )
    return (nelectron + spin) // 2, (nelectron - spin) // 2


def spin_two_electron_part(
    functional: Functional,
    hamiltonian: SpinHamiltonian,
    orbitals: Float[Array, "2 nao norb"],
    occupation: Float[Array, "2 norb"],
) -> BothSpins:
    """J - a K - b K_erf of the two spins' density matrices D = C diag(n) C^T, Hartree."""
    if hamiltonian.factors is not None:
        result = spin_coulomb_exchange(
            hamiltonian.factors, orbitals, occupation, functional.exact_exchange
        )
        if hamiltonian.factors_long_range is not None:
            K = [
                exchange(hamiltonian.factors_long_range, orbitals[s], occupation[s]) for s in (0, 1)
            ]
            result -= functional.long_range_exchange * jnp.stack(K)
        return result
    assert hamiltonian.total_supermatrix is not None
    a, b = density_matrices(orbitals, occupation)
    of_total = two_electron_matrix(hamiltonian.total_supermatrix, a + b)
    if hamiltonian.spin_supermatrix is None:
        return jnp.stack([of_total, of_total])
    of_spin = two_electron_matrix(hamiltonian.spin_supermatrix, a - b)
    return jnp.stack([of_total + of_spin, of_total - of_spin])


def density_matrices(
    orbitals: Float[Array, "2 nao norb"], occupation: Float[Array, "2 norb"]
) -> BothSpins:
    """C diag(n) C^T of each spin."""
    return (orbitals * occupation[:, None, :]) @ orbitals.swapaxes(1, 2)


def spin_fock_and_energy(
    functional: Functional,
    hamiltonian: SpinHamiltonian,
    density: BothSpins,
    two_electron: BothSpins,
) -> tuple[BothSpins, Float[Array, ""]]:
    """Fock (Kohn-Sham) matrices and total energy of two spins' density matrices, Hartree.

    ``two_electron`` is that of `spin_two_electron_part` for the same densities.
    """
    energy = hamiltonian.nuclear_repulsion + jnp.sum(
        density * (hamiltonian.hcore + 0.5 * two_electron)
    )
    fock = hamiltonian.hcore + two_electron
    if hamiltonian.orbitals is not None:
        xc_energy, *xc_matrices = unrestricted_exchange_correlation(
            functional, hamiltonian.orbitals, density[0], density[1]
        )
        fock, energy = fock + jnp.stack(xc_matrices), energy + xc_energy
    return fock, energy


def spin_square(
    density: BothSpins, overlap: Float[Array, "nao nao"], noccupied: Int[Array, "2"]
) -> Float[Array, ""]:
    """<S^2> of a determinant (Szabo and Ostlund, Modern Quantum Chemistry, eq. 2.271)."""
    half = 0.5 * (noccupied[0] - noccupied[1])
    common = jnp.sum((density[0] @ overlap) * (overlap @ density[1]))
    return half * (half + 1) + noccupied[1] - common


def solve_unrestricted(
    config: DFTConfig,
    functional: Functional,
    hamiltonian: SpinHamiltonian,
    overlap: Float[Array, "nao nao"],
    initial_orbitals: Float[Array, "2 nao norb"],
    initial_occupation: Float[Array, "2 norb"],
    noccupied: Int[Array, "2"],
    nslot: int,
    real_orbital: Bool[Array, " nao"],
    level_shift: Float[Array, ""],
    damping: Float[Array, ""],
) -> tuple[SCFResult, SpinResult]:
    """Iterate the Pople-Nesbet equations with DIIS over both spins to self-consistency.

    The lowest orbitals of each spin are occupied. All is float64. An iteration is one Fock build
    after the one of the guess.

    Parameters
    ----------
    config, functional
        Level of theory and thresholds (static).
    hamiltonian, overlap
        Of the conformer.
    initial_orbitals, initial_occupation
        C and n of each spin's first density D = C diag(n) C^T.
    noccupied
        Number of occupied orbitals of each spin.
    nslot
        Number of orbitals that may be occupied (static); exchange from factors costs as many.
    real_orbital
        False for padded basis functions.
    level_shift, damping
        Shift of the virtual orbitals (Hartree), share of the previous Fock matrices.
    """
    # Tolerances, too, are those of float64.
    config = config.model_copy(update={"precision": "float64"})
    S = overlap
    X, _ = symmetric_orthogonaliser(S)
    nao = S.shape[0]
    of_each = jax.vmap(diagonalise, in_axes=(0, None, None))
    occupy = jax.vmap(lambda C, n: occupied_orbitals(C, n, nslot))
    once = jnp.ones((2, nslot))

    def commutators(fock: BothSpins, density: BothSpins) -> BothSpins:
        """FDS - SDF between orthonormal orbitals: the orbital gradients, and DIIS' error."""
        fds = X @ fock @ density @ (S @ X)
        return fds - fds.swapaxes(1, 2)

    def below_each_other(matrices: BothSpins) -> Float[Array, "nrow nao"]:
        return matrices.reshape(2 * nao, nao)

    def cycle(state: _State) -> _State:
        fock, energy = spin_fock_and_energy(
            functional, hamiltonian, state.density, state.two_electron
        )
        error = commutators(fock, state.density)
        gradient_norm = jnp.linalg.norm(error) / jnp.sqrt(2.0)
        # As for closed shells: only far from self-consistency, and not at the first Fock matrix.
        damped = jnp.where((gradient_norm > 0.1) & (state.course.evaluations > 0), damping, 0.0)
        fock_input = (1 - damped) * fock + damped * state.fock_input
        extrapolated, diis = diis_extrapolate(
            state.diis,
            below_each_other(fock_input),
            below_each_other(error),
            jnp.maximum(state.course.evaluations - superseded, 0),
        )
        virtual = S - S @ state.density @ S
        _, C = of_each(extrapolated.reshape(2, nao, nao) + level_shift * virtual, X, real_orbital)
        occupied = occupy(C, noccupied)
        return _State(
            density=density_matrices(occupied, once),
            two_electron=spin_two_electron_part(functional, hamiltonian, occupied, once),
            fock_input=fock_input,
            diis=diis,
            course=evaluated(state.course, energy, gradient_norm),
        )

    zeros = jnp.zeros((2, nao, nao))
    initial_density = density_matrices(initial_orbitals, initial_occupation)
    superseded = (~is_idempotent(initial_density, S)).astype(jnp.int32)
    final = jax.lax.while_loop(
        lambda state: unfinished(config, state.course),
        cycle,
        _State(
            density=initial_density,
            two_electron=spin_two_electron_part(
                functional, hamiltonian, initial_orbitals, initial_occupation
            ),
            fock_input=zeros,
            diis=diis_start(config.diis_space, below_each_other(zeros)),
            course=course_start(),
        ),
    )
    density = final.density
    fock, energy = spin_fock_and_energy(functional, hamiltonian, density, final.two_electron)
    mo_energy, _ = of_each(fock, X, real_orbital)
    result = SCFResult(
        energy=energy,
        mo_energy=mo_energy[0],
        density=density[0] + density[1],
        fock=fock[0],
        converged=has_converged(config, final.course),
        iterations=final.course.evaluations - 1,
        energy_change=final.course.energy_change,
        std_ev=final.course.std_ev,
    )
    return result, SpinResult(
        mo_energy_beta=mo_energy[1],
        fock_beta=fock[1],
        spin_density=density[0] - density[1],
        spin_square=spin_square(density, S, noccupied),
    )
