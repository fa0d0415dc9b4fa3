"""Fock matrix and energy of a closed-shell density, in either precision or near a reference."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.factorised import coulomb_exchange, exchange
from qmgen.dft.functionals import Functional
from qmgen.dft.grid_orbitals import OrbitalsOnGrid
from qmgen.dft.quadrature import (
    QuadratureReference,
    exchange_correlation,
    exchange_correlation_near,
    exchange_correlation_reference,
)
from qmgen.dft.single_factors import (
    SingleFactors,
    aligned,
    half_transformed,
    single_coulomb_exchange,
    single_coulomb_exchange_change,
    single_factors,
)
from qmgen.dft.two_electron import two_electron_matrix


class Hamiltonian(NamedTuple):
    """What the Kohn-Sham energy of a density needs, its large arrays in one precision.

    Two-electron integrals are the supermatrix of `qmgen.dft.two_electron` or the factors of
    `qmgen.dft.factorised`.
    """

    hcore: Float[Array, "nao nao"]
    supermatrix: Float[Array, "npair npair"] | None
    factors: Float[Array, "naux npair"] | SingleFactors | None
    orbitals: OrbitalsOnGrid | None
    nuclear_repulsion: Float[Array, ""]
    # Of erf(ω r)/r, for range-separated functionals with factors.
    factors_long_range: Float[Array, "naux_long_range npair"] | SingleFactors | None = None

    def in_single_precision(self) -> "Hamiltonian":
        """The same with large arrays in float32."""
        nao = self.hcore.shape[0]
        both = self.factors, self.factors_long_range
        factors = [
            B if B is None or isinstance(B, SingleFactors) else single_factors(B, nao) for B in both
        ]
        return self._replace(
            supermatrix=None if self.supermatrix is None else self.supermatrix.astype(jnp.float32),
            factors=factors[0],
            factors_long_range=factors[1],
            orbitals=None if self.orbitals is None else self.orbitals.in_single_precision(),
        )


class Reference(NamedTuple):
    """A density whose Fock matrix was built in float64, and what builds nearby need of it.

    Where there are factors, ``halves`` are those of its ``occupied`` orbitals.
    """

    density: Float[Array, "nao nao"]
    occupied: Float[Array, "nao nslot"]
    two_electron: Float[Array, "nao nao"]
    quadrature: QuadratureReference | None
    halves: Float[Array, "nblock nfactor nao nslot"] | None
    halves_long_range: Float[Array, "nblock nfactor nao nslot"] | None


def two_electron_part(
    functional: Functional,
    hamiltonian: Hamiltonian,
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a closed-shell density matrix D = C diag(n) C^T, Hartree.

    Returned in the orbitals' precision, which that of the products with factors may be below.
    """
    factors, long_range = hamiltonian.factors, hamiltonian.factors_long_range
    if factors is None:
        assert hamiltonian.supermatrix is not None
        density = (orbitals * occupation) @ orbitals.T
        result = two_electron_matrix(hamiltonian.supermatrix, density)
    elif isinstance(factors, SingleFactors):
        C, n = orbitals.astype(jnp.float32), occupation.astype(jnp.float32)
        result = single_coulomb_exchange(factors, C, n, functional.exact_exchange)
        if isinstance(long_range, SingleFactors):
            result += single_coulomb_exchange(
                long_range, C, n, functional.long_range_exchange, coulomb_too=False
            )
    else:
        result = coulomb_exchange(factors, orbitals, occupation, functional.exact_exchange)
        if long_range is not None:
            assert not isinstance(long_range, SingleFactors)
            result -= (
                0.5 * functional.long_range_exchange * exchange(long_range, orbitals, occupation)
            )
    return result.astype(orbitals.dtype)


def fock_and_energy(
    functional: Functional,
    hamiltonian: Hamiltonian,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """Fock (Kohn-Sham) matrix and total energy of a closed-shell density matrix, Hartree.

    ``two_electron`` is that of `two_electron_part` for the same density. The functional is
    evaluated in the precision of the orbitals on the grid.
    """
    fock, energy = _without_quadrature(hamiltonian, density, two_electron)
    if hamiltonian.orbitals is not None:
        xc_energy, xc_matrix = exchange_correlation(
            functional, hamiltonian.orbitals, density.astype(hamiltonian.orbitals.values.dtype)
        )
        fock += xc_matrix.astype(fock.dtype)
        energy += xc_energy
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
    single: Hamiltonian,
    occupied: Float[Array, "nao nslot"],
    density: Float[Array, "nao nao"],
) -> tuple[Reference, Float[Array, "nao nao"], Float[Array, ""]]:
    """Reference, Fock matrix and energy of a closed shell's density and its orbitals."""
    two_electron = two_electron_part(
        functional, hamiltonian, occupied, jnp.full(occupied.shape[1], 2.0)
    )
    fock, energy = _without_quadrature(hamiltonian, density, two_electron)
    quadrature = None
    if hamiltonian.orbitals is not None:
        xc_energy, xc_matrix, quadrature = exchange_correlation_reference(
            functional, hamiltonian.orbitals, density
        )
        fock, energy = fock + xc_matrix, energy + xc_energy
    halves = [
        half_transformed(factors, occupied.astype(jnp.float32))
        if isinstance(factors, SingleFactors)
        else None
        for factors in (single.factors, single.factors_long_range)
    ]
    return Reference(density, occupied, two_electron, quadrature, *halves), fock, energy


def two_electron_near(
    functional: Functional,
    single: Hamiltonian,
    reference: Reference,
    orbitals: Float[Array, "nao nslot"],
    occupation: Float[Array, " nslot"],
) -> Float[Array, "nao nao"]:
    """Two-electron part of doubly occupied orbitals near the reference's."""
    density_change = ((orbitals * occupation) @ orbitals.T - reference.density).astype(jnp.float32)
    if single.supermatrix is not None:
        step = two_electron_matrix(single.supermatrix, density_change)
    else:
        assert isinstance(single.factors, SingleFactors)
        assert reference.halves is not None
        near = aligned(orbitals, reference.occupied)
        change = (near - reference.occupied).astype(jnp.float32)
        step = single_coulomb_exchange_change(
            single.factors, reference.halves, density_change, change, functional.exact_exchange
        )
        if isinstance(single.factors_long_range, SingleFactors):
            assert reference.halves_long_range is not None
            step += single_coulomb_exchange_change(
                single.factors_long_range,
                reference.halves_long_range,
                density_change,
                change,
                functional.long_range_exchange,
                coulomb_too=False,
            )
    return reference.two_electron + step.astype(jnp.float64)


def fock_and_energy_near(
    functional: Functional,
    hamiltonian: Hamiltonian,
    single: Hamiltonian,
    reference: Reference,
    density: Float[Array, "nao nao"],
    two_electron: Float[Array, "nao nao"],
) -> tuple[Float[Array, "nao nao"], Float[Array, ""]]:
    """As `fock_and_energy`, of a density near the reference's.

    As the two-electron part is linear and symmetric, that of the change times the reference's
    density is that of the reference times the change. So its rounding enters the energy in second
    order of the change only.
    """
    change = density - reference.density
    fock = hamiltonian.hcore + two_electron
    energy = (
        hamiltonian.nuclear_repulsion
        + jnp.sum(density * hamiltonian.hcore)
        + jnp.sum((0.5 * reference.density + change) * reference.two_electron)
        + 0.5 * jnp.sum(change * (two_electron - reference.two_electron))
    )
    if reference.quadrature is None:
        return fock, energy
    assert hamiltonian.orbitals is not None
    assert single.orbitals is not None
    xc_energy, xc_matrix = exchange_correlation_near(
        functional, single.orbitals, hamiltonian.orbitals.weights, reference.quadrature, density
    )
    return fock + xc_matrix, energy + xc_energy
