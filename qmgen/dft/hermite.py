"""Hermite Gaussians: expansion of products of Gaussians, and their Coulomb integrals.

The scheme of McMurchie and Davidson, J. Comput. Phys. 26, 218 (1978), in the notation of Helgaker,
Jorgensen, Olsen, Molecular Electronic-Structure Theory (2000), chapter 9. All recursions are
unrolled while a program is traced, over arrays of any one shape.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmgen.dft.boys import boys

# Coefficients E_t of (i, j), t = 0 ... i + j.
Expansion = dict[tuple[int, int], list[Float[Array, "*n"]]]
Powers = tuple[int, int, int]


def cartesian_powers(degree: int) -> list[Powers]:
    """Powers of x, y and z in the monomials of a degree, in PySCF's order."""
    return [
        (x, y, degree - x - y) for x in range(degree, -1, -1) for y in range(degree - x, -1, -1)
    ]


def powers_up_to(max_degree: int) -> list[Powers]:
    """Powers of all degrees up to one, and orders t, u, v of Hermite Gaussians, by degree."""
    return [tuv for degree in range(max_degree + 1) for tuv in cartesian_powers(degree)]


def expansion_coefficients(
    max_i: int,
    max_j: int,
    PA: Float[Array, "*n"],
    PB: Float[Array, "*n"],
    half_inverse: Float[Array, "*n"],
) -> Expansion:
    """Coefficients E_t^ij of a product of two Gaussians along one axis in Hermite Gaussians.

    Without the factor exp(-mu (A - B)^2), so that E_0^00 = 1; by equations 9.5.6 and 9.5.7.

    Parameters
    ----------
    max_i, max_j
        Highest powers of x - A and x - B.
    PA, PB
        P - A and P - B along the axis, P being the product's centre, Bohr.
    half_inverse
        1 / (2 p), p the sum of both exponents.

    Returns
    -------
    For each (i, j) the coefficients for t = 0 to i + j.
    """
    E: Expansion = {(0, 0): [jnp.ones_like(PA)]}
    for i in range(1, max_i + 1):
        E[i, 0] = _raise_power(E[i - 1, 0], PA, half_inverse)
    for i in range(max_i + 1):
        for j in range(1, max_j + 1):
            E[i, j] = _raise_power(E[i, j - 1], PB, half_inverse)
    return E


def _raise_power(
    E: list[Float[Array, "*n"]], distance: Float[Array, "*n"], half_inverse: Float[Array, "*n"]
) -> list[Float[Array, "*n"]]:
    raised = []
    for t in range(len(E) + 1):
        terms = []
        if t > 0:
            terms.append(half_inverse * E[t - 1])
        if t < len(E):
            terms.append(distance * E[t])
        if t + 1 < len(E):
            terms.append((t + 1) * E[t + 1])
        raised.append(sum(terms[1:], terms[0]))
    return raised


def hermite_coulomb(
    boys_values: Sequence[Float[Array, "*n"]],
    exponent: Float[Array, "*n"],
    separation: tuple[Float[Array, "*n"], Float[Array, "*n"], Float[Array, "*n"]],
) -> dict[Powers, Float[Array, "*n"]]:
    """Hermite Coulomb integrals R_tuv, derivatives of F_0(a R^2) by R, without any prefactor.

    By equations 9.9.14 and 9.9.18 to 9.9.20. Only products and sums: finite with all derivatives
    where R = 0.

    Parameters
    ----------
    boys_values
        F_0 to F_L of a R^2, with L the highest total order wanted.
    exponent
        a, 1 / Bohr^2.
    separation
        R along x, y and z, Bohr.

    Returns
    -------
    R_tuv for all t + u + v <= L.
    """
    # Auxiliary integrals R^n_tuv, n = 0 ... L - t - u - v, of each total order from the last two.
    factor = jnp.ones_like(exponent)
    lowest = []
    for F in boys_values:
        lowest.append(factor * F)
        factor = factor * (-2 * exponent)
    auxiliary = {(0, 0, 0): lowest}
    for order in range(1, len(boys_values)):
        for powers in cartesian_powers(order):
            # The axis of the lowest power that is not zero leaves the shortest sums.
            axis = min((k for k in range(3) if powers[k]), key=lambda k: powers[k])
            once = _lower(powers, axis)
            values = [separation[axis] * R for R in auxiliary[once][1:]]
            if once[axis]:
                twice = auxiliary[_lower(once, axis)]
                values = [
                    v + once[axis] * R
                    for v, R in zip(values, twice[1 : len(values) + 1], strict=True)
                ]
            auxiliary[powers] = values
    return {powers: values[0] for powers, values in auxiliary.items()}


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def hermite_potential(
    max_order: int, exponent: Float[Array, "*n"], separation: Float[Array, "3 *n"]
) -> Float[Array, "nhermite *n"]:
    """R_tuv of `hermite_coulomb`, in the order of `powers_up_to`.

    The same recursion over rows, order by order, which compiles faster. Derivatives by the
    separation, of any order, are again such integrals, so that differentiated programs stay small.
    Exponents count as constants.

    Parameters
    ----------
    max_order
        Highest t + u + v.
    exponent
        a, 1 / Bohr^2.
    separation
        R along x, y and z, Bohr.
    """
    F = boys(exponent * jnp.sum(separation * separation, axis=0), max_order)
    factor = -2 * exponent
    # Rows of powers, then n of R^n_tuv.
    auxiliary = [jnp.stack([f * factor**n for n, f in enumerate(F)])[None]]
    place = {
        powers: n for order in range(max_order) for n, powers in enumerate(cartesian_powers(order))
    }
    for order in range(1, max_order + 1):
        powers = cartesian_powers(order)
        axes = [min((k for k in range(3) if p[k]), key=lambda k: p[k]) for p in powers]
        once = [_lower(p, axis) for p, axis in zip(powers, axes, strict=True)]
        rows = np.array([place[p] for p in once])
        values = separation[np.array(axes)][:, None] * auxiliary[-1][rows, 1:]
        factors = np.array([p[axis] for p, axis in zip(once, axes, strict=True)], float)
        if factors.any():
            twice = [
                place[_lower(p, axis)] if p[axis] else 0 for p, axis in zip(once, axes, strict=True)
            ]
            rest = auxiliary[-2][np.array(twice), 1 : values.shape[1] + 1]
            values += jnp.asarray(factors, values.dtype).reshape(-1, *(1,) * (rest.ndim - 1)) * rest
        auxiliary.append(values)
    return jnp.concatenate([values[:, 0] for values in auxiliary])


@hermite_potential.defjvp
def _hermite_potential_jvp(
    max_order: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    R = hermite_potential(max_order + 1, *primals)
    place = {powers: n for n, powers in enumerate(powers_up_to(max_order + 1))}
    powers = powers_up_to(max_order)
    raised = np.array(
        [[place[t + 1, u, v], place[t, u + 1, v], place[t, u, v + 1]] for t, u, v in powers]
    )
    x, y, z = (R[raised[:, axis]] * tangents[1][axis] for axis in range(3))
    return R[: len(powers)], x + y + z


def _lower(powers: Powers, axis: int) -> Powers:
    x, y, z = (p - (k == axis) for k, p in enumerate(powers))
    return x, y, z
