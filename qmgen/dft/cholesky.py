"""Pivoted incomplete Cholesky decomposition of the two-electron integrals.

As a matrix over orbital pairs, (ij|kl) is positive semi-definite and of a rank that grows with the
number of orbitals, not of pairs (Beebe and Linderberg, Int. J. Quantum Chem. 12, 683, 1977). The
decomposition stops once no diagonal of what is left exceeds a threshold, which then bounds the
error of every integral (Koch, Sánchez de Merás and Pedersen, J. Chem. Phys. 118, 9481, 2003).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from pyscf import gto

from qmgen.dft.basis import Basis
from qmgen.dft.cartesian import libcint_kind, mixes_kinds, pair_transformation
from qmgen.dft.factorised import stack_factors
from qmgen.dft.integrals import Integrals, Positions, environment, libcint_one_electron_integrals

# Largest error of an integral, Hartree. With 1e-8 total energies of eight molecules (STO-3G,
# 6-31G*, 6-311G*, def2-SVP, cc-pVTZ) are at most 1e-7 Ha off those with exact integrals; with 1e-7
# 1e-6 Ha, for a fifth fewer vectors.
CHOLESKY_THRESHOLD = 1e-8
# Pivots are taken together as long as they are not smaller than this share of the largest, as in
# Koch et al. 2003: fewer and larger matrix products for some more vectors.
_SPAN = 1e-3
# Most pivots that are taken together.
_BATCH = 128
# Vectors that room is made for at first, per orbital.
_VECTORS_PER_ORBITAL = 14

# Rows (ij| of the integral matrix for all |kl) of a number of shell pairs.
ShellPairRows = Callable[[int], Float[np.ndarray, "nrow npair"]]


def pivoted_cholesky(
    diagonal: Float[np.ndarray, " npair"],
    members: list[Int[np.ndarray, " _npair"]],
    rows: ShellPairRows,
    threshold: float,
) -> Float[np.ndarray, "nvector npair"]:
    """Vectors L of a positive semi-definite matrix V with |V - L^T L| below a threshold.

    In one pass over blocks of pivots. The two-step variant that finds the pivots first
    (Folkestad, Kjønstad and Koch, J. Chem. Phys. 150, 194112, 2019) is for vectors that do not fit
    into memory; here they do, and its second pass would do integrals and products once more.

    Parameters
    ----------
    diagonal
        Of V.
    members
        Orbital pairs of each shell pair.
    rows
        Gives the rows of V of a shell pair, in the order of its orbital pairs.
    threshold
        Largest diagonal of V - L^T L at the end.
    """
    D = diagonal.copy()
    order = np.concatenate(members)
    starts = np.cumsum([0, *map(len, members[:-1])])
    # Pairs are about half of the orbitals' square.
    L = np.empty((int(_VECTORS_PER_ORBITAL * (2 * len(D)) ** 0.5), len(D)))
    n = 0
    while (largest := D.max()) > threshold:
        smallest = max(_SPAN * largest, threshold)
        by_shell_pair = np.maximum.reduceat(D[order], starts)
        qualified: list[np.ndarray] = []
        V: list[np.ndarray] = []
        for s in np.argsort(-by_shell_pair).tolist():
            if by_shell_pair[s] <= smallest or sum(map(len, qualified)) >= _BATCH:
                break
            above = D[members[s]] > smallest
            qualified.append(members[s][above])
            V.append(rows(s)[above])
        q = np.concatenate(qualified)
        R = np.concatenate(V)
        R -= L[:n, q].T @ L[:n]
        pivots, lower = _dense_pivoted_cholesky(R[:, q], smallest)
        rank = len(pivots)
        if n + rank > len(L):
            L = np.concatenate([L, np.empty((max(rank, len(L) // 4), len(D)))])
        # From the right on the transpose, which is as BLAS wants it in memory.
        new = scipy.linalg.blas.dtrsm(1.0, lower, R[pivots].T, side=1, lower=1, trans_a=1).T
        L[n : n + rank] = new
        n += rank
        # What is left there, by the same rounding that the pivots were chosen with.
        D[q] = R[np.arange(len(q)), q]
        D -= np.einsum("pi,pi->i", new, new)
        # Zero but for rounding, which must not make them pivots again.
        D[q[pivots]] = 0.0
    return L[:n]


def _dense_pivoted_cholesky(
    matrix: Float[np.ndarray, "n n"], smallest: float
) -> tuple[Int[np.ndarray, " rank"], Float[np.ndarray, "rank rank"]]:
    """Pivots whose remaining diagonal exceeds a bound, and the triangle L of V = L L^T for them."""
    factor, pivots, rank, info = scipy.linalg.lapack.dpstrf(matrix, tol=smallest, lower=1)
    if info < 0:
        raise ValueError(f"argument {-info} of dpstrf is not valid")
    return pivots[:rank] - 1, np.tril(factor[:rank, :rank])


def cholesky_factors(
    basis: Basis,
    positions: Float[np.ndarray, "nat 3"],
    threshold: float = CHOLESKY_THRESHOLD,
    omega: float = 0.0,
) -> Float[np.ndarray, "naux npair"]:
    """Factors B of (ij|kl) = sum_P B[P, ij] B[P, kl] over the orbitals of one conformer.

    Integrals are computed a shell pair at a time, and only rows of shell pairs that have a pivot:
    about half of the distinct integrals.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of the conformer, Bohr.
    threshold
        Largest error of an integral over libcint's orbitals, Hartree.
    omega
        With ω > 0, 1 / Bohr, of the integrals of erf(ω r)/r instead of 1/r.

    Returns
    -------
    Packed over pairs i >= j, as in `qmgen.dft.factorised`.
    """
    atm, bas, kind = basis.libcint_atm, basis.libcint_bas, libcint_kind(basis)
    intor = f"int2e_{kind}"
    env = environment(basis, positions, omega)
    integrals = partial(
        gto.moleintor.getints4c,
        intor,
        atm,
        bas,
        env,
        ao_loc=(first := gto.moleintor.make_loc(bas, intor)),
        cintopt=gto.moleintor.make_cintopt(atm, bas, env, intor),
    )
    nbas = len(bas)
    shells = [(i, j) for i in range(nbas) for j in range(i + 1)]
    shell = np.repeat(np.arange(nbas), np.diff(first))
    row, column = np.tril_indices(int(first[-1]))
    shell_pair = shell[row] * (shell[row] + 1) // 2 + shell[column]
    order = np.argsort(shell_pair, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(shell_pair[order])) + 1)

    def within(s: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a shell pair's orbital pairs stand in its block of all products."""
        i, j = shells[s]
        return row[members[s]] - first[i], column[members[s]] - first[j]

    diagonal = np.empty(len(row))
    for s, (i, j) in enumerate(shells):
        block = integrals(shls_slice=(i, i + 1, j, j + 1) * 2)
        diagonal[members[s]] = np.einsum("ijij->ij", block)[within(s)]

    def rows(s: int) -> Float[np.ndarray, "nrow npair"]:
        i, j = shells[s]
        return integrals(shls_slice=(i, i + 1, j, j + 1, 0, nbas, 0, nbas), aosym="s2kl")[within(s)]

    B = pivoted_cholesky(diagonal, members, rows, threshold)
    return (pair_transformation(basis) @ B.T).T if mixes_kinds(basis) else B


def cholesky_integrals(basis: Basis, positions: Positions) -> Integrals:
    """All integrals of an SCF, the two-electron ones as Cholesky factors; an `IntegralEngine`.

    Parameters
    ----------
    basis
        Basis of the molecule.
    positions
        Of its conformers, Bohr. The dipole's origin is the coordinates' origin.
    """
    return replace(
        libcint_one_electron_integrals(basis, positions),
        factors=stack_factors([cholesky_factors(basis, conformer) for conformer in positions]),
    )
