"""Occupied orbitals that are valid by construction, as functions that JAX differentiates.

Whatever a network predicts, what comes out is orthonormal, so that its density D = 2 Q Q^T has the
right number of electrons and D² = 2 D, and its energy is an upper bound of the self-consistent one
(of the ground state, for exact integrals). Orbitals are columns over an orthonormal basis, which
`qmgen.dft.kohn_sham_problem` gives; columns beyond the occupied ones are zero.

Densities don't see rotations among occupied orbitals. Derivatives of orbitals are therefore given
in the gauge in which occupied orbitals don't turn into each other: those of anything that depends
on the density alone are exact, those of single orbitals are not defined.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.scf import diagonalise, occupied_orbitals

# Smallest difference of energies between an empty and an occupied orbital that derivatives are
# divided by, Hartree. The derivative of the density diverges where that gap closes; it is exact
# above this and bounded below.
SMALLEST_GAP = 1e-3

Orbitals = Float[Array, "nao nslot"]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def orbitals_of_hamiltonian(
    hamiltonian: Float[Array, "nao nao"],
    nslot: int,
    noccupied: Int[Array, ""],
    real_orbital: Bool[Array, " nao"],
) -> Orbitals:
    """Lowest orbitals of a Hamiltonian over an orthonormal basis.

    Its derivative is that of perturbation theory between occupied and empty orbitals. Orbitals that
    are degenerate among themselves don't enter it, unlike in the derivative of the
    eigendecomposition.

    Parameters
    ----------
    hamiltonian
        Hartree; only its symmetric part counts.
    nslot
        Number of columns that are returned (static).
    noccupied
        Of them occupied; the others are zero.
    real_orbital
        False for basis functions that are padding.
    """
    return _eigenvectors(hamiltonian, nslot, noccupied, real_orbital)[0]


_Residual = tuple[Array, Array, Int[Array, ""], Bool[Array, " nao"]]


def _eigenvectors(
    hamiltonian: Float[Array, "nao nao"],
    nslot: int,
    noccupied: Int[Array, ""],
    real_orbital: Bool[Array, " nao"],
) -> tuple[Orbitals, _Residual]:
    symmetric = 0.5 * (hamiltonian + hamiltonian.T)
    identity = jnp.eye(hamiltonian.shape[0], dtype=hamiltonian.dtype)
    energies, U = diagonalise(symmetric, identity, real_orbital)
    return occupied_orbitals(U, noccupied, nslot), (energies, U, noccupied, real_orbital)


def _eigenvectors_backward(
    nslot: int, residual: _Residual, slope: Orbitals
) -> tuple[Float[Array, "nao nao"], None, None]:
    energies, U, noccupied, real_orbital = residual
    number = jnp.arange(len(energies))
    empty = (number >= noccupied) & (number < jnp.sum(real_orbital))
    counts = empty[:, None] & (number[:nslot] < noccupied)
    gap = jnp.maximum(energies[:, None] - energies[:nslot], SMALLEST_GAP)
    rotation = jnp.where(counts, -(U.T @ slope) / gap, 0.0)
    half = U @ rotation @ U[:, :nslot].T
    return 0.5 * (half + half.T), None, None


orbitals_of_hamiltonian.defvjp(_eigenvectors, _eigenvectors_backward)


def orbitals_of_density(
    density: Float[Array, "nao nao"],
    nslot: int,
    noccupied: Int[Array, ""],
    real_orbital: Bool[Array, " nao"],
) -> Orbitals:
    """Natural orbitals of the largest occupations of a density matrix over an orthonormal basis.

    The density of these is the nearest one of a closed shell, in the Frobenius norm. Arguments are
    those of `orbitals_of_hamiltonian`; the smallest gap that derivatives are divided by is one of
    occupations.
    """
    return orbitals_of_hamiltonian(-density, nslot, noccupied, real_orbital)


def orbitals_of_coefficients(coefficients: Orbitals, noccupied: Int[Array, ""]) -> Orbitals:
    """Orthonormal orbitals that span the same space as linearly independent coefficients.

    The retraction Z L^-T with L L^T = Z^T Z (Cholesky), which is smooth everywhere that Z has full
    rank; NaN elsewhere.

    Parameters
    ----------
    coefficients
        Z, over an orthonormal basis. Columns from the ``noccupied``-th on don't count.
    noccupied
        Number of occupied orbitals.
    """
    counts = jnp.arange(coefficients.shape[1]) < noccupied
    Z = jnp.where(counts, coefficients, 0.0)
    gram = Z.T @ Z + jnp.diag(jnp.where(counts, 0.0, 1.0).astype(Z.dtype))
    L = jnp.linalg.cholesky(gram)
    return jax.scipy.linalg.solve_triangular(L, Z.T, lower=True).T
