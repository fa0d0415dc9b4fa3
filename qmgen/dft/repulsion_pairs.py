"""Pairs of shells of one molecule, grouped into classes that one repulsion program serves.

Shells of an atom that share their exponents (the 2s and 2p of STO-3G, say) count as one shell
here. A class holds the pairs of two kinds of shells; its arrays are padded, so that the program
that works on them depends on the kinds and on a few sizes, not on the molecule.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from qmgen.dft.basis import Basis, shell_size
from qmgen.dft.pair_form import PairKind, ShellKind

# Primitive pairs that contribute less than this to any integral are left out, Hartree^(1/2).
_NEGLIGIBLE_PRIMITIVE = 1e-12
# Primitive pairs are worked on in groups of this many.
PRIMITIVE_GROUP = 3


@dataclass(frozen=True, eq=False)
class SharedShell:
    """Shells of one atom with the same exponents.

    Attributes
    ----------
    kind, atom
        What and where it is.
    exponents, coefficients
        Of the primitives, 1 / Bohr^2; one row of coefficients for each angular momentum.
    orbitals
        The orbitals of the basis that belong to it, in the order of ``kind.angular``.
    """

    kind: ShellKind
    atom: int
    exponents: Float[np.ndarray, " nprim"]
    coefficients: Float[np.ndarray, "nl nprim"]
    orbitals: Int[np.ndarray, " norbital"]


@dataclass(frozen=True, eq=False)
class PairClass:
    """All pairs of one kind that matter, padded with empty ones.

    Pairs come in groups of falling number of primitive pairs (in steps of `PRIMITIVE_GROUP`); in
    each group the largest come first.

    Attributes
    ----------
    kind
        Of the pairs.
    atoms
        Of the two shells.
    exponents, coefficients
        Of each primitive pair, 1 / Bohr^2; coefficients by the angular momenta of both shells,
        zero for padding and for what is negligible.
    orbitals
        The two orbitals of each product; -1 for padding.
    nprim
        Primitive pairs of each pair that matter; they come first.
    bound
        Estimate of (ab|ab)^(1/2), which bounds an integral by Schwarz' inequality, Hartree^(1/2);
        the largest of the conformers and products.
    """

    kind: PairKind
    atoms: Int[np.ndarray, "npair 2"]
    exponents: Float[np.ndarray, "npair nprim 2"]
    coefficients: Float[np.ndarray, "npair nla nlb nprim"]
    orbitals: Int[np.ndarray, "npair ncomponent 2"]
    nprim: Int[np.ndarray, " npair"]
    bound: Float[np.ndarray, " npair"]


def shared_shells(basis: Basis) -> list[SharedShell]:
    """Shells of a basis, those that share atom and exponents joined."""
    start = np.searchsorted(basis.orbital_shell, np.arange(len(basis.shell_l)))
    # General contractions repeat an angular momentum; each repeat stands in a group of its own.
    groups: dict[tuple[int, tuple[float, ...], int], list[int]] = {}
    for shell, (atom, degree) in enumerate(zip(basis.shell_atom, basis.shell_l, strict=True)):
        used = basis.coefficients[shell] != 0
        exponents = tuple(basis.exponents[shell][used])
        repeat = 0
        while degree in (basis.shell_l[s] for s in groups.get((int(atom), exponents, repeat), ())):
            repeat += 1
        groups.setdefault((int(atom), exponents, repeat), []).append(shell)
    result = []
    for (atom, exponents, _), members in groups.items():
        angular = tuple(int(basis.shell_l[s]) for s in members)
        result.append(
            SharedShell(
                kind=ShellKind(angular, tuple(x for x in basis.cartesian if x in angular)),
                atom=atom,
                exponents=np.array(exponents),
                coefficients=np.stack(
                    [basis.coefficients[s][basis.coefficients[s] != 0] for s in members]
                ),
                orbitals=np.concatenate(
                    [
                        start[s] + np.arange(shell_size(x, basis.cartesian))
                        for s, x in zip(members, angular, strict=True)
                    ]
                ),
            )
        )
    return result


def pair_classes(
    shells: list[SharedShell], positions: Float[np.ndarray, "nconf nat 3"], negligible: float
) -> list[PairClass]:
    """Pairs of shells by kind, for all conformers of a molecule at once.

    Parameters
    ----------
    shells
        Of the molecule.
    positions
        Of its conformers, Bohr.
    negligible
        Pairs are left out whose integrals are all below this, Hartree.
    """
    kinds = sorted({s.kind for s in shells}, key=lambda k: (max(k.angular), k.angular))
    distance = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    classes = []
    for i, kind_a in enumerate(kinds):
        for kind_b in kinds[: i + 1]:
            of_a = [s for s in shells if s.kind == kind_a]
            of_b = [s for s in shells if s.kind == kind_b]
            pairs = (
                [(a, b) for n, a in enumerate(of_a) for b in of_a[: n + 1]]
                if kind_a == kind_b
                else [(a, b) for a in of_a for b in of_b]
            )
            classes.append(_pair_class(PairKind(kind_a, kind_b), pairs, distance))
    largest = max(float(c.bound.max()) for c in classes)
    kept = (_sorted_pairs(c, c.bound * largest > negligible) for c in classes)
    return [c for c in kept if len(c.bound)]


def _pair_class(
    kind: PairKind,
    pairs: list[tuple[SharedShell, SharedShell]],
    distance: Float[np.ndarray, "nconf nat nat"],
) -> PairClass:
    atoms = np.array([(a.atom, b.atom) for a, b in pairs], np.int32)
    nprim = max(len(a.exponents) * len(b.exponents) for a, b in pairs)
    nprim = PRIMITIVE_GROUP * -(-nprim // PRIMITIVE_GROUP)
    alpha, beta = np.ones((2, len(pairs), nprim))
    coefficients = np.zeros((len(pairs), len(kind.a.angular), len(kind.b.angular), nprim))
    for row, (a, b) in enumerate(pairs):
        n = len(a.exponents) * len(b.exponents)
        alpha[row, :n] = np.repeat(a.exponents, len(b.exponents))
        beta[row, :n] = np.tile(b.exponents, len(a.exponents))
        products = np.einsum("ip,jq->ijpq", a.coefficients, b.coefficients)
        coefficients[row, :, :, :n] = products.reshape(*products.shape[:2], n)

    p = alpha + beta
    R = distance[:, atoms[:, 0], atoms[:, 1], None]
    # (ab|ab)^(1/2) of the s functions, times what the polynomials are where the product is large.
    s_part = np.exp(-alpha * beta / p * R**2) * np.sqrt(2 * np.pi**2.5 / (p**2 * np.sqrt(2 * p)))
    width = 1 / np.sqrt(p)
    of_primitive = np.zeros(p.shape)
    for i, la in enumerate(kind.a.angular):
        for j, lb in enumerate(kind.b.angular):
            polynomial = (beta / p * R + width) ** la * (alpha / p * R + width) ** lb
            value = np.abs(coefficients[:, i, j]) * np.max(s_part * polynomial, axis=0)
            of_primitive = np.maximum(of_primitive, value)

    largest_first = np.argsort(-of_primitive, axis=1, kind="stable")
    of_primitive = np.take_along_axis(of_primitive, largest_first, 1)
    matters = of_primitive > _NEGLIGIBLE_PRIMITIVE
    exponents = np.stack([alpha, beta], -1)
    orbitals = np.stack(
        [np.stack(np.meshgrid(a.orbitals, b.orbitals, indexing="ij"), -1) for a, b in pairs]
    ).reshape(len(pairs), kind.ncomponent, 2)
    return PairClass(
        kind=kind,
        atoms=atoms,
        exponents=np.take_along_axis(exponents, largest_first[..., None], 1),
        coefficients=np.take_along_axis(coefficients, largest_first[:, None, None, :], 3)
        * matters[:, None, None, :],
        orbitals=orbitals.astype(np.int32),
        nprim=np.sum(matters, axis=1),
        bound=np.sum(of_primitive, axis=1),
    )


def _sorted_pairs(pairs: PairClass, which: np.ndarray) -> PairClass:
    """The chosen pairs, sorted."""
    rows = np.flatnonzero(which & (pairs.nprim > 0))
    group = -(-pairs.nprim[rows] // PRIMITIVE_GROUP)
    return _some_pairs(pairs, rows[np.lexsort((-pairs.bound[rows], -group))])


def _some_pairs(pairs: PairClass, rows: np.ndarray | slice) -> PairClass:
    return PairClass(
        pairs.kind,
        pairs.atoms[rows],
        pairs.exponents[rows],
        pairs.coefficients[rows],
        pairs.orbitals[rows],
        pairs.nprim[rows],
        pairs.bound[rows],
    )


def split_pairs(pairs: PairClass, npair: int) -> list[PairClass]:
    """Classes of at most a number of pairs each, which together have those of one, in order."""
    starts = range(0, len(pairs.bound), npair)
    return [_some_pairs(pairs, slice(start, start + npair)) for start in starts]


def pad_pairs(pairs: PairClass, npair: int) -> PairClass:
    """The same with empty pairs appended, up to a number of them."""

    def pad(array: np.ndarray, value: int) -> np.ndarray:
        widths = [(0, npair - len(pairs.bound))] + [(0, 0)] * (array.ndim - 1)
        return np.pad(array, widths, constant_values=value)

    return PairClass(
        pairs.kind,
        pad(pairs.atoms, 0),
        pad(pairs.exponents, 1),
        pad(pairs.coefficients, 0),
        pad(pairs.orbitals, -1),
        pad(pairs.nprim, 0),
        pad(pairs.bound, 0),
    )
