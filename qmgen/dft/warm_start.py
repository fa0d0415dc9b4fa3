"""Orbitals to start the SCF from, carried over from conformers of the molecule that are solved.

In Löwdin's orthonormal basis, orbitals that touch an atom keep to it (Löwdin, J. Chem. Phys. 18,
365, 1950; of all orthonormal bases it is the nearest to the atomic orbitals), and a density there
hardly depends on distances. What is left is that an atom's orbitals point along the coordinates'
axes, and not along its bonds: they are turned as its surroundings have turned.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from qmgen.dft.basis import Basis
from qmgen.dft.conformer_labels import LINEAR_DEPENDENCE, RawLabels
from qmgen.dft.hermite import cartesian_powers
from qmgen.dft.orbitals import polynomial_coefficients

# How strongly an atom turns with the whole molecule instead of its own surroundings: decides only
# where the latter don't tell, as of atoms in a row.
_WITH_MOLECULE = 1e-3


class LowdinBasis(NamedTuple):
    """S^(1/2) and S^(-1/2) of conformers, in orbitals whose rotations are orthogonal matrices."""

    root: Float[np.ndarray, "nconf nao nao"]
    inverse_root: Float[np.ndarray, "nconf nao nao"]


class SolvedConformer(NamedTuple):
    """A conformer and its density, that of each spin if they differ, over Löwdin's basis.

    Per orbital, so that it is a projector.
    """

    positions: Float[np.ndarray, "nat 3"]
    closeness: Float[np.ndarray, "nat nat"]
    density: Float[np.ndarray, "nspin nao nao"]


def lowdin_basis(basis: Basis, overlap: Float[np.ndarray, "nconf nao nao"]) -> LowdinBasis:
    """Löwdin's basis of a molecule's conformers.

    It turns with the molecule only if rotations are orthogonal matrices, which they are among pure
    orbitals, and among Cartesian ones after scaling.
    """
    scale = _scale(basis)
    S = scale[:, None] * np.asarray(overlap) * scale
    # What is not finite stays so, and must not stop the other conformers.
    finite = np.isfinite(S).all(axis=(1, 2), keepdims=True)
    s, U = np.linalg.eigh(np.where(finite, S, np.eye(len(scale))))
    root = np.sqrt(np.where((s > 0) & finite[:, :, 0], s, np.nan))[:, None]
    Ut = U.swapaxes(1, 2)
    return LowdinBasis(((U * root) @ Ut) / scale, scale[:, None] * ((U / root) @ Ut))


def solved_conformers(
    lowdin: LowdinBasis, positions: Float[np.ndarray, "nconf nat 3"], labels: RawLabels
) -> list[SolvedConformer]:
    """Those of a batch that converged.

    Parameters
    ----------
    lowdin
        Of the batch, which may have more conformers at its end.
    positions
        Of the conformers.
    labels
        Theirs; orbitals are padded.
    """
    nao = lowdin.root.shape[1]
    density = 0.5 * np.asarray(labels.scf.density)[:, None, :nao, :nao]
    if labels.spin is not None:
        half = 0.5 * np.asarray(labels.spin.scf.spin_density)[:, None, :nao, :nao]
        density = np.concatenate([density + half, density - half], axis=1)
    converged = labels.scf.converged & (labels.smallest_overlap_eigenvalue > LINEAR_DEPENDENCE)
    return [
        SolvedConformer(positions[i], _closeness(positions[i]), root @ density[i] @ root.T)
        for i, root in enumerate(lowdin.root[: len(positions)])
        if converged[i] and np.isfinite(root).all() and np.isfinite(density[i]).all()
    ]


def carried_orbitals(
    basis: Basis,
    noccupied: tuple[int, int],
    solved: list[SolvedConformer],
    lowdin: LowdinBasis,
    positions: Float[np.ndarray, "nconf nat 3"],
    norb: int,
) -> tuple[Float[np.ndarray, "nconf *spins nao norb"], Float[np.ndarray, "nconf *spins norb"]]:
    """Orbitals C and occupations n of a density C diag(n) C^T for each conformer of a batch.

    Each is that of the solved conformer whose interatomic distances are nearest. The orbitals are
    orthonormal, so that the density is idempotent and has the right number of electrons.

    Parameters
    ----------
    basis, noccupied
        Of the molecule; number of occupied orbitals of each spin.
    solved
        At least one conformer.
    lowdin, positions
        Of the conformers that start.
    norb
        Number of orbitals with those that are padding; more if it is less than are occupied.
    """
    nspin = len(solved[0].density)
    norb = max(norb, noccupied[0])
    orbitals = np.zeros((len(positions), nspin, basis.nao, norb))
    occupation = np.zeros((len(positions), nspin, norb))
    for spin, nocc in enumerate(noccupied[:nspin]):
        occupation[:, spin, :nocc] = 2 / nspin
    closeness = np.stack([other.closeness for other in solved])
    for C, place, inverse_root in zip(orbitals, positions, lowdin.inverse_root, strict=True):
        if not (np.isfinite(place).all() and np.isfinite(inverse_root).all()):
            # The conformer ends as not converged, as with the other guess.
            C[:] = np.nan
            continue
        difference = np.sum((closeness - _closeness(place)) ** 2, axis=(1, 2))
        nearest = solved[int(np.argmin(difference))]
        rotations = atom_rotations(nearest.positions, place)
        for spin, nocc in enumerate(noccupied[:nspin]):
            # Rounding aside its eigenvalues are 1 and 0.
            _, U = np.linalg.eigh(nearest.density[spin])
            C[spin, :, :nocc] = inverse_root @ rotate(basis, rotations, U[:, basis.nao - nocc :])
    if nspin == 1:
        return orbitals[:, 0], occupation[:, 0]
    return orbitals, occupation


def atom_rotations(
    old: Float[np.ndarray, "nat 3"], new: Float[np.ndarray, "nat 3"]
) -> Float[np.ndarray, "nat 3 3"]:
    """How each atom's surroundings are turned from one conformer to another.

    The orthogonal matrices that bring the displacements to all other atoms nearest to the new
    ones, the closer the atoms the more (Kabsch, Acta Cryst. A 32, 922, 1976). Conformers are
    often near to each other's mirror images; then all of them reflect besides.

    Parameters
    ----------
    old, new
        Positions.
    """
    U, _, Vt = np.linalg.svd((new - new.mean(axis=0)).T @ (old - old.mean(axis=0)))
    whole = U @ Vt
    # From here on both are alike but for what happened to parts of the molecule.
    a = _displacements(old @ whole.T)
    b = _displacements(new)
    size = np.linalg.norm(a, axis=2) * np.linalg.norm(b, axis=2)
    weight = np.divide(1.0, size**2, out=np.zeros_like(size), where=size > 0)
    covariance = np.einsum("ijx,ij,ijy->ixy", b, weight, a)
    along = 1e-6 + _WITH_MOLECULE * np.einsum("ij,ij->i", weight, size)
    U, _, Vt = np.linalg.svd(covariance + along[:, None, None] * np.eye(3))
    # Parts of a molecule turn, but only all of it reflects.
    U[:, :, 2] *= np.linalg.det(U @ Vt)[:, None]
    return U @ Vt @ whole


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


def _scale(basis: Basis) -> Float[np.ndarray, " nao"]:
    scale = np.ones(basis.nao)
    angular = basis.shell_l[basis.orbital_shell]
    for degree in basis.cartesian:
        of_shell = _cartesian_scale(degree)
        which = np.flatnonzero(angular == degree)
        scale[which] = np.tile(of_shell, len(which) // len(of_shell))
    return scale


def _displacements(positions: Float[np.ndarray, "nat 3"]) -> Float[np.ndarray, "nat nat 3"]:
    return positions[None, :] - positions[:, None]


def _closeness(positions: Float[np.ndarray, "nat 3"]) -> Float[np.ndarray, "nat nat"]:
    """What tells conformers apart: the same if they are moved, turned or reflected."""
    return 1 / (1 + np.linalg.norm(_displacements(positions), axis=2))
