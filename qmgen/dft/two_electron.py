"""Coulomb and exact exchange as one matrix over orbital pairs.

For a closed shell and a fixed share a of exact exchange, J - a K / 2 is linear in the density.
Over packed pairs p = (i, j) with i >= j it is the symmetric supermatrix of Roothaan and Bagus
(Methods Comput. Phys. 2, 47, 1963),

    G_pq = (ij|kl) - a / 4 [(ik|jl) + (il|jk)],

so that a Fock build is one matrix-vector product of the smallest exact size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Most rows of the supermatrix that are worked on at a time; bounds the memory of their indices.
_ROWS_AT_A_TIME = 64


def pair_number(nao: int) -> int:
    """Number of distinct pairs of orbitals."""
    return nao * (nao + 1) // 2


def packed_size(nao: int) -> int:
    """Number of distinct two-electron integrals over a number of orbitals."""
    npair = pair_number(nao)
    return npair * (npair + 1) // 2


def _triangle(a: Int[Array, "*#n"], b: Int[Array, "*#n"]) -> Int[Array, "..."]:
    """Index of (a, b) in a packed lower triangle."""
    high, low = jnp.maximum(a, b), jnp.minimum(a, b)
    return high * (high + 1) // 2 + low


def supermatrix(
    eri: Float[Array, " neri"], nao: int, exact_exchange: float, *, coulomb: bool = True
) -> Float[Array, "npair npair"]:
    """Matrix that takes a packed density to the packed two-electron part of the Fock matrix.

    Parameters
    ----------
    eri
        Distinct integrals (ij|kl), as in `qmgen.dft.integrals.Integrals`.
    nao
        Number of orbitals.
    exact_exchange
        Share a of exact exchange.
    coulomb
        Whether (ij|kl) is part of it; without, the matrix gives -a K / 2.
    """
    rows, columns = (jnp.asarray(index, jnp.int32) for index in np.tril_indices(nao))
    pairs = jnp.arange(rows.size, dtype=jnp.int32)
    # Pairs of each orbital with the first, and with the second, of each pair.
    with_first = _triangle(jnp.arange(nao, dtype=jnp.int32)[:, None], rows)
    with_second = _triangle(jnp.arange(nao, dtype=jnp.int32)[:, None], columns)

    def gather_row(p: Int[Array, ""]) -> Float[Array, " npair"]:
        i, j = rows[p], columns[p]
        row = eri[_triangle(p, pairs)] if coulomb else jnp.zeros(rows.size, eri.dtype)
        if exact_exchange:
            exchange = eri[_triangle(with_first[i], with_second[j])]
            exchange += eri[_triangle(with_second[i], with_first[j])]
            row -= 0.25 * exact_exchange * exchange
        return row

    return jax.lax.map(gather_row, pairs, batch_size=_rows_at_a_time(rows.size))


def _rows_at_a_time(number: int) -> int:
    """Rows of a block, without a remainder, for which XLA would copy the whole matrix."""
    return max(n for n in range(1, _ROWS_AT_A_TIME + 1) if number % n == 0)


def two_electron_matrix(
    supermatrix: Float[Array, "npair npair"], density: Float[Array, "nao nao"]
) -> Float[Array, "nao nao"]:
    """J - a K / 2 of a symmetric density matrix, Hartree.

    Summed in the density's precision, which may exceed the supermatrix'.
    """
    nao = density.shape[0]
    rows, columns = np.tril_indices(nao)
    pair = np.zeros((nao, nao), np.int32)
    pair[rows, columns] = pair[columns, rows] = np.arange(len(rows))
    twice_off_diagonal = np.where(rows == columns, 1.0, 2.0).astype(density.dtype)
    packed = density[rows, columns] * twice_off_diagonal
    if supermatrix.dtype == density.dtype:
        return (supermatrix @ packed)[pair]

    def of_row(row: Float[Array, " npair"]) -> Float[Array, ""]:
        return row.astype(density.dtype) @ packed

    # A few rows at a time, which stay in the cache when their precision is raised.
    return jax.lax.map(of_row, supermatrix, batch_size=_rows_at_a_time(len(rows)))[pair]
