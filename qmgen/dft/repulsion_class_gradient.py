"""Derivative of two-electron integrals between two classes of pairs by the nuclei's positions.

Positions enter an integral through the centres P of primitive pairs, through their weights, which
are all proportional to exp(-ab/p |A - B|^2), and through the monomials of A - B. Of a linear
combination of integrals, given by their cotangents, the derivatives by these three are summed here,
in reverse order of `qmgen.dft.repulsion_class.class_integrals`: with the cotangent of each R_tuv,

    dE/dP_x = sum_tuv Rbar_tuv R_(t+1)uv,    dE/d(log w) = sum_tuv Rbar_tuv R_tuv.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmgen.dft.hermite import Powers, cartesian_powers, powers_up_to
from qmgen.dft.pair_expansion import Expansion
from qmgen.dft.pair_form import PairForm
from qmgen.dft.repulsion_class import (
    ClassKind,
    ClassStages,
    Sums,
    Values,
    add_powers,
    primitive_group,
)
from qmgen.dft.repulsion_pairs import PRIMITIVE_GROUP
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.staging import stage

# Derivatives by the logarithm of the weight, and by P along x, y and z.
Derivatives = Float[Array, "4 *n"]


class PairCotangents(NamedTuple):
    """Derivatives by what a class's pairs are at given positions.

    ``primitives`` are those by the logarithm of the weights and by the centres.
    """

    primitives: Float[Array, "4 nprim npair nconf"]
    monomials: Float[Array, "nmonomial npair nconf"]


class _GradientStages:
    """Steps in reverse order; see `ClassStages` for those that go before."""

    def __init__(self, kind: ClassKind) -> None:
        self.forward = ClassStages(kind, derivative=1)
        bra, ket = self.forward.bra, self.forward.ket
        self.ket_sums = stage(partial(_sums_of, ket))
        self.bra_sums = stage(partial(_sums_of, bra))
        self.split = stage(self._split)
        self.spread_ket = stage(self._spread_ket)
        self.hermite_cotangents = stage(self._hermite_cotangents)
        self.products = stage(self._products)
        self.sum_right = stage(self._sum_right)
        self.sum_left = stage(self._sum_left)
        self.bra_monomials = stage(partial(_monomials_of, bra, naxis=2))
        self.ket_monomials = stage(partial(_monomials_of, ket, naxis=1))

    def _split(self, joined: Float[Array, "nbra_sum nket_sum nket nconf"]) -> list[Sums]:
        """Sums of each order from those of all orders."""
        result, start = [], 0
        for row in self.forward.zero(joined.shape[-1]):
            rows = joined[start : (start := start + row[0].shape[0] * row[0].shape[1])]
            parts, begin = [], 0
            for zero in row:
                stop = begin + zero.shape[2] * zero.shape[3]
                parts.append(rows[:, begin:stop].reshape(zero.shape))
                begin = stop
            result.append(parts)
        return result

    def _spread_ket(
        self, cotangents: list[Sums], ket: Expansion
    ) -> list[Float[Array, "nweight nhermite nket_hermite ngroup nket nconf"]]:
        """Cotangents of sums over primitives on the left, those on the right standing apart."""
        result = []
        for row in cotangents:
            parts = []
            for order, (values, weights) in enumerate(zip(row, ket.weights, strict=True)):
                w = weights * (-1) ** order
                parts.append(
                    sum(values[:, :, k, :, None] * w[k] for k in range(1, len(w)))
                    + values[:, :, 0, :, None] * w[0]
                )
            result.append(jnp.concatenate(parts, axis=2))
        return result

    def _hermite_cotangents(self, spread: list[Array], bra: Expansion) -> list[Values]:
        """Cotangents of R_tuv, up to the integrals' own order."""
        total: dict[Powers, Array] = {}
        for order, (values, weights) in enumerate(zip(spread, bra.weights, strict=True)):
            for h, H in enumerate(cartesian_powers(order)):
                for k, K in enumerate(powers_up_to(self.forward.kind.ket.max_l)):
                    N = add_powers(H, K)
                    for w, weight in enumerate(weights):
                        value = weight[:, None, None] * values[w, h, k]
                        total[N] = total[N] + value if N in total else value
        return [total[N] for N in powers_up_to(self.forward.order - 1)]

    def _products(self, cotangents: list[Values], R: list[Values]) -> list[Values]:
        value = dict(zip(powers_up_to(self.forward.order), R, strict=True))
        result = []
        for shift in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            total = None
            for N, cotangent in zip(powers_up_to(self.forward.order - 1), cotangents, strict=True):
                term = cotangent * value[add_powers(N, shift)]
                total = term if total is None else total + term
            assert total is not None
            result.append(total)
        return result

    def _sum_right(self, products: list[Values]) -> Float[Array, "4 ngroup nconf"]:
        """What belongs to the primitives on the left."""
        sums = []
        for x in products:
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            sums.append(sum((flat[:, k] for k in range(1, flat.shape[1])), flat[:, 0]))
        return jnp.stack(sums)

    def _sum_left(self, products: list[Values]) -> Float[Array, "4 ngroup nket nconf"]:
        """What belongs to the primitives on the right, where Q comes with a minus."""
        sums = [sum((x[g] for g in range(1, len(x))), x[0]) for x in products]
        return jnp.stack([sums[0], *(-x for x in sums[1:])])


def _sums_of(
    form: PairForm, cotangents: Float[Array, "ncomponent *n"], monomials: Array
) -> Float[Array, "nsum *n"]:
    """Cotangents of sums from those of products of orbitals; see `components_of`.

    Written out: what JAX makes of it keeps XLA from vectorising, at 50 times the cost.
    """
    total: dict[int, Array] = {}
    for cotangent, terms in zip(cotangents, form.components, strict=True):
        for term in terms:
            value = cotangent
            if any(form.monomials[term.monomial]):
                value = value * monomials[term.monomial]
            if term.number != 1:
                value = value * term.number
            total[term.sum] = total[term.sum] + value if term.sum in total else value
    return jnp.stack([total[number] for number in range(form.nsum)])


def _monomials_of(
    form: PairForm,
    cotangents: Float[Array, "ncomponent *n"],
    sums: Float[Array, "nsum *n"],
    *,
    naxis: int,
) -> Float[Array, "nmonomial *rest"]:
    """Derivatives by monomials of products of orbitals, summed over some axes after the first."""
    products: dict[int, Array] = {}
    for cotangent, terms in zip(cotangents, form.components, strict=True):
        for term in terms:
            # The one that is 1 everywhere has no derivative.
            if any(form.monomials[term.monomial]):
                value = cotangent * sums[term.sum] * term.number
                before = products.get(term.monomial)
                products[term.monomial] = value if before is None else before + value
    result = []
    for number in range(len(form.monomials)):
        if number in products:
            flat = products[number].reshape(-1, *cotangents.shape[1 + naxis :])
            result.append(sum((flat[k] for k in range(1, len(flat))), flat[0]))
        else:
            result.append(jnp.zeros(cotangents.shape[1 + naxis :], cotangents.dtype))
    return jnp.stack(result)


def _add_at(total: Array, part: Array, start: Array, axis: int) -> Array:
    size = part.shape[axis]
    old = jax.lax.dynamic_slice_in_dim(total, start, size, axis)
    return jax.lax.dynamic_update_slice_in_dim(total, old + part.astype(total.dtype), start, axis)


@shared_program(static_argnames="kind")
def class_gradient(
    bra: Expansion,
    ket: Expansion,
    items: Int[Array, "nplace 4"],
    nitem: Int[Array, ""],
    cotangents: Float[Array, "nplace cket cbra nket nconf"],
    *,
    kind: ClassKind,
) -> tuple[PairCotangents, PairCotangents]:
    """Derivatives of a linear combination of the integrals of blocks of pairs of two classes.

    Parameters
    ----------
    bra, ket, items, nitem, kind
        As for `qmgen.dft.repulsion_class.class_integrals`.
    cotangents
        Factors of the integrals.

    Returns
    -------
    Derivatives by the pairs on the left and on the right.
    """
    stages = _GradientStages(kind)
    forward = stages.forward
    nconf = bra.centres.shape[-1]

    def one_block(
        i: Array, j: Array, nu: Array, nv: Array, cotangent: Array
    ) -> tuple[Array, Array, Array, Array]:
        left, right = forward.take_bra(bra, i), forward.take_ket(ket, j)
        monomials = left.monomials[:, None, None], right.monomials[:, None]
        half_cotangents = stages.ket_sums(cotangent, monomials[1]).swapaxes(0, 1)
        sum_cotangents = stages.split(stages.bra_sums(half_cotangents, monomials[0]))

        def add_ket_group(
            v: Array, state: tuple[list[Sums], Array, Array]
        ) -> tuple[list[Sums], Array, Array]:
            sums, of_bra, of_ket = state
            q = primitive_group(right, v)
            spread = stages.spread_ket(sum_cotangents, q)

            def add_bra_group(
                u: Array, state: tuple[Sums, Array, Array]
            ) -> tuple[Sums, Array, Array]:
                partial_sums, of_bra, of_group = state
                p = primitive_group(left, u)
                separation, reduced, scale = forward.separation(p, q)
                F = forward.boys(separation, reduced, scale)
                R = forward.hermite_each(F, separation)
                products = stages.products(stages.hermite_cotangents(spread, p), R)
                return (
                    forward.add_bra(partial_sums, p, forward.hermite_stacks(R)),
                    _add_at(of_bra, stages.sum_right(products), u * PRIMITIVE_GROUP, 1),
                    of_group + stages.sum_left(products),
                )

            of_group = jnp.zeros((4, PRIMITIVE_GROUP, kind.tile, nconf), forward.dtype)
            start = forward.zero_left(nconf), of_bra, of_group
            summed, of_bra, of_group = jax.lax.fori_loop(0, nu, add_bra_group, start)
            of_ket = _add_at(of_ket, of_group, v * PRIMITIVE_GROUP, 1)
            return forward.add_ket(sums, summed, q), of_bra, of_ket

        start = (
            forward.zero(nconf),
            jnp.zeros((4, left.exponents.shape[0], nconf), forward.dtype),
            jnp.zeros((4, right.exponents.shape[0], kind.tile, nconf), forward.dtype),
        )
        sums, of_bra, of_ket = jax.lax.fori_loop(0, nv, add_ket_group, start)
        joined = forward.join(sums)
        half = forward.bra_components(joined, monomials[0]).swapaxes(0, 1)
        return (
            of_bra,
            of_ket,
            stages.bra_monomials(half_cotangents, joined),
            stages.ket_monomials(cotangent, half),
        )

    def add_item(
        n: Array, state: tuple[PairCotangents, PairCotangents]
    ) -> tuple[PairCotangents, PairCotangents]:
        of_left, of_right = state
        i, j = items[n, 0], items[n, 1]
        cotangent = jax.lax.dynamic_index_in_dim(cotangents, n, 0, keepdims=False)
        nu, nv = items[n, 2], items[n, 3]
        of_bra, of_ket, bra_monomials, ket_monomials = one_block(
            i, j, nu, nv, cotangent.astype(forward.dtype)
        )
        return (
            PairCotangents(
                _add_at(of_left.primitives, of_bra[:, :, None], i, 2),
                _add_at(of_left.monomials, bra_monomials[:, None], i, 1),
            ),
            PairCotangents(
                _add_at(of_right.primitives, of_ket, j, 2),
                _add_at(of_right.monomials, ket_monomials, j, 1),
            ),
        )

    def zero(side: Expansion) -> PairCotangents:
        return PairCotangents(
            jnp.zeros((4, *side.exponents.shape, nconf)), jnp.zeros(side.monomials.shape)
        )

    return jax.lax.fori_loop(0, nitem, add_item, (zero(bra), zero(ket)))
