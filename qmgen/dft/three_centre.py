"""Coulomb integrals of three and two indices over an auxiliary basis, for density fitting.

An auxiliary function stands alone on its centre. The Hermite expansion of r^l times a Gaussian of
exponent q has coefficients that are powers of 1 / (2 q) times constants; for a solid harmonic only
the highest order remains (Reine, Tellgren, Helgaker, Phys. Chem. Chem. Phys. 9, 4771 (2007)).
"""

import math
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.boys import boys
from qmgen.dft.hermite import Powers, cartesian_powers, hermite_coulomb, powers_up_to
from qmgen.dft.shell_pairs import (
    PairClass,
    PairTable,
    PrimitivePairs,
    bucket,
    contract,
    hermite_weights,
    primitive_pairs,
    shell_transform,
    shells_by_contraction,
    sum_terms,
    to_functions,
)


class AuxiliaryClass(eqx.Module):
    """Primitives of all auxiliary shells of one angular momentum, shell after shell.

    Attributes
    ----------
    exponents, coefficients, atom
        Of each primitive, as in `qmgen.dft.basis.Basis`; coefficients are zero if padded.
    is_first, is_last
        Whether a primitive is the first or last one of a shell; padded ones are neither.
    degree
        Angular momentum.
    cartesian
        Whether the shells are Cartesian.
    """

    exponents: Float[Array, " nprim"]
    coefficients: Float[Array, " nprim"]
    atom: Int[Array, " nprim"]
    is_first: Bool[Array, " nprim"]
    is_last: Bool[Array, " nprim"]
    degree: int = eqx.field(static=True)
    cartesian: bool = eqx.field(static=True)


class AuxiliaryTable(eqx.Module):
    """Auxiliary shells of a molecule, and where its functions stand among their integrals.

    Both by angular momentum, one entry for each: ``classes`` serve as the one auxiliary index;
    ``pairs`` are the same shells, each paired with a constant, to serve in the place of an orbital
    pair. ``source`` and ``pair_source`` give the place of each function in either; they point
    behind the last one for padded functions. ``degree`` is each function's angular momentum.
    """

    classes: tuple[AuxiliaryClass, ...]
    pairs: tuple[PairClass, ...]
    source: Int[Array, " naux"]
    pair_source: Int[Array, " naux"]
    degree: Int[Array, " naux"]


def auxiliary_table(basis: Basis, naux: int) -> AuxiliaryTable:
    """Table of an auxiliary basis, its functions padded to ``naux``."""
    first_function = np.searchsorted(basis.orbital_shell, np.arange(len(basis.shell_l)))
    by_degree: dict[int, dict[int, list[int]]] = {}
    for (degree, nprim), shells in shells_by_contraction(basis).items():
        by_degree.setdefault(degree, {})[nprim] = shells
    classes, pairs = [], []
    source, pair_source = np.full(naux, -1, np.int32), np.full(naux, -1, np.int32)
    offset = pair_offset = 0
    for degree, by_size in by_degree.items():
        kind = degree in basis.cartesian
        nfunctions = shell_transform(degree, kind).shape[1]
        m = np.arange(nfunctions)
        groups = tuple((nprim, bucket(len(shells))) for nprim, shells in by_size.items())
        npair = sum(n for _, n in groups)
        primitives: list[tuple[float, float, int, bool, bool]] = []
        pair_columns: list[np.ndarray] = []
        place = 0
        for (nprim, n), shells in zip(groups, by_size.values(), strict=True):
            a, c = basis.exponents[shells, :nprim], basis.coefficients[shells, :nprim]
            atoms = basis.shell_atom[shells]
            more = ((0, n - len(shells)), (0, 0))
            pair_columns.append(
                np.stack(
                    [
                        np.pad(a, more, constant_values=1).T.ravel(),
                        np.pad(c, more).T.ravel(),
                        np.tile(np.pad(atoms, more[0]), nprim),
                    ]
                )
            )
            for row, shell in enumerate(shells):
                for k in range(nprim):
                    primitives.append((a[row, k], c[row, k], atoms[row], k == 0, k == nprim - 1))
                functions = slice(first_function[shell], first_function[shell] + nfunctions)
                source[functions] = offset + (len(primitives) - 1) * nfunctions + m
                pair_source[functions] = pair_offset + m * npair + place + row
            place += n
        length = bucket(len(primitives))
        primitives += [(1.0, 0.0, 0, False, False)] * (length - len(primitives))
        exponents, coefficients, atom, is_first, is_last = zip(*primitives, strict=True)
        classes.append(
            AuxiliaryClass(
                jnp.asarray(exponents, float),
                jnp.asarray(coefficients, float),
                jnp.asarray(atom, jnp.int32),
                jnp.asarray(is_first),
                jnp.asarray(is_last),
                degree,
                kind,
            )
        )
        pairs.append(_with_constant(np.concatenate(pair_columns, axis=1), groups, degree, kind))
        offset += length * nfunctions
        pair_offset += npair * nfunctions
    source[source < 0] = offset
    pair_source[pair_source < 0] = pair_offset
    degrees = np.pad(basis.shell_l[basis.orbital_shell], (0, naux - basis.nao))
    return AuxiliaryTable(
        tuple(classes),
        tuple(pairs),
        jnp.asarray(source),
        jnp.asarray(pair_source),
        jnp.asarray(degrees),
    )


def _with_constant(
    columns: np.ndarray, groups: tuple[tuple[int, int], ...], degree: int, cartesian: bool
) -> PairClass:
    """Shells, each paired with a constant: an s function of exponent 0."""
    exponents, coefficients, atom = columns
    atoms = jnp.asarray(atom, jnp.int32)
    return PairClass(
        exponent_a=jnp.asarray(exponents),
        exponent_b=jnp.zeros(len(exponents)),
        # Takes the norm of the s function out again.
        coefficient=jnp.asarray(coefficients * math.sqrt(4 * math.pi)),
        atom_a=atoms,
        atom_b=atoms,
        groups=groups,
        degrees=(degree, 0),
        kinds=(cartesian, False),
    )


def three_centre_integrals(
    table: PairTable, auxiliary: AuxiliaryTable, positions: Float[Array, "nat 3"]
) -> Float[Array, "naux npair"]:
    """Coulomb integrals (ij|P) of one conformer.

    Parameters
    ----------
    table, auxiliary
        Pairs of orbital shells, and auxiliary shells.
    positions
        Of the atoms, Bohr.

    Returns
    -------
    For each P the pairs i >= j, packed as i (i + 1) / 2 + j; zero for padded functions.
    """
    columns = [_pairs_with_classes(pairs, auxiliary.classes, positions) for pairs in table.classes]
    # The last row and column are those of padded functions.
    values = jnp.pad(jnp.concatenate(columns, axis=1), ((0, 1), (0, 1)))
    i, j = np.tril_indices(table.source.shape[0])
    return values[auxiliary.source[:, None], table.source[i, j][None, :]]


def two_centre_integrals(
    auxiliary: AuxiliaryTable, positions: Float[Array, "nat 3"]
) -> Float[Array, "naux naux"]:
    """Coulomb integrals (P|Q) of one conformer at positions in Bohr, zero for padded functions."""
    # (P|Q) is symmetric, so the degree of Q need not be above that of P.
    columns = [
        _pairs_with_classes(pairs, auxiliary.classes[k:], positions)
        for k, pairs in enumerate(auxiliary.pairs)
    ]
    nrows = len(columns[0])
    lower = jnp.concatenate([jnp.pad(c, ((nrows - len(c), 0), (0, 0))) for c in columns], axis=1)
    lower = jnp.pad(lower, ((0, 1), (0, 1)))
    values = lower[auxiliary.source[:, None], auxiliary.pair_source[None, :]]
    is_lower = auxiliary.degree[:, None] >= auxiliary.degree[None, :]
    return jnp.where(is_lower, values, values.T)


def _pairs_with_classes(
    pairs: PairClass, classes: tuple[AuxiliaryClass, ...], positions: Float[Array, "nat 3"]
) -> Float[Array, "nauxiliary nplace"]:
    primitives = primitive_pairs(pairs, positions)
    expansion = hermite_weights(pairs, primitives)
    rows = [_pairs_with_shells(pairs, primitives, expansion, c, positions) for c in classes]
    return jnp.concatenate(rows)


def _pairs_with_shells(
    pairs: PairClass,
    primitives: PrimitivePairs,
    expansion: tuple[Array, np.ndarray],
    shells: AuxiliaryClass,
    positions: Float[Array, "nat 3"],
) -> Float[Array, "nauxiliary nplace"]:
    """Integrals of a class of pairs with a class of auxiliary shells.

    They stand in the place of a shell's last primitive; those of its other primitives are zero.
    """
    order = sum(pairs.degrees)
    nfunctions = shell_transform(shells.degree, shells.cartesian).shape[1]

    def to_pairs(hermite: Array) -> Array:
        values = contract(pairs, sum_terms(expansion[0], hermite, expansion[1]))
        return to_functions(pairs, jnp.moveaxis(values, 1, 0))

    empty = jnp.zeros((len(powers_up_to(order)), nfunctions, *primitives.exponent.shape))
    empty = empty.astype(primitives.exponent.dtype)
    nothing = jnp.zeros_like(jax.eval_shape(to_pairs, empty))

    def add_primitive(sums: Array, primitive: tuple[Array, ...]) -> tuple[Array, Array]:
        q, c, centre, is_first, is_last = primitive
        sums = jnp.where(is_first, 0, sums) + _with_hermite(order, primitives, shells, q, c, centre)
        return sums, jax.lax.cond(is_last, to_pairs, lambda _: nothing, sums)

    # One after the other, so that what a primitive takes stays in the processor's cache.
    centres = positions[shells.atom]
    of_primitives = (
        shells.exponents,
        shells.coefficients,
        centres,
        shells.is_first,
        shells.is_last,
    )
    _, values = jax.lax.scan(add_primitive, empty, of_primitives)
    return values.reshape(-1, values.shape[-1])


def _with_hermite(
    order: int,
    primitives: PrimitivePairs,
    shells: AuxiliaryClass,
    q: Float[Array, ""],
    coefficient: Float[Array, ""],
    centre: Float[Array, " 3"],
) -> Float[Array, "nhermite nfunction nprim"]:
    """Integrals of Hermite Gaussians up to ``order`` with the functions of an auxiliary primitive.

    By equation 9.9.33 of Helgaker, Jorgensen, Olsen.
    """
    p, P = primitives.exponent, primitives.centre
    highest = order + shells.degree
    place = {tuv: k for k, tuv in enumerate(powers_up_to(highest))}
    x, y, z = (P[axis] - centre[axis] for axis in range(3))
    a = p * q / (p + q)
    R = hermite_coulomb(boys(a * (x * x + y * y + z * z), highest), a, (x, y, z))
    norm = coefficient * 2 * math.pi**2.5 / (p * q * jnp.sqrt(p + q))
    values = norm * jnp.stack([R[tuv] for tuv in place])
    terms = []
    for degree, functions in _one_centre_expansion(shells.degree, shells.cartesian).items():
        # Derivatives by the auxiliary centre have the opposite sign.
        scale = (-1) ** degree * (0.5 / q) ** ((shells.degree + degree) // 2)
        for k in range(len(functions[0])):
            index = [
                [place[_add(tuv, function[k][0])] for function in functions]
                for tuv in powers_up_to(order)
            ]
            weight = jnp.asarray([[function[k][1]] for function in functions], p.dtype)
            terms.append(scale * weight * values[np.array(index)])
    return sum(terms[1:], terms[0])


def _add(a: Powers, b: Powers) -> Powers:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@lru_cache(maxsize=32)
def _one_centre_expansion(
    degree: int, cartesian: bool
) -> dict[int, list[list[tuple[Powers, float]]]]:
    """Hermite Gaussians of which a shell's functions consist, by their total order.

    Each is to be multiplied with (1 / (2 q))^((l + order) / 2). Functions that have fewer terms
    than others are padded with zeros.
    """
    T = shell_transform(degree, cartesian)
    expansion: dict[int, list[dict[Powers, float]]] = {}
    for monomial, row in zip(cartesian_powers(degree), T, strict=True):
        for order in range(degree, -1, -2):
            for tuv in cartesian_powers(order):
                factor = math.prod(_one_axis(i, t) for i, t in zip(monomial, tuv, strict=True))
                functions = expansion.setdefault(order, [{} for _ in row])
                for function, c in zip(functions, row.tolist(), strict=True):
                    function[tuv] = function.get(tuv, 0.0) + c * factor
    result = {}
    for order, functions in expansion.items():
        # Lower orders of solid harmonics cancel but for rounding.
        kept = [[(tuv, c) for tuv, c in f.items() if abs(c) > 1e-12] for f in functions]
        longest = max(len(f) for f in kept)
        if longest:
            padding = ((0, 0, order), 0.0)
            result[order] = [f + [padding] * (longest - len(f)) for f in kept]
    return result


def _one_axis(i: int, t: int) -> float:
    """Coefficient of order t in x^i exp(-q x^2), over (1 / (2 q))^((i + t) / 2)."""
    if t > i or (i - t) % 2:
        return 0.0
    k = (i - t) // 2
    return math.factorial(i) / (math.factorial(t) * math.factorial(k) * 2**k)
