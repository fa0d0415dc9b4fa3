"""What scalified functions give against the plain ones, over many functions and scales."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qmgen.efficiency.scalify import ScaledArray, as_scaled, scalify, unscale
from tests.efficiency.scalify_functions import FUNCTIONS, inputs

# Most of the time is compilation, and numbers are few.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=FAST)


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Equal up to a part of the largest number, wherever the plain function stays in range."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for value, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert value.shape == expected.shape
        assert value.dtype == expected.dtype
        x, y = np.asarray(value, np.float64), np.asarray(expected, np.float64)
        finite = np.isfinite(y)
        assert finite.any()
        size = np.abs(y[finite]).max()
        np.testing.assert_allclose(x[finite], y[finite], rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalified_is_plain(name: str) -> None:
    function = FUNCTIONS[name]
    both = compiled(lambda scaled, plain: (unscale(scalify(function)(*scaled)), function(*plain)))
    for exponent in (-20, -3, 0, 20):
        factor = np.float32(2.0**exponent)
        scaled = [ScaledArray(x, factor) for x in inputs()]
        assert_same(*both(scaled, [x * factor for x in inputs()]))


def test_scales_that_differ() -> None:
    """Each input at a scale of its own, chosen by its RMS."""
    factors = np.float32([2.0**-17, 2.0**9, 2.0**3, 2.0**-4])
    plain = [x * factor for x, factor in zip(inputs(), factors, strict=True)]
    scaled = as_scaled(plain)
    for array, factor in zip(scaled, factors, strict=True):
        assert factor / 2 <= array.scale <= factor
    for name in ("sum and product", "products of matrices", "perceptron, gradient", "shapes"):
        function = FUNCTIONS[name]
        assert_same(unscale(compiled(scalify(function))(*scaled)), compiled(function)(*plain))


def test_an_equinox_network() -> None:
    model = eqx.nn.MLP(6, 3, 8, 2, key=jax.random.key(0))
    x = inputs()[0] * np.float32(2.0**-12)

    def loss(model: eqx.nn.MLP, x: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(
            jax.vmap(model)(x), jnp.array([0, 1, 2, 0, 1])
        ).mean()

    step = eqx.filter_value_and_grad(loss)
    # Equinox warns of transformed functions as attributes, hence the lambda.
    scaled_step = eqx.filter_jit(lambda *arguments: scalify(step)(*arguments))
    got_loss, got = scaled_step(as_scaled(model), as_scaled(x))
    want_loss, want = eqx.filter_jit(step)(model, x)
    assert_same(unscale((got_loss, eqx.filter(got, eqx.is_array))), (want_loss, want))
    assert isinstance(got.layers[0].weight, ScaledArray)
    assert got.layers[0].weight.shape == (8, 6)


def test_without_scaled_arrays_nothing_changes() -> None:
    for name in ("sum and product", "recurrent network, gradient", "shapes", "scattered"):
        got = compiled(scalify(FUNCTIONS[name]))(*inputs())
        want = compiled(FUNCTIONS[name])(*inputs())
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for value, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(value, expected)
