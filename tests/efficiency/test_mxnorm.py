import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency import formats
from qmgen.efficiency.formats import Format
from qmgen.efficiency.mxnorm import MXNorm, estimated_rms, gaussian_factor, mxnorm, mxnorm_cast
from qmgen.efficiency.quantise import dequantise, fake_quantise
from qmgen.errors import InputError


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("block", "power", "published"),
    [
        *((16, 2.0, 0.4688), (32, 2.0, 0.4185), (64, 2.0, 0.3803)),
        *((16, 1.0, 0.4814), (32, 1.0, 0.4261), (64, 1.0, 0.3852)),
    ],
)
def test_factors_are_those_of_the_authors(block: int, power: float, published: float) -> None:
    assert gaussian_factor(block, power) == pytest.approx(published, abs=1e-4)


def estimate_over_rms(x: np.ndarray) -> np.ndarray:
    return np.asarray(estimated_rms(x)) / np.sqrt(np.mean(np.square(x, dtype=np.float64), -1))


@pytest.mark.parametrize(("width", "spread"), [(256, 0.053), (1024, 0.027), (4096, 0.014)])
def test_estimate_of_normal_rows(width: int, spread: float) -> None:
    ratio = estimate_over_rms(normal((1024, width)))
    assert ratio.mean() == pytest.approx(1.0, abs=0.003)
    assert ratio.std() == pytest.approx(spread, rel=0.1)


def test_estimate_of_long_tails_has_the_known_bias() -> None:
    x = np.random.default_rng(0).laplace(size=(256, 4096)).astype(np.float32)
    assert estimate_over_rms(x).mean() == pytest.approx(1.25, abs=0.03)


def test_one_hot_rows() -> None:
    x = np.zeros((2, 4096), np.float32)
    x[0, 5], x[1, 77] = 1.0, -30.0
    for power, expected in ((2.0, 27.0), (1.0, 300.0)):
        y = np.abs(np.asarray(mxnorm(x, formats.MXFP8, power))).max(-1)
        # The cast itself is good to 1 / 16.
        np.testing.assert_allclose(y, expected, rtol=0.07)
    assert not np.asarray(mxnorm(np.zeros((2, 64), np.float32))).any()


@pytest.mark.parametrize("format", [formats.NVFP4])
def test_cast_is_that_of_the_normalised_row(format: Format) -> None:
    x = normal((4, 256)) * np.float32(1000)
    cast = mxnorm_cast(x, format)
    maxima = np.abs(x).reshape(4, -1, format.granularity.sizes[0][1]).max(-1)
    c = gaussian_factor(format.granularity.sizes[0][1], 2.0)
    rms = c * np.sqrt(np.square(maxima).mean(-1, keepdims=True)) + np.float32(1e-6)
    one_scale = Format(format.element, format.scale, format.granularity)
    expected = np.asarray(fake_quantise((x / rms).astype(np.float32), one_scale))
    got = np.asarray(dequantise(cast))
    # A tie may fall either way by a rounding error of the RMS.
    assert (np.abs(got - expected) > 1e-5 * np.abs(expected)).mean() < 0.01
    np.testing.assert_array_equal(mxnorm(x, format), got)


def test_gradient_is_that_of_rms_norm() -> None:
    x, weights = normal((8, 64)), normal((8, 64), 1)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(weights * mxnorm(v))))(x)
    norm = eqx.nn.RMSNorm(64, eps=1e-12, use_weight=False, use_bias=False)
    expected = jax.jit(jax.grad(lambda v: jnp.sum(weights * jax.vmap(norm)(v))))(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_layer_and_its_folded_gain() -> None:
    layer = MXNorm(64)
    gain = np.exp2(np.arange(64) % 3).astype(np.float32)
    layer = eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(gain))
    x, weights = normal((2, 8, 64)), normal((64, 16), 1)
    plain = np.asarray(layer(jnp.asarray(x)))
    np.testing.assert_array_equal(plain, np.asarray(mxnorm(x)) * gain)
    folded = fake_quantise(gain[:, None] * weights, formats.MXFP8.along(0))
    product = layer.into(jnp.asarray(x), jnp.asarray(weights))
    expected = np.asarray(mxnorm(x)) @ np.asarray(folded)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="whole blocks"):
        mxnorm(np.ones((2, 40), np.float32))
    with pytest.raises(InputError, match="absmax"):
        mxnorm(np.ones((2, 64), np.float32), formats.FP8_143)
    with pytest.raises(InputError, match="whole blocks"):
        mxnorm(np.ones((2, 64), np.float32), formats.INT8_ABSMAX)
