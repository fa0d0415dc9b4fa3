"""Cartesian shells beside pure ones: sizes, order, and what takes one to the other.

A shell of degree l has 2 l + 1 pure (spherical) orbitals or (l + 1)(l + 2) / 2 Cartesian ones,
which are the same for s and p. libcint gives integrals over shells of one kind only; for a basis
that has both, integrals over Cartesian orbitals are transformed where a shell is pure.
"""

import numpy as np
import scipy.sparse
from jaxtyping import Float
from pyscf import ao2mo, gto

from qmgen.dft.basis import Basis, shell_size

# Rows of the packed two-electron integrals that are transformed at a time.
_ROWS_AT_A_TIME = 256


def libcint_kind(basis: Basis) -> str:
    """Ending of libcint's names: ``sph`` if every shell is pure, else ``cart``."""
    return "cart" if set(basis.cartesian) & set(basis.shell_l.tolist()) else "sph"


def mixes_kinds(basis: Basis) -> bool:
    """Whether there are both Cartesian and pure shells beyond p."""
    return len({degree in basis.cartesian for degree in basis.shell_l.tolist() if degree > 1}) > 1


def cartesian_to_orbitals(basis: Basis) -> scipy.sparse.csr_array:
    """Coefficients of the basis' orbitals over Cartesian orbitals of all its shells.

    Returns
    -------
    (ncart, nao) sparse; Cartesian orbitals in the order and norm of libcint's ``cart`` functions.
    """
    blocks = [
        np.eye(shell_size(degree, basis.cartesian))
        if degree in basis.cartesian
        else gto.mole.cart2sph(degree, normalized="sp")
        for degree in basis.shell_l.tolist()
    ]
    # Of dense blocks, scipy would keep the zeros, too.
    return scipy.sparse.csr_array(
        scipy.sparse.block_diag([scipy.sparse.csr_array(block) for block in blocks])
    )


def to_orbitals(
    basis: Basis, matrices: Float[np.ndarray, "*n ncart ncart"]
) -> Float[np.ndarray, "*n nao nao"]:
    """One-electron matrices over Cartesian orbitals, brought to the basis' orbitals."""
    T = cartesian_to_orbitals(basis).toarray()
    return T.T @ matrices @ T


def pair_transformation(basis: Basis) -> scipy.sparse.csr_array:
    """Coefficients of pairs of the basis' orbitals over pairs of Cartesian orbitals.

    Returns
    -------
    (npair, npair_cart) sparse, pairs i >= j packed as i (i + 1) / 2 + j. It takes anything that is
    symmetric in a pair, such as (ab|P), to the basis' orbitals.
    """
    T = cartesian_to_orbitals(basis).tocoo()
    a, i, t = T.row.astype(np.int64), T.col.astype(np.int64), T.data
    first, second = np.nonzero(i[:, None] >= i[None, :])
    ncart, nao = T.shape
    return scipy.sparse.csr_array(
        (t[first] * t[second], (_pair(i[first], i[second]), _pair(a[first], a[second]))),
        shape=(nao * (nao + 1) // 2, ncart * (ncart + 1) // 2),
    )


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    high, low = np.maximum(a, b), np.minimum(a, b)
    return high * (high + 1) // 2 + low


def eri_to_orbitals(
    basis: Basis, eri: Float[np.ndarray, " neri_cart"]
) -> Float[np.ndarray, " neri"]:
    """Distinct (ab|cd) over Cartesian orbitals, brought to the basis' orbitals.

    Both are packed as in `qmgen.dft.integrals.Integrals`. Takes memory for about 2.5 times the
    square of the number of Cartesian pairs.
    """
    P = pair_transformation(basis)
    npair, npair_cart = P.shape
    ncart = (int(np.sqrt(8 * npair_cart + 1)) - 1) // 2
    half = P @ ao2mo.restore(4, eri, ncart)
    result = np.empty(npair * (npair + 1) // 2)
    for start in range(0, npair, _ROWS_AT_A_TIME):
        stop = min(start + _ROWS_AT_A_TIME, npair)
        # Of each row p only what has q <= p is kept.
        rows = np.ascontiguousarray((P[:stop] @ np.ascontiguousarray(half[start:stop].T)).T)
        for p, row in enumerate(rows, start=start):
            result[p * (p + 1) // 2 :][: p + 1] = row[: p + 1]
    return result
