"""Boys function against its hypergeometric form in extended precision."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from qmgen.dft.boys import boys


def exact(order: int, t: np.ndarray) -> np.ndarray:
    """F_m(t) = 1F1(m + 1/2; m + 3/2; -t) / (2m + 1)."""
    with mpmath.workdps(40):
        value = [mpmath.hyp1f1(order + 0.5, order + 1.5, -mpmath.mpf(x)) for x in t.tolist()]
    return np.array([float(v) / (2 * order + 1) for v in value])


def arguments(max_order: int) -> np.ndarray:
    rng = np.random.default_rng(max_order)
    # Where the function goes over to its asymptotic form, and midway between grid points.
    switches = [first + 3.0 * max_order for first in (18, 36)]
    special = [0, 1e-300, 1e-12, 1 / 64, np.nextafter(1 / 64, 0), *switches]
    special += [np.nextafter(s, 0) for s in switches]
    return np.concatenate([special, rng.uniform(0, 60, 60), 10 ** rng.uniform(-3, 4, 40)])


# In float32 t^(m + 1/2) of the largest argument would overflow from m = 9 on.
@pytest.mark.parametrize(
    ("dtype", "tolerance", "max_order"),
    [(np.float64, 1e-15, m) for m in (0, 1, 2, 4, 8, 12, 16)]
    + [(np.float32, 3e-7, m) for m in (0, 1, 2, 4, 8)],
)
def test_agrees_with_extended_precision(max_order, dtype, tolerance):
    # F_m <= 1: a few rounding errors of numbers below 1.
    t = arguments(max_order).astype(dtype)
    values = boys(jnp.asarray(t), max_order)
    assert len(values) == max_order + 1
    for order in sorted({0, max_order // 2, max_order}):
        assert values[order].dtype == dtype
        np.testing.assert_allclose(
            values[order], exact(order, t.astype(np.float64)), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("max_order", [0, 3, 9])
def test_lowest_order_is_relatively_accurate(max_order):
    # F_0 falls only as t^(-1/2), which makes the long range of the Coulomb force.
    t = 10 ** np.linspace(-6, 12, 60)
    (f, *_), e = boys(jnp.asarray(t), max_order), exact(0, t)
    np.testing.assert_allclose(f, e, rtol=2e-15)


def test_derivatives_are_those_of_the_integral():
    # d/dt lowers the integrand by -x^2, so each derivative is an order of its own.
    t = np.array([0.0, 0.3, 7.77, 32.99, 36.5, 900.0])

    def highest(x):
        return boys(x, 2)[2]

    derivative, sign = highest, 1
    for order in (3, 4, 5):
        derivative, sign = jax.grad(derivative), -sign
        np.testing.assert_allclose(
            jax.vmap(derivative)(jnp.asarray(t)), sign * exact(order, t), rtol=0, atol=1e-15
        )


def test_forward_and_reverse_derivatives_agree():
    t = jnp.linspace(0, 50, 7)

    def weighted(t):
        return sum((m + 1) * jnp.sum(f) for m, f in enumerate(boys(t, 3)))

    np.testing.assert_allclose(jax.grad(weighted)(t), jax.jacfwd(weighted)(t), rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_any_shape(shape):
    values = boys(jnp.ones(shape), 2)
    assert [v.shape for v in values] == [shape] * 3


def test_not_a_number_stays_so():
    assert np.isnan(boys(jnp.array([jnp.nan]), 1)[0]).all()
