"""Restricted self-consistent field of one conformer, as one JAX program.

Write the single case here; `qmgen.dft.label` maps it over a batch.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.dft.diis import DIISState, diis_extrapolate, diis_start
from qmgen.dft.factorised import coulomb_exchange, exchange
from qmgen.dft.functionals import Functional
from qmgen.dft.quadrature import OrbitalsOnGrid, exchange_correlation
from qmgen.dft.two_electron import two_electron_matrix
from qmgen.units import EV_PER_HARTREE

# QM1B judges convergence by the spread of this many last energies.
_RECENT = 5


class Hamiltonian(NamedTuple):
    """What the Kohn-Sham energy of a density needs, in one precision.

    Two-electron integrals are the supermatrix of `qmgen.dft.two_electron` or the factors of
    `qmgen.dft.factorised`.
    """

    hcore: Float[Array, "nao nao"]
    supermatrix: Float[Array, "npair npair"] | None
    factors: Float[Array, "naux npair"] | None
    orbitals: OrbitalsOnGrid | None
    nuclear_repulsion: Float[Array, ""]
    # Of erf(ω r)/r, for range-separated functionals with factors.
    factors_long_range: Float[Array, "naux_long_range npair"] | None = None

    def astype(self, dtype: jnp.dtype) -> "Hamiltonian":
        """The same in another precision."""
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self)


class SCFResult(eqx.Module):
    """Outcome of a self-consistent field, Hartree; energies are those of ``density``.

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
    diis: DIISState
    energy: Float[Array, ""]
    energy_change: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    recent_energies: Float[Array, " recent"]
    evaluations: Int[Array, ""]


def two_electron_part(
    functional: Functional,
    hamiltonian: Hamiltonian,
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a closed-shell density matrix D = C diag(n) C^T, Hartree."""
    if hamiltonian.factors is not None:
        result = coulomb_exchange(
            hamiltonian.factors, orbitals, occupation, functional.exact_exchange
        )
        if hamiltonian.factors_long_range is not None:
            K = exchange(hamiltonian.factors_long_range, orbitals, occupation)
            result -= 0.5 * functional.long_range_exchange * K
        return result
    assert hamiltonian.supermatrix is not None
    return two_electron_matrix(hamiltonian.supermatrix, (orbitals * occupation) @ orbitals.T)


def fock_and_energy(
    functional: Functional,
    hamiltonian: Hamiltonian,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Fock (Kohn-Sham) matrix and total energy of a closed-shell density matrix, Hartree.

    ``two_electron`` is that of `two_electron_part` for the same density.
    """
    energy = hamiltonian.nuclear_repulsion + jnp.sum(
        density * (hamiltonian.hcore + 0.5 * two_electron)
    )
    fock = hamiltonian.hcore + two_electron
    if hamiltonian.orbitals is not None:
        xc_energy, xc_matrix = exchange_correlation(functional, hamiltonian.orbitals, density)
        fock, energy = fock + xc_matrix, energy + xc_energy
    return fock, energy


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


def solve_scf(
    config: DFTConfig,
    functional: Functional,
    hamiltonian: Hamiltonian,
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

    The cycles run in ``config.precision``; the last diagonalisation, Fock build and energy are
    float64 in either case, as PySCF-IPU does on its host. An iteration is one Fock build after the
    one of the guess.

    Parameters
    ----------
    config, functional
        Level of theory and thresholds (static).
    hamiltonian, overlap
        Of the conformer, float64.
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
    dtype = jnp.dtype(config.precision)
    orthogonaliser64, _ = symmetric_orthogonaliser(overlap)
    cycle_hamiltonian, S, X, first, occupation, shift, damp = (
        hamiltonian.astype(dtype),
        *(
            a.astype(dtype)
            for a in (overlap, orthogonaliser64, initial_orbitals, initial_occupation)
        ),
        level_shift.astype(dtype),
        damping.astype(dtype),
    )

    def commutator(fock: Float[Array, "nao nao"], density: Float[Array, "nao nao"]) -> Array:
        """FDS - SDF between orthonormal orbitals; twice the orbital gradient, and DIIS' error."""
        fds = X @ fock @ density @ (S @ X)
        return fds - fds.T

    def cycle(state: _State) -> _State:
        fock, energy = fock_and_energy(
            functional, cycle_hamiltonian, state.density, state.two_electron
        )
        error = commutator(fock, state.density)
        gradient_norm = jnp.linalg.norm(error) / jnp.sqrt(2.0).astype(dtype)
        # Damping takes over while the density is far from self-consistent, where DIIS' linear
        # model doesn't hold yet; the first Fock matrix has none to be mixed with.
        damped = jnp.where((gradient_norm > 0.1) & (state.evaluations > 0), damp, 0.0)
        fock_input = (1 - damped) * fock + damped * state.fock_input
        extrapolated, diis = diis_extrapolate(state.diis, fock_input, error, state.evaluations)
        virtual = S - 0.5 * S @ state.density @ S
        _, C = diagonalise(extrapolated + shift * virtual, X, real_orbital)
        occupied = occupied_orbitals(C, noccupied, nslot)
        return _State(
            density=closed_shell_density(occupied),
            occupied=occupied,
            two_electron=two_electron_part(
                functional, cycle_hamiltonian, occupied, jnp.full(nslot, 2, dtype)
            ),
            fock_input=fock_input,
            diis=diis,
            energy=energy,
            energy_change=energy - state.energy,
            gradient_norm=gradient_norm,
            recent_energies=jnp.roll(state.recent_energies, -1).at[-1].set(energy),
            evaluations=state.evaluations + 1,
        )

    def below_thresholds(state: _State) -> Bool[Array, ""]:
        # Rounding of the energy's sums: nothing in float64, up to 1e-3 Ha in float32.
        noise = 8 * jnp.finfo(dtype).eps * jnp.abs(state.energy)
        return (jnp.abs(state.energy_change) < config.energy_tolerance + noise) & (
            state.gradient_norm < config.gradient_tolerance
        )

    def unfinished(state: _State) -> Bool[Array, ""]:
        # The guess is evaluated first and is no cycle.
        more = state.evaluations <= config.max_cycle
        if config.criterion == "energy_change":
            more &= ~below_thresholds(state) & ~jnp.isnan(state.energy)
        return more

    infinite = jnp.asarray(jnp.inf, dtype)
    density = (first * occupation) @ first.T
    zeros = jnp.zeros_like(density)
    final = jax.lax.while_loop(
        unfinished,
        cycle,
        _State(
            density=density,
            occupied=zeros[:, :nslot],
            two_electron=two_electron_part(functional, cycle_hamiltonian, first, occupation),
            fock_input=zeros,
            diis=diis_start(config.diis_space, zeros),
            energy=jnp.zeros((), dtype),
            energy_change=infinite,
            gradient_norm=infinite,
            recent_energies=jnp.full((_RECENT,), jnp.nan, dtype),
            evaluations=jnp.asarray(0, jnp.int32),
        ),
    )

    def assemble(density: Array, two_electron: Array) -> tuple[Array, Array, Array, Array]:
        fock, energy = fock_and_energy(functional, hamiltonian, density, two_electron)
        return fock, energy, *diagonalise(fock, orthogonaliser64, real_orbital)

    if dtype == jnp.float64:
        density64 = final.density
        fock64, energy64, mo_energy, _ = assemble(density64, final.two_electron)
    else:
        # The float32 density is idempotent to 1e-6 only, an error of first order in the energy;
        # one diagonalisation in float64 removes it.
        def refine(_: Int[Array, ""], carry: tuple[Array, ...]) -> tuple[Array, ...]:
            occupied = carry[-1]
            density = closed_shell_density(occupied)
            two_electron = two_electron_part(
                functional, hamiltonian, occupied, jnp.full(nslot, 2, jnp.float64)
            )
            fock, energy, mo_energy, C = assemble(density, two_electron)
            return fock, energy, mo_energy, density, occupied_orbitals(C, noccupied, nslot)

        start = (
            jnp.zeros_like(overlap),
            jnp.zeros(()),
            jnp.zeros(S.shape[0]),
            jnp.zeros_like(overlap),
            final.occupied.astype(jnp.float64),
        )
        fock64, energy64, mo_energy, density64, _ = jax.lax.fori_loop(0, 2, refine, start)

    # Runs shorter than the window judge by the energies there are.
    std_ev = jnp.nanstd(final.recent_energies.astype(jnp.float64)) * EV_PER_HARTREE
    if config.criterion == "energy_change":
        converged = below_thresholds(final)
    else:
        gap = mo_energy[noccupied] - mo_energy[noccupied - 1]
        converged = (std_ev < config.energy_std_tol_ev) & (gap != 0)
    return SCFResult(
        energy=energy64,
        mo_energy=mo_energy,
        density=density64,
        fock=fock64,
        converged=converged & jnp.isfinite(energy64),
        iterations=final.evaluations - 1,
        energy_change=final.energy_change.astype(jnp.float64),
        std_ev=std_ev,
    )
