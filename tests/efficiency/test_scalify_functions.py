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


def assert_same(got: Any, want: Any, tolerance: float = 1e-5, name: str = "") -> None:
    """Equal up to a part of the largest number, wherever the plain function stays in range."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for value, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (value.shape, value.dtype) == (expected.shape, expected.dtype), name
        x, y = np.asarray(value, np.float64), np.asarray(expected, np.float64)
        finite = np.isfinite(y)
        assert finite.any(), name
        size = np.abs(y[finite]).max()
        limits = {"rtol": tolerance, "atol": tolerance * size, "err_msg": name}
        np.testing.assert_allclose(x[finite], y[finite], **limits)


# Programs that take half a second and more to trace and compile.
LONG = {
    "layer norm, gradient",
    "attention",
    "attention, gradient",
    "perceptron",
    "perceptron, gradient",
    "cross-entropy, gradient",
    "recurrent network, gradient",
    "pooling, gradient",
    "spread",
    "activations",
    "shapes",
    "slices",
    "scattered",
    "branches",
    "Adam by hand",
    "AdamW of Optax",
    "root by iteration",
    "Cholesky",
    "embedding, gradient",
    "clipped",
}


SHORT = [name for name in FUNCTIONS if name not in LONG]


# Several functions to a program, as each takes its time to compile, whatever is in it.
@pytest.mark.parametrize(
    "names",
    [
        *(pytest.param(SHORT[i::4], id=f"short {i}") for i in range(4)),
        *(
            pytest.param(sorted(LONG)[i::4], id=f"long {i}", marks=pytest.mark.slow)
            for i in range(4)
        ),
    ],
)
def test_scalified_is_plain(names: list[str]) -> None:
    def both(scaled: Any, plain: Any) -> dict[str, Any]:
        return {
            name: (unscale(scalify(FUNCTIONS[name])(*scaled)), FUNCTIONS[name](*plain))
            for name in names
        }

    run = compiled(both)
    for exponent in (-20, -3, 0, 20):
        factor = np.float32(2.0**exponent)
        scaled = [ScaledArray(x, factor) for x in inputs()]
        for name, (got, want) in run(scaled, [x * factor for x in inputs()]).items():
            assert_same(got, want, name=f"{name}, inputs times 2^{exponent}")


@pytest.mark.slow
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
