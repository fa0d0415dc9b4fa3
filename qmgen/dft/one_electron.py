"""Integrals over one electron's coordinates, for all orbitals of a molecule."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmgen.dft.hermite import hermite_potential, powers_up_to
from qmgen.dft.shell_pairs import (
    PairClass,
    PairTable,
    PrimitivePairs,
    cartesian_components,
    contract,
    expand,
    hermite_weights,
    primitive_pairs,
    sum_terms,
    to_functions,
)

# Which operator acts along x, y and z: 0 for 1, 1 for x, 2 for x^2, 3 for -1/2 d^2/dx^2.
_PRODUCTS = np.array(
    [
        (0, 0, 0),
        *((3, 0, 0), (0, 3, 0), (0, 0, 3)),
        *((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)),
    ]
)


class OneElectronIntegrals(eqx.Module):
    """Matrices over orbitals, atomic units; the moments' origin is the coordinates' origin."""

    overlap: Float[Array, "nao nao"]
    kinetic: Float[Array, "nao nao"]
    nuclear_attraction: Float[Array, "nao nao"]
    dipole: Float[Array, "3 nao nao"]
    second_moment: Float[Array, "3 3 nao nao"]


def one_electron_integrals(
    table: PairTable, charges: Float[Array, " nat"], positions: Float[Array, "nat 3"]
) -> OneElectronIntegrals:
    """One-electron integrals of one conformer, by the McMurchie-Davidson scheme.

    For several conformers take it through `jax.vmap`, or `jax.lax.map` with a batch size. What a
    jitted caller does not use of the result is not computed.

    Parameters
    ----------
    table
        Pairs of shells.
    charges
        Nuclear charges, zero for padded atoms.
    positions
        Of the atoms, Bohr.

    Returns
    -------
    The matrices, zero for padded orbitals.
    """
    moments, attraction = [], []
    for pairs in table.classes:
        primitives = primitive_pairs(pairs, positions)
        moments.append(to_functions(pairs, _moments(pairs, primitives)))
        potential = _nuclear_potential(pairs, primitives, charges, positions)
        attraction.append(to_functions(pairs, potential))
    values = jnp.concatenate([jnp.concatenate(moments, 1), jnp.concatenate(attraction)[None]])
    # The last place is that of padded orbitals.
    S, T, x, y, z, xx, xy, xz, yy, yz, zz, V = jnp.pad(values, ((0, 0), (0, 1)))[:, table.source]
    return OneElectronIntegrals(
        overlap=S,
        kinetic=T,
        nuclear_attraction=V,
        dipole=jnp.stack([x, y, z]),
        second_moment=jnp.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).reshape(3, 3, *S.shape),
    )


def _moments(pairs: PairClass, primitives: PrimitivePairs) -> Float[Array, "11 ncomponent npair"]:
    """Overlap, kinetic energy, x, y, z, xx, xy, xz, yy, yz, zz between monomials' primitives.

    All are products of integrals along the axes: of 1, x, x^2 and -1/2 d^2/dx^2.
    """
    la, lb = pairs.degrees
    E = expand(pairs, primitives, more=2)
    ij = [(i, j) for i in range(la + 1) for j in range(lb + 1)]
    P, half_inverse = primitives.centre, 0.5 / primitives.exponent
    zero = jnp.zeros_like(P)
    unit, first, second, kinetic = [], [], [], []
    for i, j in ij:
        E0, E1, E2 = ([*E[i, j], zero, zero])[:3]
        unit.append(E0)
        first.append(E1 + P * E0)
        second.append(2 * E2 + 2 * P * E1 + (P * P + half_inverse) * E0)
        # The second derivative of (x - B)^j exp(-b (x - B)^2).
        b = pairs.exponent_b
        derivative = 4 * b * b * E[i, j + 2][0] - 2 * b * (2 * j + 1) * E0
        if j > 1:
            derivative = derivative + j * (j - 1) * E[i, j - 2][0]
        kinetic.append(-0.5 * derivative)
    rows = np.array([[ij.index(c) for c in axes] for axes in cartesian_components(pairs.degrees)])
    # Rows (operator, i and j, axis), of which each integral is a product of three.
    norm = primitives.prefactor * (math.pi / primitives.exponent) ** 1.5
    along = jnp.concatenate([*unit, *first, *second, *kinetic])
    x, y, z = ((len(ij) * _PRODUCTS[:, axis, None] + rows[:, axis]) * 3 + axis for axis in range(3))
    values = contract(pairs, along[x] * along[y] * (along[z] * norm))
    return jnp.concatenate([values[:1], jnp.sum(values[1:4], axis=0)[None], values[4:]])


def _nuclear_potential(
    pairs: PairClass,
    primitives: PrimitivePairs,
    charges: Float[Array, " nat"],
    positions: Float[Array, "nat 3"],
) -> Float[Array, "ncomponent npair"]:
    """Attraction by all nuclei between monomials' primitives (Helgaker, 9.9.32)."""
    order = sum(pairs.degrees)
    p, P = primitives.exponent, primitives.centre

    def add_nucleus(total: Array, nucleus: tuple[Array, Array]) -> tuple[Array, None]:
        charge, C = nucleus
        return total - charge * hermite_potential(order, p, P - C[:, None]), None

    # One nucleus after the other, so that what is added to stays in the processor's cache; a
    # derivative computes each anew for the same reason.
    start = jnp.zeros((len(powers_up_to(order)), p.size), p.dtype)
    total, _ = jax.lax.scan(jax.checkpoint(add_nucleus), start, (charges, positions))
    R = total * (2 * math.pi / p)
    weights, index = hermite_weights(pairs, primitives)
    value = sum_terms(weights, R, index)
    return contract(pairs, value)
