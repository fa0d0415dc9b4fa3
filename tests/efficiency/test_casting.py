"""Casts against ml_dtypes bit for bit, and against gfloat for what ml_dtypes lacks."""

import gfloat
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gfloat import Domain, RoundMode

from qmgen.efficiency import element as elements
from qmgen.efficiency.casting import decode, encode, round_to
from qmgen.efficiency.element import Codebook, FloatElement, IntElement
from qmgen.errors import InputError

NATIVE = {
    "bfloat16": elements.BFLOAT16,
    "float4_e2m1fn": elements.E2M1,
    "float6_e2m3fn": elements.E2M3FN,
    "float6_e3m2fn": elements.E3M2FN,
    "float8_e3m4": elements.E3M4,
    "float8_e4m3": elements.E4M3,
    "float8_e4m3b11fnuz": elements.E4M3B11FNUZ,
    "float8_e4m3fn": elements.E4M3FN,
    "float8_e4m3fnuz": elements.E4M3FNUZ,
    "float8_e5m2": elements.E5M2,
    "float8_e5m2fnuz": elements.E5M2FNUZ,
    "float8_e8m0fnu": elements.E8M0,
    "float16": elements.FLOAT16,
}
# Splits, biases and specials of no dtype: 1.3.4, 1.2.5, shifted biases, unsigned, 16 and 19 bits.
OTHERS = (
    elements.UE5M3,
    FloatElement(3, 4, 4, "fnuz"),
    FloatElement(5, 2, 9, "fn"),
    FloatElement(1, 2, 0, "finite"),
    elements.TF32,
    FloatElement(2, 5, 2, "fnuz"),
    FloatElement(4, 3, 12, "fnuz"),
    FloatElement(6, 9, 31, "ieee"),
    FloatElement(4, 4, 7, "fn", signed=False),
)


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def test_no_float_of_ml_dtypes_is_left_out() -> None:
    floats = {name for name in dir(ml_dtypes) if name.startswith(("float", "bfloat"))}
    assert floats == set(NATIVE) - {"float16"}


def codes_of(element: FloatElement) -> np.ndarray:
    return np.arange(1 << element.bits, dtype=np.uint8 if element.bits <= 8 else np.uint16)


def hard_inputs(element: FloatElement, count: int, seed: int = 0) -> np.ndarray:
    """Every value of the element, all ties and their neighbours, specials, and random numbers."""
    rng = np.random.default_rng(seed)
    values = np.asarray(decode(jnp.asarray(codes_of(element)), element))
    values = np.unique(values[np.isfinite(values)])
    # In float64, as halves of the smallest steps of float16 and bfloat16 are still float32.
    ties = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    exact = np.concatenate([values, ties, values * np.float32(2), values / np.float32(2)])
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45], np.float32)
    bits = rng.integers(0, 1 << 32, count // 2, dtype=np.uint32).view(np.float32)
    spread = np.exp2(rng.uniform(element.min_exponent - 6, element.max_exponent + 3, count // 2))
    near = (rng.normal(size=count // 2) * spread).astype(np.float32)
    up, down = np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))
    return np.concatenate([exact, up, down, special, bits, near])


def assert_same_codes(name: str, count: int, seed: int = 0) -> None:
    element, dtype = NATIVE[name], dtype_of(name)
    with np.errstate(all="ignore"):
        x = hard_inputs(element, count, seed)
        if name == "float8_e8m0fnu":
            # ml_dtypes 0.6 rounds what is between 2^-127 and 2^-126 up, even next to 2^-127.
            x = x[~((x > 2.0**-127) & (x < 1.5 * 2.0**-127))]
        expected = x.astype(dtype)
    got = np.asarray(jax.jit(lambda x: encode(x, element, saturate=False))(x))
    codes = expected.view(got.dtype)
    wrong = got != codes
    if name in ("bfloat16", "float16"):
        # NumPy keeps some of NaN's payload; that it is NaN, and its sign, is what counts.
        is_nan = np.isnan(expected)
        back = got.view(dtype)
        wrong &= ~(is_nan & np.isnan(back) & (np.signbit(back) == np.signbit(expected)))
    assert not wrong.any(), (x[wrong][:5], got[wrong][:5], codes[wrong][:5])


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn", "bfloat16"]
)
def test_encode_is_bit_exact(name: str) -> None:
    assert_same_codes(name, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_encode_is_bit_exact_over_millions(name: str) -> None:
    for seed in range(2):
        assert_same_codes(name, 1_000_000, seed)


def test_the_smallest_scale_is_rounded_to_nearest() -> None:
    x = np.array([1.0, 1.2, 1.4999, 1.5, 1.9], np.float32) * np.float32(2.0**-127)
    assert encode(jnp.asarray(x), elements.E8M0).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", NATIVE)
def test_decode_is_bit_exact_over_all_codes(name: str) -> None:
    element = NATIVE[name]
    codes = codes_of(element)
    got = np.asarray(decode(jnp.asarray(codes), element))
    with np.errstate(all="ignore"):
        expected = codes.view(dtype_of(name)).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(got[number].view(np.uint32), expected[number].view(np.uint32))
    back = np.asarray(encode(jnp.asarray(got), element, saturate=False))
    np.testing.assert_array_equal(back[number], codes[number])
    info = ml_dtypes.finfo(dtype_of(name))
    assert element.max == float(info.max)
    assert element.min_normal == float(info.smallest_normal)
    assert element.min_positive == float(info.smallest_subnormal)


def gfloat_format(element: FloatElement) -> gfloat.FormatInfo:
    nans = {"ieee": (1 << element.fraction_bits) - 1, "fn": 1, "fnuz": 0, "finite": 0}
    return gfloat.FormatInfo(
        "format",
        element.bits,
        element.fraction_bits + 1,
        bias=element.bias,
        is_signed=element.signed,
        domain=Domain.Extended if element.specials == "ieee" else Domain.Finite,
        has_nz=element.signed and element.specials != "fnuz",
        num_high_nans=nans[element.specials],
        has_subnormals=True,
        is_twos_complement=False,
    )


@pytest.mark.parametrize(
    "element",
    [*OTHERS[:4], *(pytest.param(element, marks=pytest.mark.slow) for element in OTHERS[4:])],
    ids=repr,
)
def test_other_formats_and_roundings_against_gfloat(element: FloatElement) -> None:
    info = gfloat_format(element)
    assert (info.max, info.smallest_normal) == (element.max, element.min_normal)
    inputs = np.random.default_rng(0).permutation(hard_inputs(elements.E5M2, 3000))[:1500]
    if not element.signed:
        inputs = np.abs(inputs)
    for ours, theirs, saturate in (
        ("nearest_even", RoundMode.TiesToEven, False),
        ("nearest_even", RoundMode.TiesToEven, True),
        ("toward_zero", RoundMode.TowardZero, False),
        ("up", RoundMode.TowardPositive, False),
    ):
        x = inputs
        if element.specials == "finite":
            # gfloat refuses what ml_dtypes saturates.
            x = x[np.isfinite(x)]
            x = x if saturate else x[np.abs(x) <= element.max]
        with np.errstate(all="ignore"):
            expected = gfloat.round_ndarray(info, x.astype(np.float64), theirs, saturate)
        got = np.asarray(round_to(jnp.asarray(x), element, ours, saturate))
        np.testing.assert_array_equal(got, expected)


def test_float64_is_rounded_once() -> None:
    # Through float32 the tie would lose what decides it.
    x = np.array([1.0625 + 1e-12, 1.0625 - 1e-12, 1.0625, 5e-324, 1e300, -np.inf, np.nan])
    with jax.enable_x64():
        got = np.asarray(round_to(jnp.asarray(x), elements.E4M3FN))
        fine = np.asarray(round_to(jnp.asarray(x), elements.FLOAT32, saturate=False))
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, [1.125, 1.0, 1.0, 0.0, 448.0, -448.0, np.nan])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(fine, x.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrow_inputs(name: str) -> None:
    dtype = dtype_of(name)
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    got = np.asarray(encode(jnp.asarray(x), elements.E4M3FN, saturate=False))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("element", [elements.E2M1, elements.NF4])
def test_stochastic_rounding_takes_neighbours_and_keeps_the_mean(element: elements.Element) -> None:
    x = jnp.asarray([0.3, 0.01, 0.5, 0.74], jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(jax.vmap(lambda key: round_to(x, element, "stochastic", key=key)))
    draws = np.asarray(draw(keys), np.float64)
    for i, value in enumerate(np.asarray(x, np.float64)):
        low, high = draws[:, i].min(), draws[:, i].max()
        below = float(round_to(x[i : i + 1], element, "toward_zero")[0])
        assert low == below
        # Six standard errors; a value of the format has none.
        error = 6 * (high - low) / 2 / np.sqrt(len(draws))
        assert abs(draws[:, i].mean() - value) <= error + 1e-8
        assert len(np.unique(draws[:, i])) <= 2


def test_stochastic_rounding_of_what_is_far_too_small() -> None:
    # 2^-40 of the smallest number: almost never rounded up.
    x = jnp.full(100_000, 0.5 * 2.0**-40, jnp.float32)
    assert not round_to(x, elements.E2M1, "stochastic", key=jax.random.key(0)).any()
    x = jnp.full(100_000, 0.5 * 2.0**-10, jnp.float32)
    drawn = round_to(x, elements.E2M1, "stochastic", key=jax.random.key(0))
    assert 40 < int((drawn > 0).sum()) < 180  # 98 expected


def test_integers_and_codebooks() -> None:
    x = jnp.asarray([-9.0, -7.5, -0.5, 0.5, 1.5, 2.4, 7.5, 99.0, np.nan, -np.inf])
    four = IntElement(4, symmetric=False)
    assert encode(x, four).tolist() == [-8, -8, 0, 0, 2, 2, 7, 7, 0, -8]
    assert encode(x, IntElement(4)).tolist() == [-7, -7, 0, 0, 2, 2, 7, 7, 0, -7]
    assert encode(x, IntElement(4, signed=False), "up").tolist() == [0, 0, 0, 1, 2, 3, 8, 15, 0, 0]
    inside = x[1:7]
    with np.errstate(all="ignore"):
        native = np.asarray(inside).astype(ml_dtypes.int4).astype(np.int8)
    np.testing.assert_array_equal(encode(inside, four, "toward_zero"), native)
    book = Codebook((-1.0, 0.0, 0.25, 2.0))
    assert book.bits == 2
    assert encode(jnp.asarray([-3.0, -0.6, 0.1, 0.2, 1.2, 1e9, np.nan]), book).tolist() == [
        *(0, 0, 1, 2, 3, 3, 1),
    ]
    assert round_to(jnp.asarray([-0.6, 0.0, 0.2, 1.9]), book, "toward_zero").tolist() == [
        *(0.0, 0.0, 0.0, 0.25),
    ]
    assert round_to(jnp.asarray([-0.6, 0.0, 0.2, 1.9]), book, "up").tolist() == [
        0.0,
        0.0,
        0.25,
        2.0,
    ]


def test_negative_numbers_have_no_unsigned_code() -> None:
    x = jnp.asarray([-1.0, -0.0, 3.1])
    np.testing.assert_array_equal(round_to(x, elements.UE5M3), [np.nan, 0.0, 3.0])


def test_bad_elements_and_missing_keys() -> None:
    for arguments in ((0, 3, 1), (8, 24, 127), (8, 3, 200), (5, 2, -120), (4, 0, 7)):
        with pytest.raises(InputError):
            FloatElement(*arguments)
    with pytest.raises(InputError, match="sign"):
        FloatElement(4, 3, 8, "fnuz", signed=False)
    with pytest.raises(InputError, match="bits"):
        IntElement(1)
    with pytest.raises(InputError, match="larger"):
        Codebook((0.0, 0.0))
    for element in (elements.E2M1, elements.INT8, elements.NF4):
        with pytest.raises(InputError, match="key"):
            encode(jnp.ones(2), element, "stochastic")
