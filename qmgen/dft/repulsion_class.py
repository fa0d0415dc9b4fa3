"""Two-electron integrals between two classes of pairs of shells, for many conformers at once.

With R_tuv, derivatives of the Boys function, and weights w of primitives (Helgaker, Jorgensen,
Olsen, Molecular Electronic-Structure Theory, 9.9), the sums

    S[i, j] = sum_pq w_i[p] w_j[q] (-1)^|K_j| R[H_i + K_j](P - Q)

over primitives p on the left and q on the right hold all that integrals over products of orbitals
are made of (`qmgen.dft.pair_form`). The program goes through a list of blocks of pairs and, within
one, through groups of primitives, so that only what matters is computed; elementwise operations on
a few thousand numbers, conformers being the fastest axis, stay within a core's cache.
"""

from collections.abc import Sequence
from functools import partial
from math import factorial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmgen.dft.boys import boys
from qmgen.dft.hermite import Powers, cartesian_powers, powers_up_to
from qmgen.dft.pair_expansion import Expansion
from qmgen.dft.pair_form import PairForm, PairKind, pair_form
from qmgen.dft.repulsion_pairs import PRIMITIVE_GROUP
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.staging import stage

# Elementwise arrays have the axes: group of primitives on the left, on the right, pairs on the
# right, conformers. A block has one pair on the left.
Values = Float[Array, "ngroup ngroup nket nconf"]
# Sums of one order on the left: weight, Hermite Gaussian; then what is on the right.
Sums = list[Float[Array, "_nweight _nhermite ..."]]


class ClassKind(NamedTuple):
    """What the program of two classes depends on besides the sizes of its arrays.

    ``tile`` is the number of pairs on the right of a block.
    """

    bra: PairKind
    ket: PairKind
    tile: int
    precision: str


def _slice(array: Array, start: Array, size: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size, axis)


@stage
def primitive_group(side: Expansion, number: Array) -> Expansion:
    """Primitives of a group, in arrays of their own.

    A slice at a place that is not known within an elementwise loop keeps that from being
    vectorised.
    """

    def of(array: Array, axis: int) -> Array:
        return _slice(array, number * PRIMITIVE_GROUP, PRIMITIVE_GROUP, axis)

    return Expansion(
        of(side.exponents, 0),
        of(side.centres, 1),
        tuple(of(w, 1) for w in side.weights),
        side.monomials,
    )


def _hermite_terms(order: int) -> list[tuple[int, int, int]]:
    """Number, power of x and n of the terms of d^t/dx^t f(x^2): number x^power (2 f')^(n)."""
    return [
        (
            factorial(order) // (factorial(j) * factorial(order - 2 * j) * 2**j),
            order - 2 * j,
            order - j,
        )
        for j in range(order // 2 + 1)
    ]


def hermite_coulomb_closed(
    powers: Powers,
    boys_values: Sequence[Array],
    separation: tuple[Array, Array, Array],
) -> Array:
    """One R_tuv written out, of (-2 a)^n F_n: few operations where t + u + v is small.

    What `qmgen.dft.hermite.hermite_coulomb` makes by recursion, without anything that several of
    them would share.
    """
    by_order: dict[int, Array | float] = {}
    for cx, px, nx in _hermite_terms(powers[0]):
        for cy, py, ny in _hermite_terms(powers[1]):
            for cz, pz, nz in _hermite_terms(powers[2]):
                term: Array | float = float(cx * cy * cz)
                for x, power in zip(separation, (px, py, pz), strict=True):
                    for _ in range(power):
                        term = x if isinstance(term, float) and term == 1 else term * x
                n = nx + ny + nz
                by_order[n] = by_order[n] + term if n in by_order else term
    total = None
    for n, polynomial in by_order.items():
        value = boys_values[n]
        if not (isinstance(polynomial, float) and polynomial == 1):
            value = value * polynomial
        total = value if total is None else total + value
    assert total is not None
    return total


class ClassStages:
    """Steps of the programs of two classes; each is compiled apart from the others.

    ``derivative`` is how many orders of Hermite Gaussians more than the integrals' own are needed.
    """

    def __init__(self, kind: ClassKind, derivative: int = 0) -> None:
        self.kind = kind
        self.dtype = jnp.dtype(kind.precision)
        self.bra, self.ket = pair_form(kind.bra), pair_form(kind.ket)
        self.order = kind.bra.max_l + kind.ket.max_l + derivative
        self.take_bra = stage(self._take_bra)
        self.take_ket = stage(self._take_ket)
        self.separation = stage(self._separation)
        self.boys = stage(self._boys)
        self.hermite = stage(self._hermite)
        self.hermite_each = stage(self._hermite_each)
        self.hermite_stacks = stage(self._hermite_stacks)
        self.add_bra = stage(self._add_bra)
        self.add_ket = stage(self._add_ket)
        self.join = stage(join_sums)
        self.bra_components = stage(partial(components_of, self.bra))
        self.ket_components = stage(partial(components_of, self.ket))

    def _take_bra(self, pairs: Expansion, row: Array) -> Expansion:
        """The pair on the left of a block; its axis is gone."""
        one = jax.tree.map(lambda x: x[0], self._take(pairs, row, 1, front=True))
        return Expansion(*one)

    def _take_ket(self, pairs: Expansion, start: Array) -> Expansion:
        """The pairs on the right of a block."""
        return self._take(pairs, start, self.kind.tile)

    def _take(self, pairs: Expansion, start: Array, size: int, front: bool = False) -> Expansion:
        # Differences of centres must be taken in float64.
        def of(array: Array, axis: int, dtype: jnp.dtype) -> Array:
            part = _slice(array, start, size, axis).astype(dtype)
            return jnp.moveaxis(part, axis, 0) if front else part

        double = jnp.dtype(jnp.float64)
        return Expansion(
            of(pairs.exponents, 1, double),
            of(pairs.centres, 2, double),
            tuple(of(w, 2, self.dtype) for w in pairs.weights),
            of(pairs.monomials, 1, self.dtype),
        )

    def _separation(
        self, bra: Expansion, ket: Expansion
    ) -> tuple[tuple[Values, Values, Values], Array, list[Array]]:
        """P - Q, the reduced exponent a, and (-2 a)^n / (p + q)^(1/2)."""
        p, q = bra.exponents[:, None, None], ket.exponents
        x, y, z = (
            (P[:, None, None] - Q).astype(self.dtype)
            for P, Q in zip(bra.centres, ket.centres, strict=True)
        )
        reduced = p * q / (p + q)
        scale = [(-2 * reduced) ** n / jnp.sqrt(p + q) for n in range(self.order + 1)]
        return (x, y, z), reduced.astype(self.dtype), [s.astype(self.dtype) for s in scale]

    def _boys(
        self, separation: tuple[Values, Values, Values], reduced: Array, scale: list[Array]
    ) -> list[Values]:
        x, y, z = separation
        F = boys(reduced[..., None] * (x * x + y * y + z * z), self.order)
        return [f * s[..., None] for f, s in zip(F, scale, strict=True)]

    def _hermite(
        self, boys_values: list[Values], separation: tuple[Values, Values, Values]
    ) -> list[Float[Array, "_nhermite nket_hermite ngroup ngroup nket nconf"]]:
        """R[H + K], for each order of H on the left."""
        K = powers_up_to(self.kind.ket.max_l)
        stacks = []
        for order in range(self.kind.bra.max_l + 1):
            H = cartesian_powers(order)
            values = [
                hermite_coulomb_closed(add_powers(h, k), boys_values, separation)
                for h in H
                for k in K
            ]
            stacks.append(jnp.stack(values).reshape(len(H), len(K), *values[0].shape))
        return stacks

    def _hermite_each(
        self, boys_values: list[Values], separation: tuple[Values, Values, Values]
    ) -> list[Values]:
        """R_tuv in the order of `powers_up_to`, each once."""
        powers = powers_up_to(self.order)
        return [hermite_coulomb_closed(tuv, boys_values, separation) for tuv in powers]

    def _hermite_stacks(
        self, values: list[Values]
    ) -> list[Float[Array, "nhermite nket_hermite ngroup ngroup nket nconf"]]:
        """What `_hermite` gives, from the values of each R_tuv."""
        R = dict(zip(powers_up_to(self.order), values, strict=True))
        K = powers_up_to(self.kind.ket.max_l)
        return [
            jnp.stack(
                [jnp.stack([R[add_powers(h, k)] for k in K]) for h in cartesian_powers(order)]
            )
            for order in range(self.kind.bra.max_l + 1)
        ]

    def _add_bra(self, sums: Sums, bra: Expansion, R: list[Array]) -> Sums:
        """Add the primitives on the left, those on the right standing apart."""
        result = []
        for total, w, values in zip(sums, bra.weights, R, strict=True):
            for g in range(PRIMITIVE_GROUP):
                total = total + w[:, g][:, None, None, None, None] * values[None, :, :, g]
            result.append(total)
        return result

    def _add_ket(self, sums: list[Sums], left: Sums, ket: Expansion) -> list[Sums]:
        """Add the primitives on the right."""
        result = []
        for of_left, total in zip(left, sums, strict=True):
            row, start = [], 0
            for order, (value, weights) in enumerate(zip(total, ket.weights, strict=True)):
                n = len(cartesian_powers(order))
                R = of_left[:, :, start : start + n]
                start += n
                w = weights * (-1) ** order
                for g in range(PRIMITIVE_GROUP):
                    value = value + w[None, None, :, g][:, :, :, None] * R[:, :, None, :, g]
                row.append(value)
            result.append(row)
        return result

    def zero_left(self, nconf: int) -> Sums:
        """Sums before any primitive on the left was added."""
        nK = len(powers_up_to(self.kind.ket.max_l))
        shape = nK, PRIMITIVE_GROUP, self.kind.tile, nconf
        return [
            jnp.zeros((len(w), len(cartesian_powers(n)), *shape), self.dtype)
            for n, w in enumerate(self.bra.weights)
        ]

    def zero(self, nconf: int) -> list[Sums]:
        """Sums before any primitive was added."""
        return [
            [
                jnp.zeros(
                    (
                        *(len(w), len(cartesian_powers(n))),
                        *(len(w_ket), len(cartesian_powers(n_ket))),
                        *(self.kind.tile, nconf),
                    ),
                    self.dtype,
                )
                for n_ket, w_ket in enumerate(self.ket.weights)
            ]
            for n, w in enumerate(self.bra.weights)
        ]


def add_powers(a: Powers, b: Powers) -> Powers:
    """Powers of a product."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def join_sums(sums: list[Sums]) -> Float[Array, "nbra_sum nket_sum nket nconf"]:
    """Sums of all orders in one array."""
    rows = []
    for row in sums:
        flat = [x.reshape(x.shape[0] * x.shape[1], -1, *x.shape[4:]) for x in row]
        rows.append(jnp.concatenate(flat, axis=1))
    return jnp.concatenate(rows)


def components_of(
    form: PairForm, sums: Float[Array, "nsum *n"] | list[Float[Array, "*n"]], monomials: Array
) -> Float[Array, "ncomponent *n"]:
    """Products of orbitals from sums; monomials are shaped to broadcast with one of the sums."""
    components = []
    for terms in form.components:
        total = None
        for term in terms:
            value = sums[term.sum]
            if any(form.monomials[term.monomial]):
                value = value * monomials[term.monomial]
            if term.number != 1:
                value = value * term.number
            total = value if total is None else total + value
        assert total is not None
        components.append(total)
    return jnp.stack(components)


@shared_program(static_argnames=("kind", "side_by_side"))
def class_integrals(
    bra: Expansion,
    ket: Expansion,
    items: Int[Array, "nplace 4"],
    nitem: Int[Array, ""],
    *,
    kind: ClassKind,
    side_by_side: int = 1,
) -> Float[Array, "nplace cket cbra nket nconf"]:
    """Integrals of blocks of pairs of two classes.

    Parameters
    ----------
    bra, ket
        Expansions of the classes.
    items
        Of each block, the pair on the left, the first one on the right, and how many groups of
        primitives matter on either side.
    nitem
        How many of the items count; the others' results are zero.
    kind
        Of the classes, with the blocks' size and the precision.
    side_by_side
        Blocks computed at once, a divisor of ``nplace``. One is what a core's cache holds; the many
        lanes of a GPU are idle with so few.
    """
    stages = ClassStages(kind)
    nconf = bra.centres.shape[-1]

    def one_block(i: Array, j: Array, nu: Array, nv: Array) -> Array:
        left, right = stages.take_bra(bra, i), stages.take_ket(ket, j)

        def add_ket_group(v: Array, sums: list[Sums]) -> list[Sums]:
            q = primitive_group(right, v)

            def add_bra_group(u: Array, partial_sums: Sums) -> Sums:
                p = primitive_group(left, u)
                separation, reduced, scale = stages.separation(p, q)
                F = stages.boys(separation, reduced, scale)
                return stages.add_bra(partial_sums, p, stages.hermite(F, separation))

            summed = jax.lax.fori_loop(0, nu, add_bra_group, stages.zero_left(nconf))
            return stages.add_ket(sums, summed, q)

        sums = stages.join(jax.lax.fori_loop(0, nv, add_ket_group, stages.zero(nconf)))
        half = stages.bra_components(sums, left.monomials[:, None, None])
        return stages.ket_components(half.swapaxes(0, 1), right.monomials[:, None])

    def add_items(n: Array, result: Array) -> Array:
        if side_by_side == 1:
            return jax.lax.dynamic_update_index_in_dim(result, one_block(*items[n]), n, 0)
        first = n * side_by_side
        some = jax.vmap(one_block)(*_slice(items, first, side_by_side, 0).T)
        return jax.lax.dynamic_update_slice_in_dim(result, some, first, 0)

    start = jnp.zeros(
        (items.shape[0], kind.ket.ncomponent, kind.bra.ncomponent, kind.tile, nconf), stages.dtype
    )
    # Items that only fill up have no groups of primitives, and so are zero.
    return jax.lax.fori_loop(0, (nitem + side_by_side - 1) // side_by_side, add_items, start)
