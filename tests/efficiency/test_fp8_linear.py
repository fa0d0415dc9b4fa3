import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qmgen.efficiency import formats
from qmgen.efficiency.element import E4M3FN, E5M2
from qmgen.efficiency.fp8_linear import (
    FP8_AMAX,
    CastLinear,
    QuantisedLinear,
    amax_format,
    cast_linears,
    constant_scale_format,
    quantise_linears,
)
from qmgen.efficiency.quantise import block_scales, dequantise, fake_quantise, quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.efficiency.signal_to_noise import signal_to_noise_db
from qmgen.errors import InputError


def normal(shape: tuple[int, ...], seed: int = 0, exponent: int = 0) -> jax.Array:
    """Normal numbers times 2^exponent, made in NumPy as JAX would compile each step."""
    x = np.random.default_rng(seed).normal(size=shape) * 2.0**exponent
    return jnp.asarray(x.astype(np.float32))


def test_bias_is_that_of_the_paper() -> None:
    for element in (E4M3FN, E5M2):
        for seed, exponent in enumerate(range(-60, 60, 17)):
            x = normal((64,), seed, exponent)
            scale, _ = block_scales(x, amax_format(element))
            largest = float(np.abs(np.asarray(x, np.float64)).max())
            assert float(scale[0]) == 2.0 ** -np.floor(np.log2(element.max / largest))


def test_product_of_scaled_casts() -> None:
    x, weights = normal((32, 64), 0, -9), normal((64, 16), 1, 5)
    got = quantised_matmul(x, weights, FP8_AMAX)

    def cast(v: jax.Array) -> tuple[np.ndarray, float]:
        v = np.asarray(v)
        bias = np.floor(np.log2(448 / np.abs(v).max()))
        return (v * 2.0**bias).astype(ml_dtypes.float8_e4m3fn).astype(np.float64), bias

    (a, bias_a), (b, bias_b) = cast(x), cast(weights)
    np.testing.assert_allclose(got, a @ b * 2.0 ** -(bias_a + bias_b), rtol=1e-5, atol=1e-9)


def product_quality_db(exponent: int, formats: MatmulFormats) -> float:
    """SQNR of a product whose activations are normal numbers times 2^exponent."""
    x = np.asarray(normal((256, 512))) * np.float32(2.0**exponent)
    weights = np.asarray(normal((512, 256), 1))
    product = quantised_matmul(jnp.asarray(x), jnp.asarray(weights), formats)
    return float(signal_to_noise_db(jnp.asarray(x @ weights), product))


def test_amax_holds_at_every_scale() -> None:
    for exponent in range(-24, 17, 8):
        assert product_quality_db(exponent, FP8_AMAX) == pytest.approx(28.6, abs=0.2)


def test_a_constant_scale_holds_where_it_fits() -> None:
    # Of 1.4.3, as in the figures named by qmgen's acceptance, and with the scale that it wants.
    bare = MatmulFormats(formats.FP8_143, formats.FP8_143)
    for exponent, expected in ((-16, 0.0), (-8, 22.3), (0, 28.6), (8, 7.6)):
        assert product_quality_db(exponent, bare) == pytest.approx(expected, abs=0.3)
    weights = formats.FP8_143
    shifted = MatmulFormats(constant_scale_format(weights.element, 16), weights)
    assert product_quality_db(-16, shifted) == pytest.approx(28.6, abs=0.2)
    assert product_quality_db(-8, shifted) == pytest.approx(7.6, abs=0.3)


@pytest.mark.slow
def test_backward_products_have_rounded_operands() -> None:
    x, weights, gradient = normal((2, 8, 24)), normal((24, 10), 1), normal((2, 8, 10), 2, -20)
    _, pullback = jax.vjp(lambda x, w: quantised_matmul(x, w, FP8_AMAX), x, weights)
    x_gradient, weight_gradient = pullback(gradient)
    forward, backward = FP8_AMAX.activations, FP8_AMAX.gradients
    assert forward is not None
    assert backward is not None
    rounded_x, rounded_weights = fake_quantise(x, forward), fake_quantise(weights, forward)
    rounded_gradient = fake_quantise(gradient, backward)
    np.testing.assert_allclose(
        x_gradient, rounded_gradient @ rounded_weights.T, rtol=1e-5, atol=1e-11
    )
    expected = jnp.einsum("abi,abo->io", rounded_x, rounded_gradient)
    np.testing.assert_allclose(weight_gradient, expected, rtol=1e-5, atol=1e-11)


def test_blocks_follow_the_axis_that_is_summed() -> None:
    mx = MatmulFormats(formats.MXFP4, formats.MXFP4, formats.MXFP4)
    x, weights, gradient = (normal((64, 64), seed) for seed in range(3))
    product, pullback = jax.vjp(lambda x, w: quantised_matmul(x, w, mx), x, weights)
    x_gradient, weight_gradient = pullback(gradient)

    def rounded(v: jax.Array, axis: int) -> jax.Array:
        return fake_quantise(v, formats.MXFP4.along(axis))

    for got, a, b in (
        (product, rounded(x, 1), rounded(weights, 0)),
        (x_gradient, rounded(gradient, 1), rounded(weights, 1).T),
        (weight_gradient, rounded(x, 0).T, rounded(gradient, 0)),
    ):
        np.testing.assert_allclose(got, np.asarray(a) @ np.asarray(b), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_without_formats_it_is_a_product() -> None:
    x, weights = normal((8, 24)), normal((24, 10), 1)
    np.testing.assert_allclose(
        quantised_matmul(x, weights, MatmulFormats()), x @ weights, rtol=1e-5, atol=1e-5
    )
    assert quantised_matmul(x.astype(jnp.bfloat16), weights, FP8_AMAX).dtype == jnp.bfloat16


@pytest.mark.slow
def test_stochastic_gradients_are_unbiased() -> None:
    stochastic = MatmulFormats(gradients=formats.FP4_UE5M3.with_rounding("stochastic"))
    x, weights = normal((16, 32)), normal((32, 16), 1)

    def gradient(key: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(quantised_matmul(x, weights, stochastic, key) ** 2)

        return jax.grad(loss)(x)

    draws = jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(0), 400))
    exact = jnp.asarray(2 * np.asarray(x) @ np.asarray(weights) @ np.asarray(weights).T)
    one, mean = signal_to_noise_db(exact, draws[0]), signal_to_noise_db(exact, draws.mean(0))
    # 400 draws are worth 26 dB where the error has no systematic part.
    assert float(mean) > float(one) + 20
    with pytest.raises(InputError, match="key"):
        quantised_matmul(x, weights, MatmulFormats(stochastic.gradients))


@pytest.mark.slow
def test_layers_of_a_model_are_replaced_and_cast() -> None:
    model = eqx.nn.Sequential(
        [eqx.nn.Linear(16, 64, key=jax.random.key(0)), eqx.nn.Linear(64, 4, key=jax.random.key(1))]
    )
    x = normal((128, 16))
    exact = jax.jit(jax.vmap(model))(x)
    trained = quantise_linears(model, FP8_AMAX)
    assert all(isinstance(layer, QuantisedLinear) for layer in trained.layers)
    # The whole batch has one scale here, and each example its own under vmap.
    y = jax.jit(lambda v: trained.layers[0](v))(x)
    close = fake_quantise(x, amax_format(E4M3FN)) @ np.asarray(model.layers[0].weight).T
    assert float(signal_to_noise_db(close + model.layers[0].bias, y)) > 30
    expected = jax.jit(jax.vmap(trained))(x)
    activations = amax_format(E4M3FN)
    cast = cast_linears(trained, activations, activations)
    assert all(isinstance(layer, CastLinear) for layer in cast.layers)
    assert cast.layers[0].weight.codes.dtype == jnp.uint8
    # The same as while training, as the weights are rounded in the same way.
    np.testing.assert_allclose(jax.jit(jax.vmap(cast))(x), expected, rtol=1e-4, atol=1e-5)
    assert float(signal_to_noise_db(exact, expected)) > 20
    weights_only = cast_linears(model, formats.INT8_ABSMAX)
    assert float(signal_to_noise_db(exact, jax.jit(jax.vmap(weights_only))(x))) > 30
    with pytest.raises(InputError, match="key"):
        cast_linears(model, formats.MXFP4.with_rounding("stochastic"))


def test_a_model_of_quantised_layers_learns() -> None:
    layer = quantise_linears(eqx.nn.Linear(16, 4, key=jax.random.key(0)), FP8_AMAX)
    x = normal((64, 16))
    y = x @ normal((16, 4), 1)

    @eqx.filter_jit
    def step(layer: eqx.Module) -> tuple[jax.Array, eqx.Module]:
        loss, gradients = eqx.filter_value_and_grad(lambda m: jnp.mean((m(x) - y) ** 2))(layer)
        return loss, jax.tree.map(lambda w, g: w - 0.3 * g, layer, gradients)

    losses = []
    for _ in range(60):
        loss, layer = step(layer)
        losses.append(float(loss))
    # Down to what rounding leaves, 28.6 dB below the outputs' power of 16.
    assert losses[0] > 10
    assert losses[-1] < 0.05


def test_constant_scale_multiplies_by_a_power_of_two() -> None:
    x = normal((8, 8), 0, -12)
    format = constant_scale_format(E4M3FN, 12)
    expected = np.asarray(x * 2.0**12).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(quantise(x, format).codes, expected.view(np.uint8))
    np.testing.assert_array_equal(
        dequantise(quantise(x, format)), expected.astype(np.float32) * np.float32(2.0**-12)
    )
