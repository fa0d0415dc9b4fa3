"""Hermite expansion against products of Gaussians, Hermite integrals against derivatives."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from qmgen.dft.boys import boys
from qmgen.dft.hermite import (
    cartesian_powers,
    expansion_coefficients,
    hermite_coulomb,
    powers_up_to,
)


def hermite_gaussian(t: int, p: float, x: np.ndarray) -> np.ndarray:
    """(d/dP)^t exp(-p (x - P)^2) at P = 0, by the polynomials of Hermite."""
    root = np.sqrt(p)
    return root**t * np.polynomial.hermite.hermval(root * x, [0] * t + [1]) * np.exp(-p * x * x)


@pytest.mark.parametrize(("A", "B"), [(0.4, -0.7), (0.3, 0.3)])
def test_expansion_is_the_product_of_two_gaussians(A, B):
    a, b = 0.8, 1.7
    p = a + b
    P = (a * A + b * B) / p
    x = np.linspace(-2, 2, 9)
    E = expansion_coefficients(3, 3, *(jnp.array([v]) for v in (P - A, P - B, 0.5 / p)))
    overlap = np.exp(-a * b / p * (A - B) ** 2)
    for i in range(4):
        for j in range(4):
            product = (x - A) ** i * (x - B) ** j
            product = product * np.exp(-a * (x - A) ** 2 - b * (x - B) ** 2)
            assert len(E[i, j]) == i + j + 1
            series = sum(
                np.asarray(E[i, j][t]) * hermite_gaussian(t, p, x - P) for t in range(i + j + 1)
            )
            # Rounding of sums of some terms below 100.
            np.testing.assert_allclose(overlap * series, product, rtol=0, atol=1e-12)


def coulomb(R: tuple, a: float):
    r2 = R[0] ** 2 + R[1] ** 2 + R[2] ** 2
    return mpmath.hyp1f1(0.5, 1.5, -a * r2)


@pytest.mark.parametrize("tuv", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (1, 1, 1), (2, 0, 2), (1, 3, 2)])
@pytest.mark.parametrize("R", [(0.5, -0.3, 0.9), (5.0, 3.0, -4.0), (0.0, 0.0, 0.0)])
def test_integrals_are_derivatives_of_the_lowest(tuv, R):
    a = 0.9
    order = sum(tuv)
    x = [jnp.array([c]) for c in R]
    t = a * (x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
    values = hermite_coulomb(boys(t, order), jnp.array([a]), tuple(x))
    assert set(values) == set(powers_up_to(order))
    with mpmath.workdps(60):
        exact = mpmath.diff(
            lambda *r: coulomb(r, a), tuple(mpmath.mpf(c) for c in R), tuv, h=mpmath.mpf(10) ** -7
        )
    # Central differences of step 1e-7 leave 1e-14 of higher derivatives, below 1e5 here.
    np.testing.assert_allclose(values[tuv], float(exact), rtol=1e-11, atol=1e-9)


def test_gradients_are_finite_where_centres_coincide():
    def total(r):
        x, y, z = r
        a = jnp.asarray(1.3)
        values = hermite_coulomb(boys(a * (x * x + y * y + z * z), 3), a, (x, y, z))
        return sum((k + 1) * v for k, v in enumerate(values.values()))

    at_centre = jax.grad(total)(jnp.zeros(3))
    step = 1e-5
    for axis in range(3):
        h = jnp.zeros(3).at[axis].set(step)
        difference = (total(h) - total(-h)) / (2 * step)
        # Central differences err by step^2 times third derivatives, below 1e4 here.
        np.testing.assert_allclose(at_centre[axis], difference, rtol=1e-6, atol=1e-6)


def test_order_of_powers_is_that_of_cartesian_shells():
    assert cartesian_powers(1) == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert cartesian_powers(2) == [
        (2, 0, 0),
        (1, 1, 0),
        (1, 0, 1),
        (0, 2, 0),
        (0, 1, 1),
        (0, 0, 2),
    ]
    assert len(powers_up_to(6)) == 84
