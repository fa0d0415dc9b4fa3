"""Formats: figures of the papers, rules of the standards, and JAX's transformations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from qmgen.efficiency import formats
from qmgen.efficiency.element import (
    E2M1,
    E4M3FN,
    E5M2,
    E8M0,
    INT8,
    UE5M3,
    Codebook,
    FloatElement,
)
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import PER_TENSOR, blocks_along, per_channel, tiles
from qmgen.efficiency.quantise import (
    bits_per_element,
    block_scales,
    dequantise,
    fake_quantise,
    quantise,
)
from qmgen.efficiency.signal_to_noise import relative_rms_error, signal_to_noise_db
from qmgen.errors import InputError


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Made in NumPy, as JAX would compile each step."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def quality_db(x: np.ndarray, format: Format, exponent: int = 0) -> float:
    scaled = jnp.asarray(x * np.float32(2.0**exponent))
    return float(signal_to_noise_db(scaled, fake_quantise(scaled, format)))


# Exponents of the data's scale, and SQNR in dB: the figures that qmgen's acceptance names.
FIGURES = [
    (formats.FP8_143, {-4: 31.5, 0: 31.5, 4: 31.5}),
    (formats.FP8_152, {-12: 25.5, 0: 25.5, 12: 25.5}),
    (formats.MXFP4, {-12: 18.8, 0: 18.8, 12: 18.8}),
    (formats.FP4_E4M3, {0: 20.4, -8: 11.6, -12: 0.0}),
    (formats.FP4_UE5M3, {0: 20.4, -12: 20.4, -16: 11.6}),
    (formats.NVFP4, {-24: 20.4, 0: 20.4, 16: 20.4}),
]


@pytest.mark.parametrize(("format", "figures"), FIGURES)
def test_signal_to_noise_of_normal_data(format: Format, figures: dict[int, float]) -> None:
    x = normal((1024, 128))
    for exponent, expected in figures.items():
        assert quality_db(x, format, exponent) == pytest.approx(expected, abs=0.15)


def test_int8_wins_on_normal_and_loses_on_heavy_tails() -> None:
    x = normal((1000, 1000))
    assert quality_db(x, formats.INT8_ABSMAX) == pytest.approx(38.9, abs=0.6)
    # Student's t with 3 degrees of freedom: the absmax of a million numbers is a hundred RMS.
    t3 = np.random.default_rng(1).standard_t(3, (1000, 1000)).astype(np.float32)
    assert quality_db(t3, formats.INT8_ABSMAX) < 18
    assert quality_db(t3, formats.FP8_143) == pytest.approx(31.6, abs=0.3)


# Relative RMS error of normal data, blocks of 128 with absmax scales.
@pytest.mark.parametrize(("element", "expected"), [(formats.NF4, 0.0956), (E2M1, 0.1090)])
def test_errors_of_four_bit_formats(element: formats.Element, expected: float) -> None:
    x = normal((2048, 128))
    format = Format(element, ScaleFormat(), blocks_along(128))
    assert float(relative_rms_error(x, fake_quantise(x, format))) == pytest.approx(
        expected, rel=0.01
    )


def test_rms_scale_suits_a_codebook_in_units_of_the_rms() -> None:
    # Quantiles of the normal distribution widened by sqrt(3): the density is p^(1/3).
    ppf = scipy.stats.norm.ppf(np.linspace(0, 1, 18)[1:-1]) * np.sqrt(3)
    book = Codebook(tuple(ppf.tolist()))
    format = Format(book, ScaleFormat(statistic="rms", target=1.0))
    x = normal((512, 512)) * np.float32(100)
    assert float(relative_rms_error(x, fake_quantise(x, format))) == pytest.approx(0.0976, abs=5e-4)


def test_mx_scale_is_that_of_the_standard() -> None:
    x = normal((40, 64)) * np.exp2(np.arange(-100, 100, 5, dtype=np.float32))[:, None]
    x[3], x[4, :32] = 0, 2.0**-126
    for format, emax in ((formats.MXFP8, 8), (formats.MXFP8_E5M2, 15), (formats.MXFP4, 2)):
        quantised = quantise(x, format)
        largest = np.abs(np.asarray(x, np.float64)).reshape(40, 2, 32).max(-1)
        with np.errstate(divide="ignore"):
            expected = 2.0 ** (np.floor(np.log2(largest)) - emax)
        expected = np.where(largest == 0, 1, np.maximum(expected, 2.0**-126))
        np.testing.assert_array_equal(quantised.scales, expected)
        # Elements are those of ml_dtypes after clipping.
        scaled = np.asarray(x) / np.repeat(expected.astype(np.float32), 32, 1)
        dtype = {448: ml_dtypes.float8_e4m3fn, 57344: ml_dtypes.float8_e5m2}.get(
            format.element.max, ml_dtypes.float4_e2m1fn
        )
        clipped = np.clip(scaled, -format.element.max, format.element.max)
        np.testing.assert_array_equal(quantised.codes, clipped.astype(dtype).view(np.uint8))


def test_nvfp4_scales_are_e4m3_of_sixths() -> None:
    x = normal((8, 64)) * np.float32(1e-9)
    quantised = quantise(x, formats.NVFP4)
    largest = np.abs(np.asarray(x)).reshape(8, 4, 16).max(-1)
    tensor_scale = largest.max() / 6 / 448
    np.testing.assert_allclose(quantised.tensor_scale, tensor_scale, rtol=1e-6)
    native = (largest / 6 / quantised.tensor_scale).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(quantised.scales, native.astype(np.float32))


def test_bits_per_element_counts_scales() -> None:
    assert bits_per_element(formats.MXFP4, (64, 64)) == 4.25
    assert bits_per_element(formats.MXFP8, (64, 64)) == 8.25
    assert bits_per_element(formats.NVFP4, (64, 64)) == 4.5 + 32 / 4096
    assert bits_per_element(formats.FP4_UE5M3, (3, 24)) == 4 + 8 * 6 / 72
    assert bits_per_element(formats.INT8_ABSMAX, (100,)) == 8.32
    assert bits_per_element(formats.FP8_143, (100,)) == 8
    channel = Format(INT8, ScaleFormat(), per_channel(0))
    assert bits_per_element(channel, (4, 32)) == 9


@pytest.mark.parametrize(
    ("granularity", "scale_shape"),
    [
        (PER_TENSOR, (1, 1, 1)),
        (per_channel(0), (5, 1, 1)),
        (blocks_along(8), (5, 6, 3)),
        (blocks_along(4, 1), (5, 2, 20)),
        (tiles(4, 16), (5, 2, 2)),
    ],
)
def test_every_block_has_its_scale(
    granularity: formats.Granularity, scale_shape: tuple[int, ...]
) -> None:
    format = Format(E4M3FN, ScaleFormat(), granularity)
    x = normal((5, 6, 20))
    quantised = quantise(jnp.asarray(x), format)
    assert quantised.scales is not None
    assert quantised.scales.shape == scale_shape == granularity.scale_shape(x.shape)
    block = granularity.block_shape(x.shape)
    values = np.asarray(dequantise(quantised))
    for index in np.ndindex(*scale_shape):
        where = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, block, strict=True))
        scale = np.abs(x[where]).max() / np.float32(448)
        assert quantised.scales[index] == pytest.approx(scale, rel=1e-6)
        native = (x[where] / np.asarray(quantised.scales)[index]).astype(ml_dtypes.float8_e4m3fn)
        expected = native.astype(np.float32) * np.asarray(quantised.scales)[index]
        np.testing.assert_array_equal(values[where], expected)
    assert quantise(jnp.float32(3.0), Format(E4M3FN, ScaleFormat())).codes.shape == ()
    assert fake_quantise(jnp.zeros((0, 4)), Format(E4M3FN, ScaleFormat())).shape == (0, 4)


@pytest.mark.parametrize("format", [formats.NVFP4])
def test_works_inside_jit_grad_and_vmap(format: Format) -> None:
    x = normal((6, 4, 64))
    plain = np.stack([fake_quantise(row, format) for row in x])
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda v: fake_quantise(v, format)))(x), plain)
    weights = normal((4, 64), 1)

    def loss(v: jax.Array) -> jax.Array:
        return jnp.sum(weights * fake_quantise(v, format) ** 2)

    gradient = jax.jit(jax.grad(loss))(x[0])
    np.testing.assert_allclose(gradient, 2 * weights * plain[0], rtol=1e-6)
    tangent = jax.jvp(lambda v: fake_quantise(v, format), (x[0],), (weights,))[1]
    np.testing.assert_array_equal(tangent, weights)
    codes = jax.jit(lambda v: quantise(v, format))(x)
    assert codes.format == format
    np.testing.assert_array_equal(jax.jit(dequantise)(codes), fake_quantise(x, format))


@pytest.mark.slow
def test_stochastic_formats_and_keys() -> None:
    format = formats.FP4_UE5M3.with_rounding("stochastic")
    x = normal((128, 128))
    with pytest.raises(InputError, match="key"):
        fake_quantise(x, format)
    keys = jax.random.split(jax.random.key(0), 64)
    draws = jax.jit(jax.vmap(lambda key: fake_quantise(x, format, key)))(keys)
    # A scale of absmax / 6 hardly clips, so errors average out: -10 log10(64) = 18 dB at most.
    assert float(signal_to_noise_db(x, np.asarray(draws)[0])) == pytest.approx(17.2, abs=0.3)
    draws = np.asarray(draws)
    assert float(signal_to_noise_db(x, draws.mean(0))) == pytest.approx(34, abs=0.5)
    gradient = jax.grad(lambda v, key: fake_quantise(v, format, key).sum())(x, keys[0])
    assert (gradient == 1).all()


@pytest.mark.slow
def test_dtypes_stay() -> None:
    for dtype in (ml_dtypes.bfloat16, np.float16):
        x = jnp.asarray(normal((4, 32)).astype(dtype))
        assert fake_quantise(x, formats.MXFP8).dtype == dtype
        assert quantise(x, formats.MXFP8).scales.dtype == jnp.float32
    with jax.enable_x64():
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32)))
        rounded = fake_quantise(x, formats.NVFP4)
        assert rounded.dtype == jnp.float64
        np.testing.assert_allclose(
            rounded, fake_quantise(x.astype(jnp.float32), formats.NVFP4), rtol=1e-6
        )


def test_what_is_not_finite_stays_visible() -> None:
    x = normal((4, 64))
    x[0, 3], x[1, 40] = np.nan, np.inf
    rounded = np.asarray(fake_quantise(x, formats.MXFP4))
    assert np.isnan(rounded[0, :32]).all()
    assert np.isfinite(rounded[0, 32:]).all()
    # An infinity takes its block's scale to the top; the others of the block become 0.
    assert rounded[1, 40] > 1e38
    assert (np.delete(rounded[1, 32:], 8) == 0).all()
    assert np.isfinite(rounded[2:]).all()
    assert np.isnan(np.asarray(fake_quantise(x, formats.INT8_ABSMAX))).all()
    # XLA's maximum of nothing but NaN is -infinity on the CPU.
    nothing = np.full((4, 64), np.nan, np.float32)
    for format in (formats.MXFP4, formats.INT8_ABSMAX):
        assert np.isnan(np.asarray(fake_quantise(nothing, format))).all()


def test_scales_that_vanish_become_one() -> None:
    zeros = np.zeros((2, 32), np.float32)
    for format in (formats.MXFP4, formats.NVFP4, formats.INT8_ABSMAX):
        scales, tensor_scale = block_scales(zeros, format)
        assert (np.asarray(scales) == 1).all()
        assert tensor_scale is None or tensor_scale == 1
        assert not np.asarray(fake_quantise(zeros, format)).any()
    scales, _ = block_scales(zeros + np.float32(1e-9), formats.FP4_E4M3)
    assert (np.asarray(scales) == 1).all()


def test_scales_from_elsewhere() -> None:
    x = normal((2, 64))
    scales = jnp.full((2, 2), 0.25)
    np.testing.assert_array_equal(
        dequantise(quantise(x, formats.MXFP8, scales=scales)),
        np.clip(np.asarray(x) * 4, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        / 4,
    )
    with pytest.raises(InputError, match="shape"):
        quantise(x, formats.MXFP8, scales=jnp.ones(2))


@pytest.mark.slow
def test_scale_rounding_up_never_clips() -> None:
    x = normal((256, 32)) * np.exp2(normal((256, 1), 2) * 3)
    up = ScaleFormat(UE5M3, rounding="up")
    for scale in (up, replace(up, element=E8M0)):
        quantised = quantise(x, Format(E2M1, scale, blocks_along(16)))
        bound = np.repeat(np.asarray(quantised.scales), 16, 1) * 6
        assert (np.abs(np.asarray(x)) <= bound).all()
        assert (np.abs(np.asarray(x)).max() > bound / 2.01).any()


def test_bad_formats() -> None:
    with pytest.raises(InputError, match="ScaleFormat"):
        Format(E5M2, tensor_scale=True)
    with pytest.raises(InputError, match="axis"):
        fake_quantise(jnp.ones(4), Format(E5M2, ScaleFormat(), blocks_along(2, 1)))
    with pytest.raises(InputError, match="one number"):
        blocks_along(0)
    assert hash(formats.NVFP4) == hash(replace(formats.MXFP4, **vars(formats.NVFP4)))
    assert FloatElement(5, 2, 15) == E5M2
