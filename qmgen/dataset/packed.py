"""Symmetric matrices as their lower triangle: half the numbers."""

from typing import TypeVar

import numpy as np
from jaxtyping import Float

_Count = TypeVar("_Count", int, np.ndarray)


def pair_count(nao: _Count) -> _Count:
    """Number of pairs i >= j of orbitals."""
    return nao * (nao + 1) // 2


def pack_symmetric(matrices: Float[np.ndarray, "*n nao nao"]) -> Float[np.ndarray, "*n npair"]:
    """Lower triangles of symmetric matrices, row by row: (i, j) is at i (i + 1) / 2 + j.

    The upper triangle is not looked at.
    """
    return matrices[(..., *np.tril_indices(matrices.shape[-1]))]


def unpack_symmetric(packed: Float[np.ndarray, "*n npair"]) -> Float[np.ndarray, "*n nao nao"]:
    """Symmetric matrices of their lower triangles, such as a row's ``fock_matrix``."""
    nao = (int(np.sqrt(8 * packed.shape[-1] + 1)) - 1) // 2
    matrices = np.zeros((*packed.shape[:-1], nao, nao), packed.dtype)
    i, j = np.tril_indices(nao)
    matrices[..., i, j] = packed
    matrices[..., j, i] = packed
    return matrices
