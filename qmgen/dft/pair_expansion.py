"""Products of orbitals of two shells as sums of Hermite Gaussians, for repulsion integrals."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.hermite import cartesian_powers, expansion_coefficients, hermite_powers
from qmgen.dft.orbitals import polynomial_coefficients
from qmgen.dft.repulsion_pairs import PairKind, ShellKind


class Expansion(NamedTuple):
    """Products of orbitals as sums of Hermite Gaussians; padding has zero coefficients."""

    exponents: Float[Array, "npair nprim"]
    centres: Float[Array, "3 npair nprim"]
    coefficients: Float[Array, "npair ncomponent nhermite nprim"]


class PairTables(NamedTuple):
    """A `PairClass` as a program takes it."""

    atoms: Int[Array, "npair 2"]
    exponents: Float[Array, "npair nprim 2"]
    coefficients: Float[Array, "npair nla nlb nprim"]


@partial(jax.jit, static_argnames="kind")
def expand_pairs(
    pairs: PairTables, positions: Float[Array, "nat 3"], *, kind: PairKind
) -> Expansion:
    """Hermite expansion of the products of a class's orbitals (Helgaker et al., 9.5.6-7).

    The factor 2^(1/2) pi^(5/4) / p of a repulsion integral is part of the coefficients.
    """
    A, B = positions[pairs.atoms[:, 0]], positions[pairs.atoms[:, 1]]
    a, b = pairs.exponents[..., 0], pairs.exponents[..., 1]
    p = a + b
    inverse_p = 1 / p
    separation = (A - B)[:, None, :]
    # P - A = -b / p (A - B): exact where the centres coincide.
    to_a, to_b = -(b * inverse_p)[..., None] * separation, (a * inverse_p)[..., None] * separation
    centres = A[:, None, :] + to_a
    scale = jnp.exp(-a * b * inverse_p * jnp.sum(separation**2, axis=-1))
    scale = scale * inverse_p * (2**0.5 * np.pi**1.25)

    axes = [
        expansion_coefficients(
            max(kind.a.angular), max(kind.b.angular), to_a[..., x], to_b[..., x], 0.5 * inverse_p
        )
        for x in range(3)
    ]
    zero = jnp.zeros_like(p)
    hermites = hermite_powers(kind.max_l)
    components = []
    for row, ia in _cartesian_functions(kind.a):
        for column, ib in _cartesian_functions(kind.b):
            weight = pairs.coefficients[:, row, column] * scale
            Ex, Ey, Ez = (axes[x][ia[x], ib[x]] for x in range(3))
            for t, u, v in hermites:
                present = t < len(Ex) and u < len(Ey) and v < len(Ez)
                components.append(weight * Ex[t] * Ey[u] * Ez[v] if present else zero)
    stacked = jnp.stack(components).reshape(
        len(_cartesian_functions(kind.a)),
        len(_cartesian_functions(kind.b)),
        len(hermites),
        *p.shape,
    )
    Ta, Tb = (jnp.asarray(_to_orbitals(k), p.dtype) for k in (kind.a, kind.b))
    E = jnp.einsum("abhnk,ai,bj->nijhk", stacked, Ta, Tb)
    E = E.reshape(p.shape[0], kind.ncomponent, len(hermites), p.shape[1])
    return Expansion(p, jnp.moveaxis(centres, -1, 0), E)


def _cartesian_functions(kind: ShellKind) -> list[tuple[int, tuple[int, int, int]]]:
    """Row of coefficients and powers of x, y, z of each Cartesian function of a shell."""
    return [
        (row, powers)
        for row, degree in enumerate(kind.angular)
        for powers in cartesian_powers(degree)
    ]


@lru_cache(maxsize=64)
def _to_orbitals(kind: ShellKind) -> Float[np.ndarray, "ncart norbital"]:
    """Orbitals of a shell over its Cartesian functions."""
    blocks = [polynomial_coefficients(x, x in kind.cartesian) for x in kind.angular]
    result = np.zeros((sum(len(b) for b in blocks), kind.norbital))
    i = j = 0
    for block in blocks:
        result[i : i + block.shape[0], j : j + block.shape[1]] = block
        i, j = i + block.shape[0], j + block.shape[1]
    return result
