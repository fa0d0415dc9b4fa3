"""Coulomb and exact exchange from three-index factors in single precision.

For cycles that need neither all digits nor all factors. Factors are unpacked once, as looking up
packed ones takes as long as the matrix products, and those of a Cholesky decomposition that are
left out bound the error of every integral: the diagonal of what they make (see
`qmgen.dft.cholesky`). Of a density near one that was built exactly only the change is computed, to
which all rounding and what was left out is proportional.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmgen.dft.factorised import FACTOR_BLOCK, pair_index

# Largest error of an integral by factors that are left out, Hartree: some of float32's rounding.
_NEGLIGIBLE_INTEGRAL = 1e-6


class SingleFactors(NamedTuple):
    """Factors of (ij|kl) = sum_P B[P, i, j] B[P, k, l] in float32.

    ``nblock`` is the number of blocks that matter; they come first.
    """

    blocks: Float[Array, "nblock nfactor nao nao"]
    nblock: Int[Array, ""]


def single_factors(factors: Float[Array, "naux npair"], nao: int) -> SingleFactors:
    """Unpack factors.

    Parameters
    ----------
    factors
        Packed, a multiple of `qmgen.dft.factorised.FACTOR_BLOCK`.
    nao
        Number of orbitals.
    """
    packed = factors.reshape(-1, FACTOR_BLOCK, factors.shape[1])
    index = pair_index(nao)

    diagonals = jax.lax.map(lambda block: jnp.sum(block * block, axis=0), packed)
    left = jnp.max(jnp.cumsum(diagonals[::-1], axis=0)[::-1], axis=1)
    nblock = jnp.sum(left > _NEGLIGIBLE_INTEGRAL)

    def unpack(n: Array, blocks: Array) -> Array:
        block = jax.lax.dynamic_index_in_dim(packed, n, 0, keepdims=False).astype(jnp.float32)
        unpacked = block.at[:, index].get(mode="promise_in_bounds")
        return jax.lax.dynamic_update_index_in_dim(blocks, unpacked, n, 0)

    blocks = jnp.zeros((*packed.shape[:2], nao, nao), jnp.float32)
    return SingleFactors(jax.lax.fori_loop(0, nblock, unpack, blocks), nblock.astype(jnp.int32))


def _block(factors: SingleFactors, n: Array) -> Float[Array, "nfactor nao nao"]:
    return jax.lax.dynamic_index_in_dim(factors.blocks, n, 0, keepdims=False)


def _half(
    block: Float[Array, "nfactor nao nao"], orbitals: Float[Array, "nao norb"]
) -> Float[Array, "nfactor nao norb"]:
    nfactor, nao, _ = block.shape
    return (block.reshape(-1, nao) @ orbitals).reshape(nfactor, nao, -1)


def _matrix(half: Float[Array, "nfactor nao norb"]) -> Float[Array, "nao nsum"]:
    return half.transpose(1, 0, 2).reshape(half.shape[1], -1)


def _coulomb(
    block: Float[Array, "nfactor nao nao"], density: Float[Array, "nao nao"]
) -> Float[Array, "nao nao"]:
    flat = block.reshape(len(block), -1)
    return ((flat @ density.ravel()) @ flat).reshape(density.shape)


def single_coulomb_exchange(
    factors: SingleFactors,
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
    exact_exchange: float,
    coulomb_too: bool = True,
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a closed shell's D = C diag(n) C^T, Hartree.

    Parameters
    ----------
    factors
        In float32, as the other arrays are.
    orbitals, occupation
        C and n.
    exact_exchange
        Share a of exact exchange; with 0 only J is built.
    coulomb_too
        Without it, J is left out.
    """
    density = (orbitals * occupation) @ orbitals.T

    def add_block(n: Array, total: Float[Array, "nao nao"]) -> Float[Array, "nao nao"]:
        block = _block(factors, n)
        if coulomb_too:
            total += _coulomb(block, density)
        if exact_exchange:
            half = _half(block, orbitals)
            total -= 0.5 * exact_exchange * (_matrix(half * occupation) @ _matrix(half).T)
        return total

    return jax.lax.fori_loop(0, factors.nblock, add_block, jnp.zeros_like(density))


def half_transformed(
    factors: SingleFactors, orbitals: Float[Array, "nao norb"]
) -> Float[Array, "nblock nfactor nao norb"]:
    """B C of the blocks that matter, for `single_coulomb_exchange_change`."""
    nblock, nfactor, nao, _ = factors.blocks.shape

    def add_block(n: Array, halves: Array) -> Array:
        half = _half(_block(factors, n), orbitals)
        return jax.lax.dynamic_update_index_in_dim(halves, half, n, 0)

    start = jnp.zeros((nblock, nfactor, nao, orbitals.shape[1]), orbitals.dtype)
    return jax.lax.fori_loop(0, factors.nblock, add_block, start)


def single_coulomb_exchange_change(
    factors: SingleFactors,
    halves: Float[Array, "nblock nfactor nao norb"],
    density_change: Float[Array, "nao nao"],
    change: Float[Array, "nao norb"],
    exact_exchange: float,
    coulomb_too: bool = True,
) -> Float[Array, "nao nao"]:
    """Change of J - a K / 2 when doubly occupied orbitals C become C + X, Hartree.

    The density changes by 2 (W X^T + X W^T) with W = C + X / 2, and exchange by the products of
    their half-transformed factors.

    Parameters
    ----------
    factors
        In float32, as the other arrays are.
    halves
        Those of C.
    density_change, change
        Of the density matrix, and X.
    exact_exchange, coulomb_too
        As in `single_coulomb_exchange`.
    """

    def add_block(
        n: Array, total: tuple[Float[Array, "nao nao"], Float[Array, "nao nao"]]
    ) -> tuple[Float[Array, "nao nao"], Float[Array, "nao nao"]]:
        J, product = total
        block = _block(factors, n)
        if coulomb_too:
            J += _coulomb(block, density_change)
        if exact_exchange:
            half = _half(block, change)
            middle = jax.lax.dynamic_index_in_dim(halves, n, 0, keepdims=False) + 0.5 * half
            product += _matrix(middle) @ _matrix(half).T
        return J, product

    zero = jnp.zeros_like(density_change)
    J, product = jax.lax.fori_loop(0, factors.nblock, add_block, (zero, zero))
    return J - exact_exchange * (product + product.T)


def aligned(
    orbitals: Float[Array, "nao norb"], reference: Float[Array, "nao norb"]
) -> Float[Array, "nao norb"]:
    """The same space's orbitals as near as possible to others (orthogonal Procrustes problem)."""
    # Slots without an orbital are zero in both and stay so.
    U, _, Vt = jnp.linalg.svd(orbitals.T @ reference, full_matrices=False)
    return orbitals @ (U @ Vt)
