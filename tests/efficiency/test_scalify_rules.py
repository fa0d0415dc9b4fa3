"""Rules of single primitives: exact in float32, in range in float16, and at the ends of range."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

from qmgen.efficiency.scalify import ScaledArray, as_scaled, scalify, unscale
from qmgen.efficiency.scalify.powers import power_of_two_below, split_scalar
from qmgen.errors import InputError
from tests.efficiency.test_scalify_functions import compiled

# The first draws of a machine that is busy take long.
SLOW = [HealthCheck.too_slow]
quick = partial(settings, deadline=None, derandomize=True, suppress_health_check=SLOW)
exponents = st.integers(-40, 40)


def power(exponent: int) -> np.float32:
    return np.float32(2.0**exponent)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@quick(max_examples=50)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_numbers_split_into_mantissa_and_power(x: float) -> None:
    mantissa, scale = split_scalar(np.array(x, np.float32))
    if x == 0:
        assert (mantissa, scale) == (0, 2.0**-126)
        return
    assert np.frexp(np.float32(scale))[0] == 0.5
    assert 1 <= abs(mantissa) < (2 if abs(x) < 2.0**127 else 4)
    assert float(mantissa) * float(scale) == x


def test_powers_of_what_has_none() -> None:
    special = np.float32([np.inf, -np.inf, np.nan, 0.0, 1e-45, 3.4e38])
    expected = [1, 1, 1, 2.0**-126, 2.0**-126, 2.0**126]
    np.testing.assert_array_equal(power_of_two_below(special), np.float32(expected))


ELEMENTWISE: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "lt": operator.lt,
    "eq": operator.eq,
    "pow": lambda a, b: a**2,
    "select": lambda a, b: jnp.where(a > 0, a, b),
    "concatenate": lambda a, b: jnp.concatenate([a, b]),
    "times a number": lambda a, b: a * 0.3,
    "plus a number": lambda a, b: a + 2.5,
    "clamp": lambda a, b: jnp.clip(a, -0.7, 1.3),
}


def _elementwise(a: Any, b: Any) -> dict[str, Any]:
    return {name: function(a, b) for name, function in ELEMENTWISE.items()}


@quick(max_examples=30)
@given(exponents, exponents)
def test_float32_is_exact(i: int, j: int) -> None:
    a, b = normal(0, 40), normal(1, 40)
    got = _scaled(ScaledArray(a, power(i)), ScaledArray(b, power(j)))
    want = _plain(a * power(i), b * power(j))
    for name, expected in want.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


_scaled = compiled(lambda a, b: unscale(scalify(_elementwise)(a, b)))
_plain = compiled(_elementwise)


def test_roots_are_exact_at_odd_exponents() -> None:
    a = np.abs(normal(0, 40))
    roots = compiled(lambda x: (jnp.sqrt(x), lax.rsqrt(x)))
    scaled = compiled(scalify(lambda x: (jnp.sqrt(x), lax.rsqrt(x))))
    for exponent in (-21, -20, 0, 1, 20, 33):
        got = scaled(ScaledArray(a, power(exponent)))
        for value, expected in zip(got, roots(a * power(exponent)), strict=True):
            # XLA's own inverse root is no correctly rounded one.
            np.testing.assert_allclose(unscale(value), expected, rtol=5e-7)
            assert np.frexp(value.scale)[0] == 0.5


@quick(max_examples=8)
@given(st.tuples(*[st.sampled_from([1, 3, 64])] * 3), exponents, exponents)
def test_dot_is_bit_equal(shape: tuple[int, int, int], i: int, j: int) -> None:
    n, k, m = shape
    a, b = normal(0, n, k), normal(1, k, m)
    product = scalify(jnp.matmul)(ScaledArray(a, power(i)), ScaledArray(b, power(j)))
    expected = jnp.matmul(a * power(i), b * power(j))
    np.testing.assert_array_equal(unscale(product), expected)
    # The root of 64 is 8; those of 1 and 3 are rounded down to 1.
    assert product.scale == power(i) * power(j) * (8 if k == 64 else 1)


def test_scales_of_sums_follow_the_reference() -> None:
    x = ScaledArray(normal(0, 4, 32), power(3))
    y = ScaledArray(normal(1, 4, 32), power(5))
    assert scalify(jnp.add)(x, y).scale == 2.0**5
    assert scalify(jnp.add)(x, x).scale == 2.0**3
    # sqrt(32) is 4 and a bit, and sqrt(128) 8 and a bit.
    assert scalify(partial(jnp.sum, axis=1))(x).scale == 2.0**5
    assert scalify(jnp.sum)(x).scale == 2.0**6
    assert scalify(jnp.exp)(x).scale == 1
    for same in (jnp.negative, jnp.abs, jnp.transpose, jnp.max, jnp.sort, jnp.ravel):
        assert scalify(same)(x).scale == x.scale


# float16: what of a function is right although its plain form leaves the range.


def relative_error(got: Any, want: np.ndarray) -> float:
    difference = np.asarray(unscale(got), np.float64) - want
    return float(np.sqrt(np.mean(difference**2) / np.mean(want**2)))


HALF: dict[str, Callable[[Any, Any], Any]] = {
    "mean square": lambda x, w: jnp.mean(x * x),
    "product": lambda x, w: x @ w,
    "twice": lambda x, w: (x @ w) @ w.T,
    "square of the norm": lambda x, w: jnp.sum(x**2, -1),
    "cumulative": lambda x, w: jnp.cumsum(jnp.abs(x), 1),
    "largest square": lambda x, w: jnp.max(x, 1) ** 2,
    "rows of a table": lambda x, w: x[np.array([1, 1, 0])] * x[0],
}


def _half(x: Any, w: Any) -> dict[str, Any]:
    return {name: function(x, w) for name, function in HALF.items()}


_half_plain, _half_scaled = compiled(_half), compiled(scalify(_half))


@pytest.mark.parametrize("exponent", [-26, 16])
def test_float16_beyond_its_range(exponent: int) -> None:
    x, w = (v.astype(np.float16) for v in (normal(0, 8, 256), normal(1, 256, 16)))
    scaled = [ScaledArray(jnp.asarray(v), power(k)) for v, k in ((x, exponent), (w, 0))]
    got = _half_scaled(*scaled)
    with np.errstate(over="ignore"):
        plain = _half_plain((np.float32(x) * power(exponent)).astype(np.float16), w)
    with jax.enable_x64(True):
        want = _half(jnp.float64(x) * 2.0**exponent, jnp.float64(w))
    for name, expected in want.items():
        assert got[name].dtype == np.float16
        assert relative_error(got[name], np.asarray(expected)) < 2e-3, name
        wrong = relative_error(plain[name].astype(jnp.float32), np.asarray(expected))
        assert not wrong < 0.05, name


def test_gradient_in_float16() -> None:
    """Means over many small numbers: each gradient is below float16's smallest number."""
    x = normal(0, 64, 256)

    def loss(x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.maximum(x, 0.1 * x) ** 2)

    half = x.astype(np.float16)
    got = compiled(scalify(jax.grad(loss)))(ScaledArray(jnp.asarray(half), power(-14)))
    assert got.dtype == np.float16
    assert got.scale.shape == ()
    with jax.enable_x64(True):
        want = np.asarray(jax.grad(loss)(jnp.asarray(half, jnp.float64) * 2.0**-14))
    assert np.abs(want).max() < 2.0**-24
    assert relative_error(got, want) < 2e-3


def test_masks_cost_no_precision() -> None:
    """The -65504 of a mask is 65536 times larger than what it is put beside."""
    x = normal(0, 16, 16)
    half = ScaledArray(jnp.asarray(x, jnp.float16), power(-4))
    seen = np.tril(np.ones((16, 16), bool))

    def masked(x: jax.Array) -> jax.Array:
        return jnp.where(seen, x, jnp.finfo(x.dtype).min)

    got = unscale(scalify(masked)(half))
    np.testing.assert_allclose(got[seen], unscale(half)[seen], rtol=1e-3)
    assert (got[~seen] == -65504).all()
    np.testing.assert_array_equal(
        unscale(scalify(lambda x: jnp.where(seen, x, -jnp.inf))(half))[~seen], -np.inf
    )


def test_bfloat16_and_float8_data() -> None:
    x = normal(0, 16, 64)
    for dtype, tolerance in ((jnp.bfloat16, 1e-2), (jnp.float8_e4m3fn, 1e-1)):
        scaled = as_scaled(x * power(-30), dtype=dtype)
        assert scaled.dtype == dtype
        got = scalify(lambda v: lax.dot(v, v.T, preferred_element_type=jnp.float32))(scaled)
        assert got.dtype == np.float32
        assert relative_error(got, (x @ x.T).astype(np.float64) * 2.0**-60) < tolerance


# The ends of range.


def test_scales_stay_in_range() -> None:
    x = np.float32([0.0, 1.5, -1.0])
    tiny, huge = ScaledArray(x, power(-100)), ScaledArray(x, power(100))
    square = scalify(jnp.square)
    assert square(tiny).scale >= 2.0**-126
    np.testing.assert_array_equal(unscale(square(tiny)), 0)
    np.testing.assert_array_equal(unscale(square(huge)), [0, np.inf, np.inf])
    # What cancels is right although plain float32 gives NaN.
    ratio = scalify(lambda a, b: (a * a) / (b * b))
    for value in (tiny, huge):
        np.testing.assert_array_equal(unscale(ratio(value, value))[1:], 1)
    np.testing.assert_array_equal(unscale(scalify(lambda a, b: a * b)(tiny, huge)), x**2)
    for exponent in (20, 100):
        eighth = unscale(scalify(lambda a: a**8)(ScaledArray(x, power(exponent))))
        np.testing.assert_array_equal(eighth, [0, np.inf, np.inf])
    np.testing.assert_array_equal(unscale(scalify(lambda a: a**-8)(tiny)), np.inf)


def test_numbers_that_are_not_finite_stay() -> None:
    x = ScaledArray(np.float32([np.inf, np.nan, 1.0]), power(-20))
    got = scalify(lambda a: (a * 2.0 + 1.0, jnp.isfinite(a), jnp.maximum(a, 0.0), a / 0.0))(x)
    want = (lambda a: (a * 2.0 + 1.0, jnp.isfinite(a), jnp.maximum(a, 0.0), a / 0.0))(
        jnp.float32([np.inf, np.nan, power(-20)])
    )
    for value, expected in zip(unscale(got), want, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_comparisons_below_float32() -> None:
    """Of one array, or with 0, where unscaled numbers would all be 0."""
    x = ScaledArray(jnp.float16([0.001, -0.002, 0.0]), power(-126))
    np.testing.assert_array_equal(scalify(lambda a: a > 0)(x), [True, False, False])
    np.testing.assert_array_equal(scalify(lambda a: a == jnp.max(a))(x), [True, False, False])


# Primitives without a rule.


def test_what_depends_on_the_dtype_sees_it() -> None:
    x = jnp.float16([1.0, -2.5, 3.0])
    scaled = ScaledArray(x / 4, power(2))
    bits = scalify(lambda a: lax.bitcast_convert_type(a, jnp.uint16))(scaled)
    np.testing.assert_array_equal(bits, lax.bitcast_convert_type(x, jnp.uint16))

    def called(a: jax.Array) -> jax.Array:
        return jax.pure_callback(_doubled, jax.ShapeDtypeStruct(a.shape, a.dtype), a)

    np.testing.assert_array_equal(unscale(scalify(called)(scaled)), 2 * x)


def _doubled(a: Any) -> np.ndarray:
    assert a.dtype == np.float16
    return np.asarray(a) * np.float16(2)


def test_functions_of_float16_are_computed_in_float32() -> None:
    """Their results are rounded to it once, at scale 1."""
    x = ScaledArray(jnp.linspace(-4.0, 4.0, 33, dtype=jnp.float16), power(0))
    got = scalify(lambda a: (jnp.exp(a), jnp.arctan2(a, jnp.float16(0.5)), lax.erf_inv(a / 5)))(x)
    wide = np.linspace(-4.0, 4.0, 33)
    np.testing.assert_allclose(unscale(got[0]), np.exp(wide), rtol=1e-3)
    np.testing.assert_allclose(unscale(got[1]), np.arctan2(wide, 0.5), rtol=1e-3)
    assert all(part.scale == 1 and part.dtype == np.float16 for part in got)


# Making and unmaking.


def test_as_scaled_keeps_values() -> None:
    tree = {"a": normal(0, 50) * power(-33), "zeros": np.zeros(3, np.float32), "n": np.arange(3)}
    scaled = as_scaled(tree)
    assert 0.5 < np.sqrt(np.mean(scaled["a"].data ** 2)) < 2
    np.testing.assert_array_equal(unscale(scaled)["a"], tree["a"])
    assert scaled["zeros"].scale == 2.0**-126
    assert scaled["n"] is tree["n"]
    again = as_scaled(scaled, dtype=jnp.bfloat16)
    assert (again["a"].dtype, again["a"].scale) == (jnp.bfloat16, scaled["a"].scale)
    assert as_scaled(np.float32([3.0]), scale=5.0).scale == 4
    for extreme in (np.float32([1e38, -3e38]), np.float32([1e-37, 2e-38]), np.float32([np.inf, 1])):
        np.testing.assert_array_equal(unscale(as_scaled(extreme)), extreme)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="floats"):
        as_scaled(np.ones(3, np.float32), dtype=np.int8)
    with pytest.raises(InputError, match="positive"):
        as_scaled(np.ones(3, np.float32), scale=0.0)
    with pytest.raises(InputError, match="use as_scaled, or vmap"):
        scalify(jnp.abs)(ScaledArray(np.ones(3, np.float32), np.ones(3, np.float32)))
    with pytest.raises(InputError, match="float32 scalar, not float16"):
        scalify(jnp.abs)(ScaledArray(np.ones(3, np.float32), np.float16(1)))
    with pytest.raises(InputError, match="array of floats"):
        scalify(jnp.abs)(ScaledArray(np.ones(3, np.int32), np.float32(1)))


def test_what_depends_on_nothing_scaled_imposes_no_scale() -> None:
    """By the label's logit the gradient is -1 / n and float16 loses what is small beside it."""
    rows, classes = 2**14, 8
    logits = 3 * normal(0, rows, classes)
    labels = np.random.default_rng(1).integers(0, classes, rows)

    def loss(x: Any, y: Any) -> Any:
        picked = jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)
        return -jnp.mean(picked.astype(jnp.float32))

    exact = np.asarray(jax.jit(jax.grad(loss))(logits, labels))
    half = logits.astype(np.float16)
    plain = np.asarray(jax.jit(jax.grad(loss))(half, labels), np.float32)
    found = compiled(scalify(jax.grad(loss)))(as_scaled(half), labels)
    error = np.linalg.norm(unscale(found) - exact) / np.linalg.norm(exact)
    # Three roundings to float16, of 5e-4 at most each.
    assert error < 1.5e-3
    assert np.mean(np.asarray(found.data) == 0) < 1e-3 < np.mean(plain == 0)
