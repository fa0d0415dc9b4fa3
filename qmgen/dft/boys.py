"""Boys function, of which all Coulomb integrals over Gaussians are made."""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmgen.dft.staging import stage

# Grid points per unit of t: a power of two, so that grid points and distances to them are exact.
_DENSITY = 32


def _switch(max_order: int, dtype: jnp.dtype) -> int:
    """Argument from which on the highest order's asymptotic form is used.

    It leaves out exp(-t) / (2 t), which downward recursion multiplies by (2 t)^m / (2m - 1)!!: less
    than a rounding error of F_0 from here on.
    """
    return (36 if dtype == jnp.float64 else 18) + 3 * max_order


@lru_cache(maxsize=32)
def _table(order: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """F_order and exp(-t) at the grid's points.

    By the series F_m(t) = exp(-t) sum_k (2t)^k / ((2m + 1) (2m + 3) ... (2m + 2k + 1)), whose
    terms are all positive, in extended precision.
    """
    t = np.arange(length).astype(np.longdouble) / _DENSITY
    term = np.full(length, 1, np.longdouble) / (2 * order + 1)
    total = np.zeros(length, np.longdouble)
    k = 0
    while np.any(term > 1e-22 * total):
        total += term
        k += 1
        term = term * (2 * t) / (2 * order + 2 * k + 1)
    decay = np.exp(-t)
    return (decay * total).astype(np.float64), decay.astype(np.float64)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def boys(t: Float[Array, "*n"], max_order: int) -> tuple[Float[Array, "*n"], ...]:
    """Boys function F_m(t), the integral of x^(2m) exp(-t x^2) over x from 0 to 1.

    From a table at the nearest grid point t0: downward recursion gives the orders that the Taylor
    series in t0 - t needs for the highest order at t (Helgaker, Jorgensen, Olsen, Molecular
    Electronic-Structure Theory, 9.8.2), at large t the asymptotic form does. Downward recursion
    again gives the others. The error is below 1e-15 in float64, 3e-7 in float32.
    Derivatives of any order are exact, dF_m / dt = -F_(m+1).

    Parameters
    ----------
    t
        Arguments, not negative.
    max_order
        Highest order m.

    Returns
    -------
    F_0 to F_max_order.
    """
    highest, exp_t = stage(partial(_highest, max_order=max_order))(t)
    values = [highest]
    # Stable for all t, as all terms are positive.
    for m in range(max_order - 1, -1, -1):
        values.append((2 * t * values[-1] + exp_t) * (1 / (2 * m + 1)))
    return tuple(values[::-1])


@boys.defjvp
def _boys_jvp(
    max_order: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    F = boys(*primals, max_order + 1)
    (dt,) = tangents
    return F[:-1], tuple(-f * dt for f in F[1:])


def _highest(
    t: Float[Array, "*n"], max_order: int
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """F_max_order(t) and exp(-t)."""
    # What the Taylor series leaves out is at most (1/64)^terms / terms! of the result.
    terms = 7 if t.dtype == jnp.float64 else 4
    switch = _switch(max_order, t.dtype)
    top, decay = (
        jnp.asarray(a, t.dtype) for a in _table(max_order + terms - 1, switch * _DENSITY + 1)
    )
    inside = jnp.minimum(t, switch)
    nearest = (inside * _DENSITY + 0.5).astype(jnp.int32)
    t0 = nearest.astype(t.dtype) * (1 / _DENSITY)
    # mode "clip" keeps a NaN in t from reading outside the table.
    F = top.at[nearest].get(mode="clip")
    exp_t0 = decay.at[nearest].get(mode="clip")
    d = t0 - inside

    # F_(max_order + k)(t0) for k = terms - 1 ... 0, then Horner's rule over k.
    at_grid = [F]
    for m in range(max_order + terms - 2, max_order - 1, -1):
        F = (2 * t0 * F + exp_t0) * (1 / (2 * m + 1))
        at_grid.append(F)
    value = at_grid[0]
    for k, F in zip(range(terms - 1, 0, -1), at_grid[1:], strict=True):
        value = F + value * d * (1 / k)

    # sqrt and division each are vector instructions; 1 / sqrt(t) written at once would become
    # rsqrt, which XLA on a CPU makes of many.
    outside = jnp.maximum(t, switch)
    inverse = 1 / outside
    asymptotic = jnp.sqrt(outside) * inverse * (0.5 * math.sqrt(math.pi))
    for m in range(max_order):
        asymptotic = asymptotic * inverse * (m + 0.5)
    return jnp.where(t < switch, value, asymptotic), jnp.exp(-t)
