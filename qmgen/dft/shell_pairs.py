"""Pairs of shells of a molecule, sorted for integrals over Gaussians.

Integrals over all shell pairs of the same two angular momenta are computed at once, primitive by
primitive. Lists of pairs are arguments of a program and padded, so that molecules share programs.
"""

import math
from collections.abc import Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pyscf import gto

from qmgen.dft.basis import Basis
from qmgen.dft.hermite import Expansion, cartesian_powers, expansion_coefficients, powers_up_to


class PairClass(eqx.Module):
    """Primitive pairs of all pairs of shells that have two given angular momenta.

    The shell pairs come in groups of equal contraction; a group of n pairs with K primitive pairs
    each takes K n places, those of the first primitive pair of every shell pair first.

    Attributes
    ----------
    exponent_a, exponent_b
        1 / Bohr^2.
    coefficient
        Product of both contraction coefficients; zero if padded.
    atom_a, atom_b
        Centres.
    groups
        (K, n) of each group.
    degrees
        Angular momenta.
    kinds
        Whether either shell is Cartesian.
    """

    exponent_a: Float[Array, " nprim"]
    exponent_b: Float[Array, " nprim"]
    coefficient: Float[Array, " nprim"]
    atom_a: Int[Array, " nprim"]
    atom_b: Int[Array, " nprim"]
    groups: tuple[tuple[int, int], ...] = eqx.field(static=True)
    degrees: tuple[int, int] = eqx.field(static=True)
    kinds: tuple[bool, bool] = eqx.field(static=True)


class PairTable(eqx.Module):
    """All shell pairs of a molecule, and where orbital pairs stand among their integrals.

    ``source`` is the place of each pair of orbitals in the integrals of all classes, each class
    flattened from (function of a, function of b, pair), one after the other. It points behind the
    last one for padded orbitals.
    """

    classes: tuple[PairClass, ...]
    source: Int[Array, "nao nao"]


class PrimitivePairs(eqx.Module):
    """Products of two primitives each at given positions of the atoms.

    ``exponent`` is p = a + b, ``centre`` is P, ``to_a`` and ``to_b`` are P - A and P - B,
    ``prefactor`` is c_a c_b exp(-a b (A - B)^2 / p).
    """

    exponent: Float[Array, " nprim"]
    centre: Float[Array, "3 nprim"]
    to_a: Float[Array, "3 nprim"]
    to_b: Float[Array, "3 nprim"]
    prefactor: Float[Array, " nprim"]


def shell_transform(degree: int, cartesian: bool) -> Float[np.ndarray, "ncart nfunction"]:
    """Monomials of a degree to a shell's functions, in PySCF's order and norm.

    s and p shells are the same in both kinds.
    """
    if degree < 2:
        # libcint applies the norm of these harmonics on its own, so PySCF leaves it out.
        return np.eye(2 * degree + 1) * math.sqrt((2 * degree + 1) / (4 * math.pi))
    return np.eye(len(cartesian_powers(degree))) if cartesian else gto.mole.cart2sph(degree)


def bucket(n: int) -> int:
    """Length that a list of ``n`` is padded to: 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""
    size = 1
    while size < n:
        size *= 2
    return size * 3 // 4 if size >= 4 and size * 3 // 4 >= n else size


def shells_by_contraction(basis: Basis) -> dict[tuple[int, int], list[int]]:
    """Shells of each angular momentum and number of primitives."""
    groups: dict[tuple[int, int], list[int]] = {}
    for shell, (degree, c) in enumerate(
        zip(basis.shell_l.tolist(), basis.coefficients, strict=True)
    ):
        # Primitives of a padded shell have no coefficient; the last one that has closes it.
        groups.setdefault((degree, int(np.flatnonzero(c)[-1]) + 1), []).append(shell)
    return dict(sorted(groups.items()))


def pair_table(basis: Basis, nao: int) -> PairTable:
    """Table of a basis' shell pairs, its orbitals padded to ``nao``."""
    groups = shells_by_contraction(basis)
    by_degrees: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = {}
    names = list(groups)
    for index, one in enumerate(names):
        for other in names[: index + 1]:
            pairs = by_degrees.setdefault((one[0], other[0]), {}).setdefault(one[1] * other[1], [])
            pairs += [(i, j) for i in groups[one] for j in groups[other] if one != other or i >= j]
    first_orbital = np.searchsorted(basis.orbital_shell, np.arange(len(basis.shell_l)))
    classes = []
    source = np.full((nao, nao), -1, np.int32)
    offset = 0
    for degrees, by_size in sorted(by_degrees.items()):
        pair_class = _pair_class(basis, degrees, dict(sorted(by_size.items())))
        classes.append(pair_class)
        npair = sum(n for _, n in pair_class.groups)
        nfa, nfb = (
            shell_transform(d, kind).shape[1]
            for d, kind in zip(degrees, pair_class.kinds, strict=True)
        )
        block = np.arange(nfa * nfb, dtype=np.int32).reshape(nfa, nfb) * npair + offset
        first = np.cumsum([0, *(n for _, n in pair_class.groups)])
        for start, (_, members) in zip(first[:-1], sorted(by_size.items()), strict=True):
            for place, (i, j) in enumerate(members, start=start):
                mu, nu = first_orbital[i], first_orbital[j]
                source[mu : mu + nfa, nu : nu + nfb] = block + place
                source[nu : nu + nfb, mu : mu + nfa] = (block + place).T
        offset += nfa * nfb * npair
    source[source < 0] = offset
    return PairTable(tuple(classes), jnp.asarray(source))


def _pair_class(
    basis: Basis, degrees: tuple[int, int], by_size: dict[int, list[tuple[int, int]]]
) -> PairClass:
    """Arrays of the given shell pairs, which are listed by their number of primitive pairs."""
    groups = tuple((K, bucket(len(pairs))) for K, pairs in by_size.items())
    exponents, coefficients, atoms = [], [], []
    for (K, n), pairs in zip(groups, by_size.values(), strict=True):
        a, c, atom = np.ones((2, K, n)), np.zeros((K, n)), np.zeros((2, K, n), np.int32)
        for place, shells in enumerate(pairs):
            sizes = [np.flatnonzero(basis.coefficients[shell])[-1] + 1 for shell in shells]
            i, j = (basis.exponents[s, :size] for s, size in zip(shells, sizes, strict=True))
            ci, cj = (basis.coefficients[s, :size] for s, size in zip(shells, sizes, strict=True))
            a[0, :, place] = np.repeat(i, sizes[1])
            a[1, :, place] = np.tile(j, sizes[0])
            c[:, place] = np.outer(ci, cj).ravel()
            atom[:, :, place] = basis.shell_atom[list(shells), None]
        exponents.append(a.reshape(2, -1))
        coefficients.append(c.ravel())
        atoms.append(atom.reshape(2, -1))
    exponent_a, exponent_b = np.concatenate(exponents, axis=1)
    atom_a, atom_b = np.concatenate(atoms, axis=1)
    return PairClass(
        exponent_a=jnp.asarray(exponent_a),
        exponent_b=jnp.asarray(exponent_b),
        coefficient=jnp.asarray(np.concatenate(coefficients)),
        atom_a=jnp.asarray(atom_a),
        atom_b=jnp.asarray(atom_b),
        groups=groups,
        degrees=degrees,
        kinds=(degrees[0] in basis.cartesian, degrees[1] in basis.cartesian),
    )


def primitive_pairs(pairs: PairClass, positions: Float[Array, "nat 3"]) -> PrimitivePairs:
    """Products of primitives (Gaussian product theorem) at positions in Bohr."""
    A, B = positions.T[:, pairs.atom_a], positions.T[:, pairs.atom_b]
    a, b = pairs.exponent_a, pairs.exponent_b
    p = a + b
    AB = A - B
    return PrimitivePairs(
        exponent=p,
        centre=(a * A + b * B) / p,
        to_a=-(b / p) * AB,
        to_b=(a / p) * AB,
        prefactor=pairs.coefficient * jnp.exp(-(a * b / p) * jnp.sum(AB * AB, axis=0)),
    )


def expand(pairs: PairClass, primitives: PrimitivePairs, more: int = 0) -> Expansion:
    """Hermite expansion of the pairs along all axes, the second shell's power up by ``more``."""
    la, lb = pairs.degrees
    return expansion_coefficients(
        la,
        lb + more,
        primitives.to_a,
        primitives.to_b,
        jnp.broadcast_to(0.5 / primitives.exponent, primitives.to_a.shape),
    )


def cartesian_components(degrees: tuple[int, int]) -> Iterable[tuple[tuple[int, int], ...]]:
    """(i, j) along x, y and z for each pair of monomials, the second one's faster."""
    for a in cartesian_powers(degrees[0]):
        for b in cartesian_powers(degrees[1]):
            yield tuple(zip(a, b, strict=True))


def hermite_weights(
    pairs: PairClass, primitives: PrimitivePairs
) -> tuple[Float[Array, "nterm ncomponent nprim"], Int[np.ndarray, "nterm ncomponent"]]:
    """Expansion of products of two monomials' primitives in Hermite Gaussians.

    Returns
    -------
    Weights of the Hermite Gaussians, prefactor included, and which these are among those of
    `powers_up_to`. Products that have fewer terms than others are padded with weight 0.
    """
    la, lb = pairs.degrees
    E = expand(pairs, primitives)
    rows = [(i, j, t) for i in range(la + 1) for j in range(lb + 1) for t in range(i + j + 1)]
    stacked = jnp.stack([E[i, j][t] for i, j, t in rows] + [jnp.zeros_like(primitives.to_a)])
    row_of = {row: k for k, row in enumerate(rows)}
    hermite = {tuv: k for k, tuv in enumerate(powers_up_to(la + lb))}
    terms = []
    for component in cartesian_components(pairs.degrees):
        (ix, jx), (iy, jy), (iz, jz) = component
        terms.append(
            [
                (row_of[ix, jx, t], row_of[iy, jy, u], row_of[iz, jz, v], hermite[t, u, v])
                for t in range(ix + jx + 1)
                for u in range(iy + jy + 1)
                for v in range(iz + jz + 1)
            ]
        )
    longest = max(len(t) for t in terms)
    zero = (len(rows), len(rows), len(rows), 0)
    index = np.array([t + [zero] * (longest - len(t)) for t in terms]).transpose(2, 1, 0)
    x, y, z = (stacked[index[k], k] for k in range(3))
    return x * y * (z * primitives.prefactor), index[3]


def contract(pairs: PairClass, values: Float[Array, "*n nprim"]) -> Float[Array, "*n npair"]:
    """Sum over the primitive pairs of each shell pair."""
    parts, start = [], 0
    for K, n in pairs.groups:
        part = values[..., start : start + K * n]
        parts.append(jnp.sum(part.reshape(*part.shape[:-1], K, n), axis=-2))
        start += K * n
    return jnp.concatenate(parts, axis=-1)


def to_functions(
    pairs: PairClass, values: Float[Array, "*n ncomponent npair"]
) -> Float[Array, "*n nplace"]:
    """Pairs of monomials to pairs of the shells' functions, flattened as `PairTable` says."""
    Ta, Tb = (shell_transform(d, kind) for d, kind in zip(pairs.degrees, pairs.kinds, strict=True))
    T = jnp.asarray(np.kron(Ta, Tb), values.dtype)
    result = jnp.einsum("cf,...cx->...fx", T, values, precision="highest")
    return result.reshape(*result.shape[:-2], -1)


def sum_terms(
    weights: Float[Array, "nterm ncomponent nprim"],
    hermite: Float[Array, "nhermite *n nprim"],
    index: Int[np.ndarray, "nterm ncomponent"],
) -> Float[Array, "ncomponent *n nprim"]:
    """Integrals over products of monomials' primitives from those over Hermite Gaussians."""
    more = (1,) * (hermite.ndim - 2)

    def add_term(total: Array, term: tuple[Array, Array]) -> tuple[Array, None]:
        weight, which = term
        return total + weight.reshape(weight.shape[0], *more, weight.shape[1]) * hermite[
            which
        ], None

    start = jnp.zeros((index.shape[1], *hermite.shape[1:]), hermite.dtype)
    return jax.lax.scan(add_term, start, (weights, jnp.asarray(index)))[0]
