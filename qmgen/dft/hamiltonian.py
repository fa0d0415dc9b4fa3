"""Fock matrix and energy of a closed-shell density, in either precision or near a reference."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.factorised import coulomb_exchange, exchange
from qmgen.dft.functionals import Functional
from qmgen.dft.quadrature import (
    OrbitalsOnGrid,
    QuadratureReference,
    exchange_correlation,
    exchange_correlation_near,
    exchange_correlation_reference,
)
from qmgen.dft.two_electron import two_electron_matrix


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


class Reference(NamedTuple):
    """A density whose Fock matrix was built in float64, and what builds nearby need of it."""

    density: Float[Array, "nao nao"]
    two_electron: Float[Array, "nao nao"]
    quadrature: QuadratureReference | None


def two_electron_part(
    functional: Functional,
    hamiltonian: Hamiltonian,
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a closed-shell density matrix D = C diag(n) C^T, Hartree.

    Computed in the Hamiltonian's precision and returned in the orbitals'.
    """
    dtype = hamiltonian.hcore.dtype
    if hamiltonian.factors is not None:
        result = coulomb_exchange(
            hamiltonian.factors,
            orbitals.astype(dtype),
            occupation.astype(dtype),
            functional.exact_exchange,
        )
        if hamiltonian.factors_long_range is not None:
            K = exchange(
                hamiltonian.factors_long_range, orbitals.astype(dtype), occupation.astype(dtype)
            )
            result -= 0.5 * functional.long_range_exchange * K
    else:
        assert hamiltonian.supermatrix is not None
        density = (orbitals * occupation) @ orbitals.T
        result = two_electron_matrix(hamiltonian.supermatrix, density.astype(dtype))
    return result.astype(orbitals.dtype)


def fock_and_energy(
    functional: Functional,
    hamiltonian: Hamiltonian,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Fock (Kohn-Sham) matrix and total energy of a closed-shell density matrix, Hartree.

    ``two_electron`` is that of `two_electron_part` for the same density. The functional is
    integrated in the Hamiltonian's precision.
    """
    fock, energy = _without_quadrature(hamiltonian, density, two_electron)
    if hamiltonian.orbitals is not None:
        xc_energy, xc_matrix = exchange_correlation(
            functional, hamiltonian.orbitals, density.astype(hamiltonian.hcore.dtype)
        )
        fock += xc_matrix.astype(fock.dtype)
        energy += xc_energy.astype(energy.dtype)
    return fock, energy


def _without_quadrature(
    hamiltonian: Hamiltonian,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Fock matrix and energy without the semi-local part of the functional."""
    energy = hamiltonian.nuclear_repulsion + jnp.sum(
        density * (hamiltonian.hcore + 0.5 * two_electron)
    )
    return hamiltonian.hcore + two_electron, energy


def build_reference(
    functional: Functional,
    hamiltonian: Hamiltonian,
    occupied: Float[Array, "nao nslot"],
    density: Float[Array, "nao nao"],
) -> tuple[Reference, Float[Array, "nao nao"], Float[Array, ""]]:
    """Reference, Fock matrix and energy of a closed shell's density and its orbitals."""
    two_electron = two_electron_part(
        functional, hamiltonian, occupied, jnp.full(occupied.shape[1], 2.0)
    )
    fock, energy = _without_quadrature(hamiltonian, density, two_electron)
    if hamiltonian.orbitals is None:
        return Reference(density, two_electron, None), fock, energy
    xc_energy, xc_matrix, quadrature = exchange_correlation_reference(
        functional, hamiltonian.orbitals, density
    )
    return Reference(density, two_electron, quadrature), fock + xc_matrix, energy + xc_energy


def two_electron_near(
    functional: Functional,
    hamiltonian: Hamiltonian,
    single: Hamiltonian,
    reference: Reference,
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    """Two-electron part of a density near the reference's."""
    if single.supermatrix is None:
        # Of a change of density there are twice as many orbitals, and nothing is gained.
        return two_electron_part(functional, hamiltonian, orbitals, occupation)
    change = (orbitals * occupation) @ orbitals.T - reference.density
    step = two_electron_matrix(single.supermatrix, change.astype(jnp.float32))
    return reference.two_electron + step.astype(jnp.float64)


def fock_and_energy_near(
    functional: Functional,
    hamiltonian: Hamiltonian,
    single: Hamiltonian,
    reference: Reference,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """As `fock_and_energy`, of a density near the reference's."""
    fock, energy = _without_quadrature(hamiltonian, density, two_electron)
    if reference.quadrature is None:
        return fock, energy
    assert hamiltonian.orbitals is not None
    assert single.orbitals is not None
    xc_energy, xc_matrix = exchange_correlation_near(
        functional, single.orbitals, hamiltonian.orbitals.weights, reference.quadrature, density
    )
    return fock + xc_matrix, energy + xc_energy
