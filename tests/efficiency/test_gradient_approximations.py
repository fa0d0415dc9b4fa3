import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency import formats
from qmgen.efficiency.element import E2M1, FLOAT16, INT4, NF4
from qmgen.efficiency.formats import Format
from qmgen.efficiency.gradient_approximations import (
    CastGradient,
    approximate_quantise,
    step_slope,
)
from qmgen.efficiency.quantise import block_scales, fake_quantise
from qmgen.errors import InputError


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["power", "sigmoid", "spline"])
def test_slopes_climb_each_step_once(step: str) -> None:
    # The integral over each step of the element is its height.
    for element, values in (
        (E2M1, [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]),
        (INT4, range(-7, 8)),
        (NF4, NF4.values),
    ):
        values = np.array(values, np.float64)
        inside = (np.arange(2000) + 0.5) / 2000
        u = values[:-1, None] + np.diff(values)[:, None] * inside
        slopes = np.asarray(step_slope(jnp.asarray(u, jnp.float32), element, step))
        expected = 1.0 if step != "power" else 0.593
        np.testing.assert_allclose(slopes.mean(1), expected, atol=0.01)
        assert not np.asarray(step_slope(jnp.asarray([1e3, -1e3]), element, step)).any()
        # Steepest in the middle of a step.
        assert (slopes[:, 1000] > slopes[:, 10]).all()


def test_value_is_that_of_the_cast() -> None:
    x = normal((4, 64))
    for format in (formats.MXFP4, formats.NVFP4):
        y = approximate_quantise(x, format, CastGradient("spline", "absmax"))
        np.testing.assert_allclose(y, fake_quantise(x, format), rtol=1e-6)


def test_plain_gradient_passes_straight_through() -> None:
    x, weights = normal((4, 64)), normal((4, 64), 1)
    gradient = jax.grad(lambda v: jnp.sum(weights * approximate_quantise(v, formats.NVFP4)))(x)
    np.testing.assert_allclose(gradient, weights, rtol=1e-5)


def test_scale_gradient_reaches_the_largest_number() -> None:
    # Straight-through steps: dy/dx_j = 1 and dy_i/ds = q(u_i) - u_i, with s = |x_max| / 6.
    x, weights = normal((3, 16)), normal((3, 16), 1)
    format = formats.FP4_UE5M3

    def gradient(kind: str) -> np.ndarray:
        def loss(v: jax.Array) -> jax.Array:
            return jnp.sum(weights * approximate_quantise(v, format, CastGradient(scale=kind)))

        return np.asarray(jax.jit(jax.grad(loss))(x))

    scales = np.asarray(block_scales(x, format)[0])
    u = x / scales
    error = np.asarray(fake_quantise(x, format)) / scales - u
    expected = weights.copy()
    largest = np.abs(x).argmax(1)
    rows = np.arange(3)
    expected[rows, largest] += np.sign(x[rows, largest]) / 6 * (weights * error).sum(1)
    np.testing.assert_allclose(gradient("absmax"), expected, rtol=1e-4, atol=1e-5)
    # The softmax sends as much altogether, counted along the signs.
    shared = (gradient("softmax") - weights) * np.sign(x)
    np.testing.assert_allclose(shared.sum(1), (weights * error).sum(1) / 6, rtol=1e-4, atol=1e-5)
    assert (np.abs(shared) > 0).all()


def test_bad_requests() -> None:
    x = np.ones((2, 32), np.float32)
    with pytest.raises(InputError, match="absmax"):
        approximate_quantise(x, formats.FP8_143, CastGradient(scale="absmax"))
    with pytest.raises(InputError, match="8 bits"):
        jax.grad(lambda v: approximate_quantise(v, Format(FLOAT16), CastGradient("spline")).sum())(
            x
        )
    with pytest.raises(InputError, match="key"):
        approximate_quantise(x, formats.MXFP4.with_rounding("stochastic"))
