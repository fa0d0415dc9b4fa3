"""Orbitals to start the SCF from, predicted from conformers of the molecule that are solved.

Between Löwdin's orthonormal orbitals, which keep to their atoms (Löwdin, J. Chem. Phys. 18, 365,
1950; of all orthonormal bases it is the nearest to the atomic orbitals), Fock matrix elements
depend on the surroundings of the atoms alone. What is left is that an atom's orbitals point along
the coordinates' axes, and not along its bonds: matrices are taken into a frame of each atom that
turns with its surroundings. There those of a new conformer are a combination of solved ones, with
coefficients for each atom that make up its rows of the kinetic energy, which is known beforehand,
by the same combination. Extrapolations of density or Fock matrices in molecular dynamics have one
set of coefficients for all atoms (e.g. Polack, Mikhalev, Dusson, Stamm and Lipparini, Mol. Phys.
118, e1779834, 2020); surroundings of an atom recur before whole conformers do. Mirror images count
as conformers of their own.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from qmgen.dft.atom_frames import atom_rotations, in_frames, rotate, rotation_scale
from qmgen.dft.basis import Basis
from qmgen.dft.conformer_labels import LINEAR_DEPENDENCE, RawLabels

# Conformers that are carried. Of more, errors shrink too little for the time that they take.
_MOST_SOLVED = 32
# Share of the kinetic energy's elements between atoms that Fock matrix elements there follow;
# only the rest is combined. From 0.4 to 0.55 starts are as good.
_KINETIC_SHARE = 0.47
# Ridge of the fit, in variances of the kinetic energy's elements; from 1e-4 to 1e-2 starts are as
# good. The second is rounding, where an atom's surroundings are all alike.
_RIDGE = 1e-3
_ROUNDING = 1e-14


class SolvedConformers(NamedTuple):
    """What starts are predicted from: conformers and their mirror images.

    Matrices are over Löwdin's orbitals in the atoms' frames, those of the first conformer.

    Attributes
    ----------
    first
        Positions of the first conformer.
    kinetic
        Kinetic energy, by rows.
    remainder
        Fock matrices of each spin, less what they share with the kinetic energy, by rows.
    products
        Scalar products of each atom's rows of the kinetic energy.
    """

    first: Float[np.ndarray, "nat 3"]
    kinetic: Float[np.ndarray, "nao nsolved nao"]
    remainder: Float[np.ndarray, "nspin nao nsolved nao"]
    products: Float[np.ndarray, "nat nsolved nsolved"]


def lowdin_orbitals(
    basis: Basis, overlap: Float[Array | np.ndarray, "nconf nao nao"]
) -> Float[np.ndarray, "nconf nao nao"]:
    """Coefficients S^(-1/2) of Löwdin's orbitals of a molecule's conformers.

    They turn with the molecule only if rotations are orthogonal matrices, which they are among
    pure orbitals, and among Cartesian ones after scaling. NaN where there are none.
    """
    scale = rotation_scale(basis)
    S = scale[:, None] * np.asarray(overlap) * scale
    # What is not finite stays so, and must not stop the other conformers.
    finite = np.isfinite(S).all(axis=(1, 2), keepdims=True)
    s, U = np.linalg.eigh(np.where(finite, S, np.eye(len(scale))))
    root = np.sqrt(np.where((s > 0) & finite[:, :, 0], s, np.nan))[:, None]
    return scale[:, None] * ((U / root) @ U.swapaxes(1, 2))


def with_solved(
    solved: SolvedConformers | None,
    basis: Basis,
    lowdin: Float[np.ndarray, "nconf nao nao"],
    kinetic: Float[Array | np.ndarray, "nconf nao nao"],
    positions: Float[np.ndarray, "nlabel nat 3"],
    labels: RawLabels,
) -> SolvedConformers | None:
    """The same with those of a batch that converged, as long as there is room.

    Parameters
    ----------
    solved
        None if there are none yet.
    basis
        Of the molecule.
    lowdin, kinetic
        Of the batch, which may have more conformers at its end.
    positions
        Of the conformers.
    labels
        Theirs; orbitals are padded.
    """
    nao = basis.nao
    fock = np.asarray(labels.scf.fock)[:, None, :nao, :nao]
    if labels.spin is not None:
        beta = np.asarray(labels.spin.scf.fock_beta)[:, None, :nao, :nao]
        fock = np.concatenate([fock, beta], axis=1)
    converged = labels.scf.converged & (labels.smallest_overlap_eigenvalue > LINEAR_DEPENDENCE)
    parity = (-1.0) ** basis.shell_l[basis.orbital_shell]
    for i, place in enumerate(positions):
        if solved is not None and solved.kinetic.shape[1] >= 2 * _MOST_SOLVED:
            break
        X = lowdin[i]
        if not (converged[i] and np.isfinite(X).all() and np.isfinite(fock[i]).all()):
            continue
        T, F = X.T @ np.asarray(kinetic[i]) @ X, X.T @ fock[i] @ X
        first = place if solved is None else solved.first
        images = [
            in_frames(basis, atom_rotations(first, sign * place), reflect[:, None] * M * reflect)
            for sign, reflect in ((1, np.ones(nao)), (-1, parity))
            for M in (T, *F)
        ]
        both = np.stack(images).reshape(2, len(images) // 2, nao, nao)
        # By rows: (matrix, row, image, column).
        both = both.transpose(1, 2, 0, 3)
        solved = _appended(basis, first, solved, both[0], both[1:])
    return solved


def _appended(
    basis: Basis,
    first: Float[np.ndarray, "nat 3"],
    solved: SolvedConformers | None,
    kinetic: Float[np.ndarray, "nao nnew nao"],
    fock: Float[np.ndarray, "nspin nao nnew nao"],
) -> SolvedConformers:
    remainder = fock - (_KINETIC_SHARE * _between_atoms(basis))[:, None] * kinetic
    if solved is None:
        products = _products(basis, kinetic, kinetic)
        return SolvedConformers(first, kinetic, remainder, products)
    cross = _products(basis, solved.kinetic, kinetic)
    own = _products(basis, kinetic, kinetic)
    return SolvedConformers(
        first,
        np.concatenate([solved.kinetic, kinetic], axis=1),
        np.concatenate([solved.remainder, remainder], axis=2),
        np.block([[solved.products, cross], [cross.swapaxes(1, 2), own]]),
    )


def predicted_orbitals(
    basis: Basis,
    noccupied: tuple[int, int],
    solved: SolvedConformers,
    lowdin: Float[np.ndarray, "nconf nao nao"],
    kinetic: Float[Array | np.ndarray, "nconf nao nao"],
    positions: Float[np.ndarray, "nconf nat 3"],
    norb: int,
) -> tuple[Float[np.ndarray, "nconf *spins nao norb"], Float[np.ndarray, "nconf *spins norb"]]:
    """Orbitals C and occupations n of a density C diag(n) C^T for each conformer of a batch.

    Those of the predicted Fock matrices. They are orthonormal, so that the density is idempotent
    and has the right number of electrons.

    Parameters
    ----------
    basis, noccupied
        Of the molecule; number of occupied orbitals of each spin.
    solved
        Conformers to predict from.
    lowdin, kinetic, positions
        Of the conformers that start.
    norb
        Number of orbitals with those that are padding; more if it is less than are occupied.
    """
    nspin = len(solved.remainder)
    norb = max(norb, noccupied[0])
    orbitals = np.zeros((len(positions), nspin, basis.nao, norb))
    occupation = np.zeros((len(positions), nspin, norb))
    for spin, nocc in enumerate(noccupied[:nspin]):
        occupation[:, spin, :nocc] = 2 / nspin
    atom = basis.shell_atom[basis.orbital_shell]
    share = _KINETIC_SHARE * _between_atoms(basis)
    for C, X, kinetic_energy, place in zip(orbitals, lowdin, kinetic, positions, strict=True):
        if not (np.isfinite(place).all() and np.isfinite(X).all()):
            # The conformer ends as not converged, as with the other guess.
            C[:] = np.nan
            continue
        rotations = atom_rotations(solved.first, place)
        T = in_frames(basis, rotations, X.T @ np.asarray(kinetic_energy) @ X)
        weights = _weights(solved.products, _products(basis, solved.kinetic, T[:, None])[:, :, 0])
        rows = (weights[atom][:, None] @ solved.remainder)[:, :, 0]
        F = 0.5 * (rows + rows.swapaxes(1, 2)) + share * T
        _, U = np.linalg.eigh(F)
        for spin, nocc in enumerate(noccupied[:nspin]):
            C[spin, :, :nocc] = X @ rotate(basis, rotations, U[spin, :, :nocc])
    if nspin == 1:
        return orbitals[:, 0], occupation[:, 0]
    return orbitals, occupation


def _weights(
    products: Float[np.ndarray, "nat nsolved nsolved"], new: Float[np.ndarray, "nat nsolved"]
) -> Float[np.ndarray, "nat nsolved"]:
    """Coefficients of each atom by ridge regression about the mean; their sum is one.

    Parameters
    ----------
    products
        Scalar products among solved conformers.
    new
        Of those with the new one.
    """
    n = new.shape[1]
    with_mean = products.mean(axis=2)
    of_mean = with_mean.mean(axis=1)[:, None]
    G = products - with_mean[:, :, None] - with_mean[:, None] + of_mean[:, None]
    g = new - with_mean - new.mean(axis=1)[:, None] + of_mean
    size = np.trace(products, axis1=1, axis2=2)
    ridge = (_RIDGE * np.trace(G, axis1=1, axis2=2) + _ROUNDING * size) / n
    right = np.stack([g, np.ones_like(g)], axis=2)
    solution = np.linalg.solve(G + ridge[:, None, None] * np.eye(n), right)
    fit, constant = solution[:, :, 0], solution[:, :, 1]
    missing = 1 - fit.sum(axis=1)
    return fit + constant * (missing / constant.sum(axis=1))[:, None]


def _products(
    basis: Basis,
    left: Float[np.ndarray, "nao nleft nao"],
    right: Float[np.ndarray, "nao nright nao"],
) -> Float[np.ndarray, "nat nleft nright"]:
    """Scalar products of each atom's rows of matrices."""
    of_atom = np.arange(len(basis.atomic_numbers))[:, None] == basis.shell_atom[basis.orbital_shell]
    by_row = left @ right.swapaxes(1, 2)
    return np.tensordot(of_atom.astype(np.float64), by_row, 1)


def _between_atoms(basis: Basis) -> Float[np.ndarray, "nao nao"]:
    atom = basis.shell_atom[basis.orbital_shell]
    return (atom[:, None] != atom).astype(np.float64)
