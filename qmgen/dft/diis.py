"""Pulay's direct inversion in the iterative subspace, with a history of fixed size."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class DIISState(NamedTuple):
    """Fock matrices and error matrices of recent cycles, and the errors' inner products.

    Those of two spins stand below each other, so ``nrow`` is ``nao`` or twice that.
    """

    focks: Float[Array, "space nrow nao"]
    errors: Float[Array, "space nrow nao"]
    products: Float[Array, "space space"]


def diis_start(space: int, fock: Float[Array, "nrow nao"]) -> DIISState:
    """Empty history for matrices like ``fock``."""
    empty = jnp.zeros((space, *fock.shape), fock.dtype)
    return DIISState(empty, empty, jnp.zeros((space, space), jnp.float64))


def diis_extrapolate(
    state: DIISState,
    fock: Float[Array, "nrow nao"],
    error: Float[Array, "nrow nao"],
    cycle: Int[Array, ""],
) -> tuple[Float[Array, "nrow nao"], DIISState]:
    """Fock matrix with the least error in the span of the history (Pulay 1980, 1982).

    Parameters
    ----------
    state
        History; the oldest entry is replaced.
    fock, error
        Of this cycle; the error is the commutator FDS - SDF between orthonormal orbitals.
    cycle
        Number of earlier calls whose entries count; one that does not is replaced.
    """
    space = state.focks.shape[0]
    slot = cycle % space
    focks = state.focks.at[slot].set(fock)
    errors = state.errors.at[slot].set(error)
    # float64 throughout: near convergence the products span many orders of magnitude.
    row = jnp.sum((errors * error).astype(jnp.float64), axis=(1, 2))
    products = state.products.at[slot, :].set(row).at[:, slot].set(row)

    # Unused slots leave rows of zeros, which the pseudo-inverse drops. Scaling by the largest
    # product leaves the coefficients as they are and makes its threshold a relative one.
    used = (jnp.arange(space) <= cycle).astype(jnp.float64)
    largest = jnp.maximum(jnp.max(jnp.diagonal(products)), 1e-300)
    matrix = jnp.zeros((space + 1, space + 1), jnp.float64)
    matrix = matrix.at[1:, 1:].set(products / largest).at[0, 1:].set(used).at[1:, 0].set(used)
    w, V = jnp.linalg.eigh(matrix)
    keep = jnp.abs(w) > 1e-14
    coefficients = V @ jnp.where(keep, V[0] / jnp.where(keep, w, 1.0), 0.0)
    extrapolated = jnp.tensordot(coefficients[1:].astype(fock.dtype), focks, axes=1)
    return extrapolated, DIISState(focks, errors, products)
