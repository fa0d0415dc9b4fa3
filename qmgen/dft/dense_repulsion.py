"""All two-electron integrals of a small molecule at once, differentiable any number of times.

The scheme of `qmgen.dft.electron_repulsion` without screening, tiles or loops whose length is only
known at run time. Memory grows as the fourth power of the number of primitives.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmgen.dft.hermite import hermite_potential, powers_up_to
from qmgen.dft.shell_pairs import (
    PairClass,
    PairTable,
    PrimitivePairs,
    contract,
    hermite_weights,
    primitive_pairs,
    shell_transform,
)


def dense_electron_repulsion(
    table: PairTable, positions: Float[Array, "nat 3"]
) -> Float[Array, "nao nao nao nao"]:
    """Integrals (ij|kl) of one conformer, Hartree.

    Parameters
    ----------
    table
        Pairs of shells.
    positions
        Of the atoms, Bohr.
    """
    primitives = [primitive_pairs(pairs, positions) for pairs in table.classes]
    expansions = [_expansion(*both) for both in zip(table.classes, primitives, strict=True)]
    blocks: dict[tuple[int, int], Array] = {}
    for i, bra in enumerate(table.classes):
        for j, ket in enumerate(table.classes[: i + 1]):
            block = _class_integrals(
                (bra, primitives[i], expansions[i]), (ket, primitives[j], expansions[j])
            )
            blocks[i, j], blocks[j, i] = block, block.T
    number = range(len(table.classes))
    matrix = jnp.concatenate([jnp.concatenate([blocks[i, j] for j in number], 1) for i in number])
    # The last place is that of padded orbitals.
    matrix = jnp.pad(matrix, ((0, 1), (0, 1)))
    return matrix[table.source[:, :, None, None], table.source[None, None]]


def _expansion(
    pairs: PairClass, primitives: PrimitivePairs
) -> Float[Array, "ncomponent nhermite nprim"]:
    """Products of monomials' primitives in Hermite Gaussians, without the terms left out."""
    weights, index = hermite_weights(pairs, primitives)
    nterm, ncomponent = index.shape
    empty = jnp.zeros((ncomponent, len(powers_up_to(sum(pairs.degrees))), weights.shape[2]))
    component = np.broadcast_to(np.arange(ncomponent), (nterm, ncomponent))
    return empty.at[component, index].add(weights)


# Pairs, their primitives, and what `_expansion` makes of both.
_Side = tuple[PairClass, PrimitivePairs, Array]


def _class_integrals(bra: _Side, ket: _Side) -> Float[Array, "nbra nket"]:
    """Integrals between two classes, each side flattened as `PairTable` says."""
    (pairs_a, of_a, E_a), (pairs_b, of_b, E_b) = bra, ket
    orders = sum(pairs_a.degrees), sum(pairs_b.degrees)
    p, q = of_a.exponent[:, None], of_b.exponent[None, :]
    separation = of_a.centre[:, :, None] - of_b.centre[:, None, :]
    R = hermite_potential(sum(orders), p * q / (p + q), separation)
    norm = 2 * math.pi**2.5 / (p * q * jnp.sqrt(p + q))
    place = {tuv: n for n, tuv in enumerate(powers_up_to(sum(orders)))}
    total = jnp.zeros(())
    for k, powers in enumerate(powers_up_to(orders[1])):
        rows = [
            place[h[0] + powers[0], h[1] + powers[1], h[2] + powers[2]]
            for h in powers_up_to(orders[0])
        ]
        half = norm * jnp.einsum("chp,hpq->cpq", E_a, R[np.array(rows)], precision="highest")
        half = contract(pairs_a, half.swapaxes(1, 2))
        # Component of the ket, of the bra, primitive pair of the ket, pair of the bra.
        total = total + (-1) ** sum(powers) * E_b[:, k][:, None, :, None] * half
    whole = contract(pairs_b, total.swapaxes(2, 3))
    T_a, T_b = (
        np.kron(
            *(shell_transform(d, kind) for d, kind in zip(side.degrees, side.kinds, strict=True))
        )
        for side in (pairs_a, pairs_b)
    )
    result = jnp.einsum("cf,dg,dcab->fagb", T_a, T_b, whole, precision="highest")
    return result.reshape(result.shape[0] * result.shape[1], -1)
