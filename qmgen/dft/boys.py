"""Boys function, of which all Coulomb integrals over Gaussians are made."""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Grid points per unit of t: a power of two, so that grid points and distances to them are exact.
_DENSITY = 32


def _switch(max_order: int) -> int:
    """Argument from which on the asymptotic form is used.

    It leaves out exp(-t) / (2 t), 7e-17 at most. Integrals of high angular momentum multiply F_m
    by t^(m/2), so it starts later for them.
    """
    return 33 + max_order


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
    series in t0 - t needs for the highest order at t, downward recursion again gives the others
    (Helgaker, Jorgensen, Olsen, Molecular Electronic-Structure Theory, 9.8.2). At large t the
    asymptotic form, by upward recursion. The error is below 1e-15 in float64, 3e-7 in float32.
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
    small, large = _near_grid(t, max_order), _asymptotic(t, max_order)
    is_small = t < _switch(max_order)
    return tuple(jnp.where(is_small, s, a) for s, a in zip(small, large, strict=True))


@boys.defjvp
def _boys_jvp(
    max_order: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    F = boys(*primals, max_order + 1)
    (dt,) = tangents
    return F[:-1], tuple(-f * dt for f in F[1:])


def _near_grid(t: Float[Array, "*n"], max_order: int) -> list[Float[Array, "*n"]]:
    # What the Taylor series leaves out is at most (1/64)^terms / terms! of the result.
    terms = 7 if t.dtype == jnp.float64 else 4
    length = _switch(max_order) * _DENSITY + 1
    top, decay = (jnp.asarray(a, t.dtype) for a in _table(max_order + terms - 1, length))
    inside = jnp.minimum(t, _switch(max_order))
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

    if max_order > 0:
        # XLA on a CPU computes what several results share once for each of them, but for what
        # ends in a division, exp and the like. So this divides by 1 in a way it cannot see.
        value = value / jnp.where(t < _switch(max_order), 1, t)
    values = [value]
    exp_t = jnp.exp(-inside)
    for m in range(max_order - 1, -1, -1):
        value = (2 * inside * value + exp_t) * (1 / (2 * m + 1))
        values.append(value)
    return values[::-1]


def _asymptotic(t: Float[Array, "*n"], max_order: int) -> list[Float[Array, "*n"]]:
    outside = jnp.maximum(t, _switch(max_order))
    # sqrt and division each are vector instructions; 1 / sqrt(t) written at once would become
    # rsqrt, which XLA on a CPU makes of many.
    inverse = 1 / outside
    value = jnp.sqrt(outside) * inverse * (0.5 * math.sqrt(math.pi))
    values = [value]
    for m in range(max_order):
        value = value * inverse * (m + 0.5)
        values.append(value)
    return values
