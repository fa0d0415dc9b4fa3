"""Rotations of atoms' surroundings between conformers, and of the orbitals on them."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from qmgen.dft.basis import Basis
from qmgen.dft.hermite import cartesian_powers
from qmgen.dft.orbitals import polynomial_coefficients

# How strongly an atom turns with the whole molecule instead of its own surroundings: decides only
# where the latter don't tell, as of atoms in a row.
_WITH_MOLECULE = 1e-3


def atom_rotations(
    old: Float[np.ndarray, "nat 3"], new: Float[np.ndarray, "nat 3"]
) -> Float[np.ndarray, "nat 3 3"]:
    """How each atom's surroundings are turned from one conformer to another.

    The rotations that bring the displacements to all other atoms nearest to the new ones, the
    closer the atoms the more (Kabsch, Acta Cryst. A 32, 922, 1976).

    Parameters
    ----------
    old, new
        Positions.
    """
    (whole,) = _nearest_rotations(((new - new.mean(axis=0)).T @ (old - old.mean(axis=0)))[None])
    # From here on both are alike but for what happened to parts of the molecule.
    a = _displacements(old @ whole.T)
    b = _displacements(new)
    size = np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
    weight = np.divide(1.0, size**3, out=np.zeros_like(size), where=size > 0)
    covariance = np.einsum("ijx,ij,ijy->ixy", b, weight, a)
    along = 1e-6 + _WITH_MOLECULE * np.einsum("ij,ij->i", weight, size)
    return _nearest_rotations(covariance + along[:, None, None] * np.eye(3)) @ whole


def _nearest_rotations(covariance: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3 3"]:
    U, _, Vt = np.linalg.svd(covariance)
    U[:, :, 2] *= np.linalg.det(U @ Vt)[:, None]
    return U @ Vt


def rotate(
    basis: Basis,
    rotations: Float[np.ndarray, "nat 3 3"],
    orbitals: Float[np.ndarray, "nao norb"],
) -> Float[np.ndarray, "nao norb"]:
    """Coefficients of orbitals whose part on each atom is turned, over scaled basis functions."""
    result = orbitals.copy()
    first = np.searchsorted(basis.orbital_shell, np.arange(len(basis.shell_l)))
    for angular in np.unique(basis.shell_l[basis.shell_l > 0]):
        shells = np.flatnonzero(basis.shell_l == angular)
        R = shell_rotations(rotations, int(angular), int(angular) in basis.cartesian)
        rows = first[shells][:, None] + np.arange(R.shape[1])
        result[rows] = R[basis.shell_atom[shells]] @ orbitals[rows]
    return result


def in_frames(
    basis: Basis,
    rotations: Float[np.ndarray, "nat 3 3"],
    matrix: Float[np.ndarray, "nao nao"],
) -> Float[np.ndarray, "nao nao"]:
    """A symmetric matrix between orbitals that are turned with their atoms, from those that aren't.

    ``rotations`` are those of the atoms from the frames to the conformer.
    """
    back = rotations.swapaxes(1, 2)
    return rotate(basis, back, rotate(basis, back, matrix).T)


def shell_rotations(
    rotations: Float[np.ndarray, "nat 3 3"], angular: int, cartesian: bool
) -> Float[np.ndarray, "nat norbital norbital"]:
    """Matrices that turn a shell's orbitals: f(R^T r) = sum_k f_k(r) D_k, exactly."""
    values, inverse, points = _shell_values(angular, cartesian)
    if values.shape[1] == 1:
        return np.ones((len(rotations), 1, 1))
    return inverse @ _polynomials(points @ rotations, angular, cartesian)


@lru_cache(maxsize=16)
def _shell_values(
    angular: int, cartesian: bool
) -> tuple[
    Float[np.ndarray, "npoint norbital"],
    Float[np.ndarray, "norbital npoint"],
    Float[np.ndarray, "npoint 3"],
]:
    """Orbitals at points that tell them apart, the inverse of that matrix, and the points."""
    npoint = 2 * (angular + 1) * (angular + 2)
    points = np.random.default_rng(0).normal(size=(npoint, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    values = _polynomials(points, angular, cartesian)
    return values, np.linalg.pinv(values), points


def _polynomials(
    points: Float[np.ndarray, "*nat npoint 3"], angular: int, cartesian: bool
) -> Float[np.ndarray, "*nat npoint norbital"]:
    powers = np.array(cartesian_powers(angular))
    monomials = np.prod(points[..., None, :] ** powers, axis=-1)
    values = monomials @ polynomial_coefficients(angular, cartesian)
    return values * _cartesian_scale(angular) if cartesian else values


def _cartesian_scale(angular: int) -> Float[np.ndarray, " ncart"]:
    """Scale that makes rotations of monomials orthogonal.

    The root of how often each stands in (x + y + z)^l: scaled so, the sum of their squares is
    r^(2 l).
    """
    factorial = math.factorial
    return np.sqrt(
        [
            factorial(angular) / (factorial(i) * factorial(j) * factorial(k))
            for i, j, k in cartesian_powers(angular)
        ]
    )


def rotation_scale(basis: Basis) -> Float[np.ndarray, " nao"]:
    """Factors of orbitals whose rotations are orthogonal matrices: 1 but for Cartesian shells."""
    scale = np.ones(basis.nao)
    angular = basis.shell_l[basis.orbital_shell]
    for degree in basis.cartesian:
        of_shell = _cartesian_scale(degree)
        which = np.flatnonzero(angular == degree)
        scale[which] = np.tile(of_shell, len(which) // len(of_shell))
    return scale


def _displacements(positions: Float[np.ndarray, "nat 3"]) -> Float[np.ndarray, "nat nat 3"]:
    return positions[None, :] - positions[:, None]
