"""What the sums over primitives of pairs of shells need at given positions, for many conformers.

Conformers are the last axis of all arrays, so that the compiler vectorises over them: they share
exponents, index lists and screening.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.pair_form import PairKind, pair_form
from qmgen.dft.repulsion_pairs import PairClass
from qmgen.dft.shared_programs import shared_program


class PairTables(NamedTuple):
    """A `PairClass` as a program takes it."""

    atoms: Int[Array, "npair 2"]
    exponents: Float[Array, "2 nprim npair"]
    coefficients: Float[Array, "nla nlb nprim npair"]


class Expansion(NamedTuple):
    """Primitives of pairs of shells, as `qmgen.dft.pair_form.PairForm` takes them.

    Attributes
    ----------
    exponents
        p = a + b, 1 / Bohr^2.
    centres
        P, Bohr.
    weights
        Of each order of Hermite Gaussians; with the factor 2^(1/2) pi^(5/4) / p of repulsion
        integrals. Zero for padding.
    monomials
        Of A - B.
    """

    exponents: Float[Array, "nprim npair"]
    centres: Float[Array, "3 nprim npair nconf"]
    weights: tuple[Float[Array, "_nweight nprim npair nconf"], ...]
    monomials: Float[Array, "nmonomial npair nconf"]


def pair_tables(pairs: PairClass) -> PairTables:
    """Tables of a class of pairs."""
    return PairTables(
        jnp.asarray(pairs.atoms),
        jnp.asarray(pairs.exponents.transpose(2, 1, 0)),
        jnp.asarray(pairs.coefficients.transpose(1, 2, 3, 0)),
    )


@shared_program(static_argnames="kind")
def expand_pairs(
    tables: PairTables, positions: Float[Array, "nat 3 nconf"], *, kind: PairKind
) -> Expansion:
    """Expansion of a class of pairs at positions in Bohr."""
    form = pair_form(kind)
    a, b = tables.exponents
    p = a + b
    centres, exponent, monomials = _geometry(tables, positions, kind)
    overlap = jnp.exp(exponent)
    scale = 2**0.5 * np.pi**1.25 / p
    weights = []
    for of_order in form.weights:
        factors = [
            tables.coefficients[w.row_a, w.row_b]
            * scale
            * (b / p) ** w.powers[0]
            * (a / p) ** w.powers[1]
            * (0.5 / p) ** w.powers[2]
            for w in of_order
        ]
        weights.append(jnp.stack(factors)[..., None] * overlap)
    return Expansion(p, centres, tuple(weights), monomials)


def _geometry(
    tables: PairTables, positions: Float[Array, "nat 3 nconf"], kind: PairKind
) -> tuple[
    Float[Array, "3 nprim npair nconf"],
    Float[Array, "nprim npair nconf"],
    Float[Array, "nmonomial npair nconf"],
]:
    """Centres, logarithm of what all weights of a primitive share, monomials of A - B."""
    A, B = (positions[tables.atoms[:, side]].swapaxes(0, 1) for side in range(2))
    a, b = tables.exponents
    p = a + b
    separation = A - B
    # P = A - b/p (A - B): exact where the centres coincide.
    centres = A[:, None] - (b / p)[..., None] * separation[:, None]
    exponent = -(a * b / p)[..., None] * jnp.sum(separation**2, axis=0)
    monomials = [
        _power(separation[0], i) * _power(separation[1], j) * _power(separation[2], k)
        for i, j, k in pair_form(kind).monomials
    ]
    return centres, exponent, jnp.stack(monomials)


@shared_program(static_argnames="kind")
def expansion_gradient(
    tables: PairTables,
    positions: Float[Array, "nat 3 nconf"],
    primitives: Float[Array, "4 nprim npair nconf"],
    monomials: Float[Array, "nmonomial npair nconf"],
    *,
    kind: PairKind,
) -> Float[Array, "nat 3 nconf"]:
    """Derivatives by positions from those by what an expansion is made of.

    Parameters
    ----------
    tables, positions, kind
        Of the expansion.
    primitives
        Derivatives by the logarithm of the weights and by the centres.
    monomials
        Derivatives by the monomials of A - B.
    """

    def linear(positions: Float[Array, "nat 3 nconf"]) -> Float[Array, ""]:
        centres, exponent, values = _geometry(tables, positions, kind)
        return (
            jnp.sum(primitives[0] * exponent)
            + jnp.sum(primitives[1:] * centres)
            + jnp.sum(monomials * values)
        )

    return jax.grad(linear)(positions)


def _power(x: Float[Array, "*n"], exponent: int) -> Float[Array, "*n"]:
    """Integer power as a product, whose derivative at 0 is finite."""
    result = jnp.ones_like(x)
    for _ in range(exponent):
        result = result * x
    return result
