"""Restricted self-consistent field of one conformer, as one JAX program.

Write the single case here; `qmgen.dft.label` maps it over a batch.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.dft.convergence import Course, course_start, evaluated, has_converged, unfinished
from qmgen.dft.diis import DIISState, diis_extrapolate, diis_start
from qmgen.dft.functionals import Functional
from qmgen.dft.hamiltonian import (
    Hamiltonian,
    build_reference,
    fock_and_energy,
    fock_and_energy_near,
    two_electron_near,
    two_electron_part,
)

# Orbital gradient, Hartree, down to which float32 serves as well as float64: its rounding leaves
# 1e-4, and no molecule of the tests takes more cycles than in float64.
SINGLE_PRECISION_GRADIENT = 1e-3
# Largest deviation from D S D = D of a density of orbitals that are orthonormal but for rounding.
_IDEMPOTENT = 1e-6
# Largest change of a density matrix' elements that is built upon a reference; beyond, the
# reference is renewed.
_LARGEST_CHANGE = 0.1


# Two-electron part of the density D = C diag(n) C^T, given C and n.
_TwoElectron = Callable[[Float[Array, "nao norb"], Float[Array, " norb"]], Float[Array, "nao nao"]]
# Fock matrix and energy of a density, given its two-electron part.
_Build = Callable[
    [Float[Array, "nao nao"], Float[Array, "nao nao"]],
    tuple[Float[Array, "nao nao"], Float[Array, ""]],
]


class SCFResult(eqx.Module):
    """Outcome of a self-consistent field, Hartree.

    The Fock matrix is the one that DIIS extrapolates from all evaluated densities, and the density
    is that of its orbitals: a step ahead of the last density that was evaluated, whose energy this
    is. The energy's error is of second order in that density's, so that it doesn't need the step.

    Orbitals are ordered by energy; those of padded basis functions come last.
    """

    energy: Float[Array, ""]
    mo_energy: Float[Array, " nao"]
    density: Float[Array, "nao nao"]
    fock: Float[Array, "nao nao"]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]
    energy_change: Float[Array, ""]
    std_ev: Float[Array, ""]


class _State(NamedTuple):
    """The density that comes next, and what is known of the one before it."""

    density: Float[Array, "nao nao"]
    occupied: Float[Array, "nao nslot"]
    two_electron: Float[Array, "nao nao"]
    fock_input: Float[Array, "nao nao"]
    extrapolated: Float[Array, "nao nao"]
    diis: DIISState
    course: Course


def symmetric_orthogonaliser(
    overlap: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Löwdin's S^(-1/2), and the smallest eigenvalue of S that says how well it is defined."""
    s, U = jnp.linalg.eigh(overlap)
    return (U / jnp.sqrt(s)) @ U.T, s[0]


def diagonalise(
    fock: Float[Array, "nao nao"],
    orthogonaliser: Float[Array, "nao nao"],
    real_orbital: Bool[Array, " nao"],
) -> tuple[Float[Array, " nao"], Float[Array, "nao nao"]]:
    """Orbital energies and coefficients; padded basis functions come last and don't mix in."""
    F = orthogonaliser @ fock @ orthogonaliser
    # No eigenvalue exceeds the largest row sum (Gershgorin), so padding stays above them all.
    F = jnp.where(real_orbital[:, None] & real_orbital[None, :], F, 0.0)
    above_all = 1 + jnp.max(jnp.sum(jnp.abs(F), axis=1))
    F = F + jnp.diag(jnp.where(real_orbital, 0.0, above_all).astype(F.dtype))
    energies, U = jnp.linalg.eigh(F)
    return energies, orthogonaliser @ U


def occupied_orbitals(
    coefficients: Float[Array, "nao nao"], noccupied: Int[Array, ""], nslot: int
) -> Float[Array, "nao nslot"]:
    """Lowest orbitals, and zeros in place of those that are not occupied.

    The occupation is a mask, so that the program doesn't depend on the number of electrons.
    """
    return jnp.where(jnp.arange(nslot) < noccupied, coefficients[:, :nslot], 0.0)


def closed_shell_density(occupied: Float[Array, "nao nslot"]) -> Float[Array, "nao nao"]:
    """Density matrix of occupied orbitals, two electrons each."""
    return 2 * occupied @ occupied.T


def is_idempotent(
    density: Float[Array, "*spins nao nao"], overlap: Float[Array, "nao nao"]
) -> Bool[Array, ""]:
    """Whether density matrices are those of occupied orbitals, D S D = D.

    Only then DIIS keeps the Fock matrix of the guess. Otherwise that gives way to the next one, as
    its error may vanish without self-consistency, by symmetry for H2 in a minimal basis.
    """
    return jnp.max(jnp.abs(density @ overlap @ density - density)) < _IDEMPOTENT


def solve_scf(
    config: DFTConfig,
    functional: Functional,
    hamiltonian: Hamiltonian,
    single: Hamiltonian | None,
    overlap: Float[Array, "nao nao"],
    initial_orbitals: Float[Array, "nao norb"],
    initial_occupation: Float[Array, " norb"],
    noccupied: Int[Array, ""],
    nslot: int,
    real_orbital: Bool[Array, " nao"],
    level_shift: Float[Array, ""],
    damping: Float[Array, ""],
) -> SCFResult:
    """Iterate Roothaan's equations with DIIS to self-consistency.

    Linear algebra is float64 always. Fock builds are all in the Hamiltonian's precision; or, with
    ``single``, in float32 up to one in float64 at the end if ``config.precision`` is ``float32``;
    and if it is ``mixed``, in float32 until the orbital gradient reaches
    `SINGLE_PRECISION_GRADIENT`, then one in float64, and from there on only the change of the
    density in float32, whose rounding is proportional to that change (Almlöf, Faegri, Korsell 1982
    build Fock matrices so to save integrals). An iteration is one Fock build after the one of the
    guess.

    Parameters
    ----------
    config, functional
        Level of theory and thresholds (static).
    hamiltonian, overlap
        Of the conformer.
    single
        The Hamiltonian in float32, if it is in float64 and not all builds are.
    initial_orbitals, initial_occupation
        C and n of the first density D = C diag(n) C^T, float64.
    noccupied
        Number of doubly occupied orbitals.
    nslot
        Number of orbitals that may be occupied (static); exchange from factors costs as many.
    real_orbital
        False for padded basis functions.
    level_shift, damping
        Shift of the virtual orbitals (Hartree), share of the previous Fock matrix.
    """
    orthogonaliser, _ = symmetric_orthogonaliser(overlap)
    S, X = overlap, orthogonaliser

    def commutator(fock: Float[Array, "nao nao"], density: Float[Array, "nao nao"]) -> Array:
        """FDS - SDF between orthonormal orbitals; twice the orbital gradient, and DIIS' error."""
        fds = X @ fock @ density @ (S @ X)
        return fds - fds.T

    def advance(
        state: _State,
        fock: Float[Array, "nao nao"],
        energy: Float[Array, ""],
        two_electron: _TwoElectron,
    ) -> _State:
        """Take in the Fock matrix and energy of the state's density, and make the next one."""
        error = commutator(fock, state.density)
        gradient_norm = jnp.linalg.norm(error) / jnp.sqrt(2.0)
        # Damping takes over while the density is far from self-consistent, where DIIS' linear
        # model doesn't hold yet; the first Fock matrix has none to be mixed with.
        damped = jnp.where((gradient_norm > 0.1) & (state.course.evaluations > 0), damping, 0.0)
        fock_input = (1 - damped) * fock + damped * state.fock_input
        extrapolated, diis = diis_extrapolate(
            state.diis, fock_input, error, jnp.maximum(state.course.evaluations - superseded, 0)
        )
        virtual = S - 0.5 * S @ state.density @ S
        _, C = diagonalise(extrapolated + level_shift * virtual, X, real_orbital)
        occupied = occupied_orbitals(C, noccupied, nslot)
        return _State(
            density=closed_shell_density(occupied),
            occupied=occupied,
            two_electron=two_electron(occupied, jnp.full(nslot, 2.0)),
            fock_input=fock_input,
            extrapolated=extrapolated,
            diis=diis,
            course=evaluated(state.course, energy, gradient_norm),
        )

    def cycles(
        state: _State,
        more: Callable[[_State], Bool[Array, ""]],
        two_electron: _TwoElectron,
        build: _Build,
    ) -> _State:
        def cycle(state: _State) -> _State:
            return advance(state, *build(state.density, state.two_electron), two_electron)

        return jax.lax.while_loop(more, cycle, state)

    zeros = jnp.zeros_like(overlap)
    initial_density = (initial_orbitals * initial_occupation) @ initial_orbitals.T
    superseded = (~is_idempotent(0.5 * initial_density, S)).astype(jnp.int32)
    start_two_electron = partial(two_electron_part, functional, single or hamiltonian)
    state = _State(
        density=initial_density,
        occupied=zeros[:, :nslot],
        two_electron=start_two_electron(initial_orbitals, initial_occupation),
        fock_input=zeros,
        extrapolated=zeros,
        diis=diis_start(config.diis_space, zeros),
        course=course_start(),
    )
    if single is None:
        final = cycles(
            state,
            lambda state: unfinished(config, state.course),
            start_two_electron,
            partial(fock_and_energy, functional, hamiltonian),
        )
    else:
        final = _cycles_with_single_precision(
            config, functional, hamiltonian, single, state, advance, cycles
        )
    # A level shift is no part of the result.
    mo_energy, C = diagonalise(final.extrapolated, X, real_orbital)
    converged = has_converged(config, final.course)
    if config.criterion == "energy_std":
        converged &= mo_energy[noccupied] != mo_energy[noccupied - 1]
    return SCFResult(
        energy=final.course.energy,
        mo_energy=mo_energy,
        density=closed_shell_density(occupied_orbitals(C, noccupied, nslot)),
        fock=final.extrapolated,
        converged=converged,
        iterations=final.course.evaluations - 1,
        energy_change=final.course.energy_change,
        std_ev=final.course.std_ev,
    )


def _cycles_with_single_precision(
    config: DFTConfig,
    functional: Functional,
    hamiltonian: Hamiltonian,
    single: Hamiltonian,
    state: _State,
    advance: Callable[[_State, Array, Array, _TwoElectron], _State],
    cycles: Callable[[_State, Callable[[_State], Array], _TwoElectron, _Build], _State],
) -> _State:
    """Cycles of `solve_scf` with Fock builds in float32, all but one.

    ``hamiltonian`` and ``single`` are the same in the two precisions.
    """

    def coarse(state: _State) -> Bool[Array, ""]:
        # One cycle is left for float64.
        more = unfinished(config, state.course) & (state.course.evaluations < config.max_cycle)
        if config.precision == "mixed":
            more &= state.course.gradient_norm > SINGLE_PRECISION_GRADIENT
        return more

    state = cycles(
        state,
        coarse,
        partial(two_electron_part, functional, single),
        partial(fock_and_energy, functional, single),
    )

    def rebuild(state: _State) -> _State:
        reference, fock, energy = build_reference(
            functional, hamiltonian, single, state.occupied, state.density
        )
        two_electron = partial(two_electron_near, functional, single, reference)
        state = advance(state, fock, energy, two_electron)
        if config.precision == "float32":
            return state

        def near(state: _State) -> Bool[Array, ""]:
            change = jnp.max(jnp.abs(state.density - reference.density))
            return unfinished(config, state.course) & (change < _LARGEST_CHANGE)

        return cycles(
            state,
            near,
            two_electron,
            partial(fock_and_energy_near, functional, hamiltonian, single, reference),
        )

    if config.precision == "float32":
        return rebuild(state)

    def again(carry: tuple[_State, Bool[Array, ""]]) -> Bool[Array, ""]:
        # Thresholds that float32 meets as well don't spare the build in float64.
        return ~carry[1] | unfinished(config, carry[0].course)

    def once_more(carry: tuple[_State, Bool[Array, ""]]) -> tuple[_State, Bool[Array, ""]]:
        return rebuild(carry[0]), jnp.asarray(True)

    return jax.lax.while_loop(again, once_more, (state, jnp.asarray(False)))[0]
