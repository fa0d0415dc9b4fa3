"""Rescaling, casts and products in 8 bits, and optimisers with 16-bit state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from qmgen.efficiency.scalify import ScaledArray, as_scaled, scalify, unscale
from qmgen.efficiency.scalify.fp8 import fp8_matmul
from qmgen.efficiency.scalify.markers import (
    dynamic_rescale_l1,
    dynamic_rescale_l2,
    dynamic_rescale_max,
    rescale_gradient,
    saturating_cast,
)
from qmgen.efficiency.scalify.optimiser import hold_scaled
from qmgen.errors import InputError
from tests.efficiency.test_scalify_functions import compiled

RULES = {"max": dynamic_rescale_max, "l1": dynamic_rescale_l1, "l2": dynamic_rescale_l2}
NORMS = {
    "max": lambda x: np.abs(x).max(),
    "l1": lambda x: np.abs(x).mean(),
    "l2": lambda x: np.sqrt((x**2).mean()),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("norm", RULES)
def test_rescaled_to_the_norm(norm: str) -> None:
    rescale = compiled(scalify(RULES[norm]))
    for factor in (2.0**-9, 0.3, 2.0**12):
        data = jnp.asarray(normal(0, 300) * factor, jnp.float16)
        got = rescale(ScaledArray(data, np.float32(2.0**-30)))
        exact = np.asarray(data, np.float64)
        expected = 2.0 ** np.floor(np.log2(max(NORMS[norm](exact), 2.0**-14)))
        assert got.scale == expected * 2.0**-30
        np.testing.assert_array_equal(got.data, data / np.float16(expected))
        # Outside of a scalified function it does the same to a ScaledArray.
        direct = RULES[norm](ScaledArray(data, np.float32(2.0**-30)))
        assert direct.scale == got.scale
        np.testing.assert_array_equal(direct.data, got.data)


def test_what_rescaling_leaves() -> None:
    zeros = dynamic_rescale_l2(ScaledArray(np.zeros(3, np.float32), np.float32(1)))
    assert zeros.scale == 2.0**-14
    for _ in range(12):
        zeros = dynamic_rescale_l2(zeros)
    assert zeros.scale == 2.0**-126
    broken = ScaledArray(np.float32([np.inf, 1.0]), np.float32(4))
    assert dynamic_rescale_max(broken).scale == 4
    tiny = dynamic_rescale_l2(ScaledArray(np.float32([1e-20, 1e-20]), np.float32(1)))
    assert tiny.scale == 2.0**-14
    huge = dynamic_rescale_l2(ScaledArray(np.float32([1e30, 1e30]), np.float32(1)))
    assert 1 <= huge.data[0] < 2


def test_rescaling_is_the_identity_of_values() -> None:
    x = normal(0, 5, 4)

    def function(x: Any) -> Any:
        return jnp.sum(dynamic_rescale_l2(x) ** 2 * dynamic_rescale_max(jnp.sin(x)))

    def without(x: Any) -> Any:
        return jnp.sum(x**2 * jnp.sin(x))

    np.testing.assert_array_equal(dynamic_rescale_l2(x), x)
    np.testing.assert_allclose(function(x), without(x), rtol=1e-6)
    want = compiled(jax.grad(without))(x)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(compiled(jax.grad(function))(x), want)
    close(compiled(jax.vmap(jax.grad(function)))(x), want)
    scaled = ScaledArray(x * 64, np.float32(1 / 64))
    close(unscale(compiled(scalify(jax.grad(function)))(scaled)), want)
    outside = compiled(jax.grad(lambda v: unscale(scalify(function)(as_scaled(v)))))(x)
    close(outside, want)
    batched = jax.vmap(scalify(dynamic_rescale_max))(
        ScaledArray(x * np.float32([[1], [8], [64], [2], [4]]), np.ones(5, np.float32))
    )
    assert len(set(batched.scale.tolist())) > 2


def test_casts_saturate_data() -> None:
    x = np.float32([500.0, -1e9, 3.3, np.nan, -np.inf])
    got = saturating_cast(jnp.asarray(x), jnp.float8_e4m3fn)
    assert got.dtype == jnp.float8_e4m3fn
    np.testing.assert_array_equal(np.asarray(got, np.float32), [448, -448, 3.25, np.nan, -448])
    cast = scalify(lambda v: saturating_cast(v, jnp.float8_e5m2))
    scaled = cast(ScaledArray(np.float32([1.0, 3.0, 1e6]), np.float32(2.0**40)))
    assert scaled.scale == 2.0**40
    np.testing.assert_array_equal(np.asarray(scaled.data, np.float32), [1, 3, 57344])
    # All codes come back.
    codes = np.arange(256, dtype=np.uint8)
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
        values = codes.view(dtype)
        finite = np.isfinite(values.astype(np.float32))
        back = np.asarray(saturating_cast(jnp.asarray(values.astype(np.float32)), dtype))
        np.testing.assert_array_equal(back.view(np.uint8)[finite], codes[finite])


def decibel(x: np.ndarray, approximation: Any) -> float:
    error = np.asarray(unscale(approximation), np.float64) - x
    return float(10 * np.log10(np.sum(x**2) / np.sum(error**2)))


def test_products_in_8_bits_do_not_feel_the_scale() -> None:
    x, w = normal(0, 64, 128), normal(1, 128, 64)
    product = compiled(scalify(fp8_matmul))
    exact = x.astype(np.float64) @ w
    for exponent in (-24, -8, 0, 16):
        factor = np.float32(2.0**exponent)
        got = product(as_scaled(x * factor, dtype=jnp.float16), as_scaled(w, dtype=jnp.float16))
        assert got.dtype == np.float16
        assert 28 < decibel(exact * factor, got) < 29.5
    assert decibel(exact * 2.0**-24, compiled(fp8_matmul)(x * np.float32(2.0**-24), w)) < 1


def test_gradients_of_products_in_8_bits() -> None:
    """Of numbers that the formats hold, over more binades than E4M3 has, and times 2^-30."""
    x, w = (
        v.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        for v in (normal(0, 8, 32), normal(1, 32, 16))
    )
    binades = np.random.default_rng(3).integers(-11, 12, (8, 16))
    g = (normal(2, 8, 16) * 2.0**binades).astype(ml_dtypes.float8_e5m2).astype(np.float32)

    def loss(x: Any, w: Any, g: Any) -> Any:
        return jnp.sum(fp8_matmul(x, w) * g)

    tiny = ScaledArray(g, np.float32(2.0**-30))
    unit = np.float32(1)
    by_x, by_w = compiled(scalify(jax.grad(loss, (0, 1))))(
        ScaledArray(x, unit), ScaledArray(w, unit), tiny
    )
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-11)
    close(unscale(by_x), np.float64(g) @ w.T * 2.0**-30)
    close(unscale(by_w), np.float64(x).T @ g * 2.0**-30)
    np.testing.assert_array_equal(compiled(jax.grad(loss))(x, w, g * np.float32(2.0**-50)), 0)
    outside = compiled(
        jax.grad(lambda x: unscale(scalify(loss)(ScaledArray(x, unit), ScaledArray(w, unit), tiny)))
    )(x)
    close(outside, unscale(by_x))


# Adam in float16.


def moment(second: Any, gradient: Any) -> Any:
    return dynamic_rescale_l2(0.999 * second + 0.001 * gradient**2)


plain_moment = compiled(lambda second, gradient: moment(second, gradient.astype(jnp.float16)))
scaled_moment = compiled(
    lambda second, gradient: scalify(moment)(second, as_scaled(gradient, dtype=jnp.float16))
)


@pytest.mark.parametrize("size", [1e-3, 1e-4, 1e-5])
def test_second_moment_in_float16(size: float) -> None:
    gradients = size * np.random.default_rng(0).normal(size=(50, 1000))
    exact = np.zeros(1000)
    plain = jnp.zeros(1000, jnp.float16)
    scaled = as_scaled(plain)
    for gradient in gradients:
        exact = 0.999 * exact + 0.001 * gradient**2
        plain = plain_moment(plain, np.float32(gradient))
        scaled = scaled_moment(scaled, np.float32(gradient))
    assert scaled.dtype == np.float16
    assert (np.asarray(plain) == 0).all()
    values = np.asarray(unscale(scaled), np.float64)
    assert (values > 0).all()
    assert np.linalg.norm(values - exact) < 0.02 * np.linalg.norm(exact)


def test_adam_with_16_bit_state() -> None:
    """Its updates are those of float32 state, for gradients whose squares float16 can't hold."""
    parameters = {"w": jnp.asarray(normal(0, 20, 10)), "b": jnp.zeros(10)}
    exact, held = optax.adam(1e-2), hold_scaled(optax.adam(1e-2))
    state, held_state = exact.init(parameters), held.init(parameters)
    step, held_step = compiled(exact.update), compiled(held.update)
    for number in range(20):
        gradients = {"w": normal(number, 20, 10) * 1e-5 + 3e-5, "b": normal(number, 10) * 1e3}
        updates, state = step(gradients, state)
        got, new_state = held_step(gradients, held_state)
        assert jax.tree.structure(new_state) == jax.tree.structure(held_state)
        held_state = new_state
    moments = held_state[0]
    assert moments.count == 20
    for leaf in (moments.mu["w"], moments.nu["w"], moments.nu["b"]):
        assert isinstance(leaf, ScaledArray)
        assert leaf.dtype == np.float16
        assert 0.99 < np.sqrt(np.mean(np.float64(leaf.data) ** 2)) < 2.01
    for name in parameters:
        assert got[name].dtype == np.float32
        error = np.linalg.norm(got[name] - updates[name]) / np.linalg.norm(updates[name])
        assert error < 5e-3


def test_scaled_gradients_give_scaled_updates() -> None:
    held = hold_scaled(optax.adam(1e-2, eps=1e-6))
    parameters = {"w": as_scaled(normal(0, 4, 3), dtype=jnp.float16)}
    gradients = {"w": as_scaled(normal(1, 4, 3) * 1e-6, dtype=jnp.float16)}
    updates, state = held.update(gradients, held.init(parameters), parameters)
    assert isinstance(updates["w"], ScaledArray)
    assert updates["w"].dtype == np.float16
    assert isinstance(state[0].nu["w"], ScaledArray)
    # The first step of Adam has the size of the rate, but for gradients of the size of epsilon.
    g = normal(1, 4, 3) * 1e-6
    np.testing.assert_allclose(unscale(updates["w"]), -1e-2 * g / (np.abs(g) + 1e-6), rtol=1e-2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="floats are rescaled"):
        dynamic_rescale_l2(np.arange(3))
    with pytest.raises(InputError, match="cast to a float"):
        saturating_cast(jnp.ones(3), np.int8)
    with pytest.raises(InputError, match="must be floats"):
        hold_scaled(optax.adam(1e-2), np.int8).init({"w": jnp.ones(3)})


def test_gradients_that_are_rescaled_do_not_overflow() -> None:
    """Thirty factors whose mantissas leave a gradient of 1.9^30, beyond what float16 holds."""

    def layers(x: Any, factor: Any, mark: Callable[[Any], Any]) -> Any:
        for _ in range(30):
            x = mark(x) * factor
        return jnp.sum(x)

    marked = partial(layers, mark=lambda v: rescale_gradient(dynamic_rescale_l2(v)))
    bare = partial(layers, mark=dynamic_rescale_l2)
    x = as_scaled(normal(0, 8).astype(np.float16))
    factor = as_scaled(np.full(8, 1.9, np.float16), scale=1.0)
    overflown = unscale(jax.jit(scalify(jax.grad(bare)))(x, factor))
    assert not np.isfinite(overflown).all()
    found = unscale(jax.jit(scalify(jax.grad(marked)))(x, factor))
    # Each factor and product is rounded to float16, by 5e-4 at most.
    np.testing.assert_allclose(found, np.full(8, 1.9**30), rtol=60 * 5e-4)
