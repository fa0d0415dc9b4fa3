"""Coulomb and exact exchange from three-index factors of the two-electron integrals.

With (ij|kl) = sum_P B[P, ij] B[P, kl], from a Cholesky decomposition (Beebe and Linderberg, Int. J.
Quantum Chem. 12, 683, 1977) or density fitting (Whitten, J. Chem. Phys. 58, 4496, 1973), Coulomb
takes two matrix-vector products and exchange a half-transformation to occupied orbitals and its
square (Weigend, Phys. Chem. Chem. Phys. 4, 4285, 2002). Memory grows as the third power of the
number of orbitals instead of the fourth.

Factors hold each pair i >= j once, at i (i + 1) / 2 + j. A density matrix is given as orbitals and
their occupations, D = C diag(n) C^T, which any symmetric matrix can be.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Factors that are unpacked at a time; their number is a multiple of it, so that programs are
# shared between conformers. The half-transformed block of 300 orbitals, 40 occupied, fills 6 MB.
FACTOR_BLOCK = 64
# Share of the largest eigenvalue of a density below which one is only rounding.
_RANK_TOLERANCE = 1e-14


def padded_factor_number(naux: int) -> int:
    """Number of factors with those of padding, which are zero."""
    return -(-max(naux, 1) // FACTOR_BLOCK) * FACTOR_BLOCK


def stack_factors(
    factors: list[Float[np.ndarray, "_naux npair"]],
) -> Float[np.ndarray, "nconf naux npair"]:
    """Factors of several conformers in one array, padded with zeros to a common number."""
    naux = padded_factor_number(max(len(B) for B in factors))
    stacked = np.zeros((len(factors), naux, factors[0].shape[1]))
    for padded, B in zip(stacked, factors, strict=True):
        padded[: len(B)] = B
    return stacked


def density_orbitals(
    density: Float[np.ndarray, "nconf nao nao"], step: int
) -> tuple[Float[np.ndarray, "nconf nao norb"], Float[np.ndarray, "nconf norb"]]:
    """Orbitals and occupations that give symmetric density matrices exactly.

    Eigenvectors whose eigenvalue is not rounding. Of a superposition of atomic densities there are
    as many as its minimal basis has functions, of a self-consistent density as there are occupied
    orbitals. Their number is padded to a multiple of ``step``, the same for all conformers.
    """
    # What is not finite stays so, and must not stop the other conformers.
    finite = np.isfinite(density).all(axis=(1, 2))
    occupation, orbitals = np.linalg.eigh(np.where(finite[:, None, None], density, 0.0))
    by_size = np.argsort(-np.abs(occupation), axis=1)
    occupation = np.take_along_axis(occupation, by_size, axis=1)
    orbitals = np.take_along_axis(orbitals, by_size[:, None, :], axis=2)
    size = np.abs(occupation)
    rank = int(np.max(np.sum(size > _RANK_TOLERANCE * size[:, :1], axis=1), initial=1))
    occupation[~finite] = np.nan
    padding = (0, -rank % step)
    return (
        np.pad(orbitals[:, :, :rank], ((0, 0), (0, 0), padding)),
        np.pad(occupation[:, :rank], ((0, 0), padding)),
    )


def coulomb(
    factors: Float[Array, "naux npair"], density: Float[Array, "nao nao"]
) -> Float[Array, "nao nao"]:
    """J_ij = sum_kl (ij|kl) D_kl of a symmetric density matrix, Hartree.

    Parameters
    ----------
    factors
        Packed, as this module's docstring has it.
    density
        Of all electrons.
    """
    nao = density.shape[0]
    return ((factors @ _packed(density)) @ factors)[pair_index(nao)]


def exchange(
    factors: Float[Array, "naux npair"],
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    """K_ij = sum_kl (ik|jl) D_kl of D = C diag(n) C^T, Hartree.

    Parameters
    ----------
    factors
        Packed; a multiple of `FACTOR_BLOCK`.
    orbitals
        C; columns that are padding have occupation 0.
    occupation
        n, of either sign.
    """
    nao = orbitals.shape[0]
    zero = jnp.zeros((nao, nao), orbitals.dtype)

    def add_block(
        K: Float[Array, "nao nao"], block: Float[Array, "nblock npair"]
    ) -> tuple[Float[Array, "nao nao"], None]:
        return K + _exchange_of_block(block, orbitals, occupation), None

    # Its derivative unpacks a block anew instead of keeping all of them.
    return jax.lax.scan(jax.checkpoint(add_block), zero, _blocks(factors))[0]


def coulomb_exchange(
    factors: Float[Array, "naux npair"],
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
    exact_exchange: float,
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a closed shell's D = C diag(n) C^T, Hartree, in one pass over the factors.

    Parameters
    ----------
    factors, orbitals, occupation
        As in `exchange`.
    exact_exchange
        Share a of exact exchange; with 0 only J is built.
    """
    density = (orbitals * occupation) @ orbitals.T
    if not exact_exchange:
        return coulomb(factors, density)
    nao = orbitals.shape[0]
    packed = _packed(density)
    zero = jnp.zeros(packed.shape, density.dtype), jnp.zeros((nao, nao), density.dtype)

    def add_block(
        total: tuple[Float[Array, " npair"], Float[Array, "nao nao"]],
        block: Float[Array, "nblock npair"],
    ) -> tuple[tuple[Float[Array, " npair"], Float[Array, "nao nao"]], None]:
        J, K = total
        J = J + (block @ packed) @ block
        return (J, K + _exchange_of_block(block, orbitals, occupation)), None

    (J, K), _ = jax.lax.scan(jax.checkpoint(add_block), zero, _blocks(factors))
    return J[pair_index(nao)] - 0.5 * exact_exchange * K


def spin_coulomb_exchange(
    factors: Float[Array, "naux npair"],
    orbitals: Float[Array, "2 nao norb"],
    occupation: Float[Array, "2 norb"],
    exact_exchange: float,
) -> Float[Array, "2 nao nao"]:
    """J - a K of the two spins' D = C diag(n) C^T, Hartree; J is that of both, K of each one.

    Parameters
    ----------
    factors
        As in `exchange`.
    orbitals, occupation
        As in `exchange`, of each spin.
    exact_exchange
        Share a of exact exchange; with 0 only J is built.
    """
    density = jnp.einsum("sip,sp,sjp->ij", orbitals, occupation, orbitals)
    if not exact_exchange:
        J = coulomb(factors, density)
        return jnp.stack([J, J])
    packed = _packed(density)
    zero = jnp.zeros(packed.shape, density.dtype), jnp.zeros((2, *density.shape), density.dtype)

    def add_block(
        total: tuple[Float[Array, " npair"], Float[Array, "2 nao nao"]],
        block: Float[Array, "nblock npair"],
    ) -> tuple[tuple[Float[Array, " npair"], Float[Array, "2 nao nao"]], None]:
        J, K = total
        of_spins = [_exchange_of_block(block, orbitals[s], occupation[s]) for s in (0, 1)]
        return (J + (block @ packed) @ block, K + jnp.stack(of_spins)), None

    (J, K), _ = jax.lax.scan(add_block, zero, _blocks(factors))
    return J[pair_index(density.shape[0])] - exact_exchange * K


def _exchange_of_block(
    block: Float[Array, "nblock npair"],
    orbitals: Float[Array, "nao norb"],
    occupation: Float[Array, " norb"],
) -> Float[Array, "nao nao"]:
    nao, norb = orbitals.shape
    unpacked = block.at[:, pair_index(nao)].get(mode="promise_in_bounds")
    # With the factor in the middle both products are of matrices as they lie in memory.
    half = (jnp.swapaxes(unpacked, 0, 1).reshape(-1, nao) @ orbitals).reshape(nao, -1, norb)
    return half.reshape(nao, -1) @ (half * occupation).reshape(nao, -1).T


def _blocks(factors: Float[Array, "naux npair"]) -> Float[Array, "nblocks nblock npair"]:
    return factors.reshape(-1, FACTOR_BLOCK, factors.shape[1])


def pair_index(nao: int) -> Int[np.ndarray, "nao nao"]:
    """Where the pair of two orbitals stands among packed pairs."""
    rows, columns = np.tril_indices(nao)
    pair = np.zeros((nao, nao), np.int32)
    pair[rows, columns] = pair[columns, rows] = np.arange(len(rows))
    return pair


def _packed(density: Float[Array, "nao nao"]) -> Float[Array, " npair"]:
    """Each pair once, with what (i, j) and (j, i) are multiplied with in a sum over both."""
    rows, columns = np.tril_indices(density.shape[0])
    twice_off_diagonal = np.where(rows == columns, 1.0, 2.0).astype(density.dtype)
    return density[rows, columns] * twice_off_diagonal
