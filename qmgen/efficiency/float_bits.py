"""Casts between float32 or float64 and any smaller float, on the bits.

All of it is integer arithmetic: XLA flushes subnormal numbers in float arithmetic, and its own
conversions to 8 bits may round twice.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Key, UInt

from qmgen.efficiency.element import FloatElement
from qmgen.errors import InputError

Rounding = Literal["nearest_even", "toward_zero", "up", "stochastic"]


class _Carrier(NamedTuple):
    """Layout of the dtype that values come in."""

    unsigned: jnp.dtype
    width: int
    fraction_bits: int
    bias: int


_CARRIERS = {
    jnp.dtype(jnp.float32): _Carrier(jnp.dtype(jnp.uint32), 32, 23, 127),
    jnp.dtype(jnp.float64): _Carrier(jnp.dtype(jnp.uint64), 64, 52, 1023),
}


def code_dtype(bits: int) -> jnp.dtype:
    """The smallest unsigned dtype for codes of so many bits."""
    return jnp.dtype(jnp.uint8 if bits <= 8 else jnp.uint16 if bits <= 16 else jnp.uint32)


def absmax(x: Float[Array, "..."], axes: tuple[int, ...] | None = None) -> Float[Array, "..."]:
    """Largest magnitude over some axes (all by default), 0 of none, and NaN if there is any.

    NaN is looked for by itself, as XLA's own maximum of floats loses it on the CPU (jaxlib 0.10);
    the maximum of the bits, which doesn't, takes twice as long as both.
    """
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axes, initial=0)
    unknown = jnp.max(jnp.isnan(x).astype(x.dtype), axes, initial=0)
    return jnp.where(unknown > 0, jnp.nan, largest)


def _as_unsigned(value: Array, carrier: _Carrier, most: int) -> Array:
    """Turn numbers of bits to shift by into the carrier's integers, within what a shift may be."""
    return jnp.clip(value, 0, most).astype(carrier.unsigned)


def _rounds_away(
    kept: UInt[Array, "*shape"],
    lost: UInt[Array, "*shape"],
    dropped: Integer[Array, "*shape"],
    negative: Bool[Array, "*shape"],
    rounding: Rounding,
    key: Key[Array, ""] | UInt[Array, "2"] | None,
    carrier: _Carrier,
) -> Bool[Array, "*shape"]:
    """Whether the magnitude `kept` grows by one; `lost` are the `dropped` bits cut off from it."""
    width = carrier.width
    if rounding == "toward_zero":
        return jnp.zeros(kept.shape, bool)
    if rounding == "up":
        return (lost > 0) & ~negative
    if rounding == "nearest_even":
        whole = jnp.ones_like(kept) << _as_unsigned(dropped, carrier, width - 1)
        twice = lost << 1
        return (twice > whole) | ((twice == whole) & ((kept & 1) == 1))
    if key is None:
        raise InputError("stochastic rounding needs a key; pass key=jax.random.key(...)")
    # lost / 2^dropped as a fraction of 2^width.
    chance = jnp.where(
        dropped <= width,
        lost << _as_unsigned(width - dropped, carrier, width - 1),
        lost >> _as_unsigned(dropped - width, carrier, width - 1),
    )
    return jax.random.bits(key, kept.shape, carrier.unsigned) < chance


def encode_float(
    x: Float[Array, "*shape"],
    element: FloatElement,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> UInt[Array, "*shape"]:
    """Round to the codes of a float format, bit for bit as ml_dtypes does where it has the format.

    Parameters
    ----------
    x
        float64, or what float32 holds exactly. Where the format has more fraction bits than the
        dtype, float32 is the finer one and nothing is rounded.
    rounding
        "up" is towards +infinity; "stochastic" takes one of the two neighbours at random, with the
        mean at x (to 2^-32), and numbers below the largest one stay finite or overflow likewise.
    saturate
        Clip to the largest finite number (infinities, too) instead of overflowing to infinity or
        NaN. A format without zero makes its smallest number of 0 then, and NaN otherwise.

    Raises
    ------
    InputError
        Stochastic rounding without a key.
    """
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    carrier = _CARRIERS[x.dtype]
    unsigned, width, fraction_bits, bias = carrier
    bits = lax.bitcast_convert_type(x, unsigned)
    negative = (bits >> (width - 1)) == 1
    magnitude = bits & ((1 << (width - 1)) - 1)
    field = magnitude >> fraction_bits
    fraction = magnitude & ((1 << fraction_bits) - 1)
    top = (1 << (width - 1 - fraction_bits)) - 1
    is_nan = (field == top) & (fraction > 0)
    is_infinite = (field == top) & (fraction == 0)

    # Significand with its leading bit at fraction_bits, subnormal numbers included.
    leading = lax.clz(fraction).astype(jnp.int32) - (width - 1 - fraction_bits)
    subnormal = field == 0
    significand = jnp.where(
        subnormal,
        fraction << _as_unsigned(leading, carrier, width - 1),
        fraction | (1 << fraction_bits),
    )
    exponent = jnp.where(subnormal, 1 - leading, field.astype(jnp.int32)) - bias

    m, lowest = element.fraction_bits, element.min_exponent
    binade = jnp.maximum(exponent, lowest)
    dropped = fraction_bits - m + binade - exponent
    cut = _as_unsigned(dropped, carrier, width - 1)
    kept = significand >> cut
    lost = significand - (kept << cut)
    kept += _rounds_away(kept, lost, dropped, negative, rounding, key, carrier)
    if not element.has_zero:
        kept = jnp.maximum(kept, 1 << m) - (1 << m)
    # Rounding up to the next binade carries into the exponent field by itself.
    code = ((binade - lowest).astype(unsigned) << m) + kept

    largest = element.max_code
    too_large = is_infinite | (code > largest)
    code = jnp.minimum(code, largest)
    if not saturate and element.specials != "finite":
        overflow = element.infinity_code
        if rounding == "toward_zero":
            too_large &= is_infinite
        elif rounding == "up":
            too_large &= is_infinite | ~negative
        if overflow is None:
            is_nan |= too_large
        else:
            code = jnp.where(too_large, overflow, code)
    else:
        code = jnp.where(too_large, largest, code)
    return _with_sign_and_nan(code, negative, is_nan, magnitude == 0, element, saturate).astype(
        code_dtype(element.bits)
    )


def _with_sign_and_nan(
    code: UInt[Array, "*shape"],
    negative: Bool[Array, "*shape"],
    is_nan: Bool[Array, "*shape"],
    is_zero: Bool[Array, "*shape"],
    element: FloatElement,
    saturate: bool,
) -> UInt[Array, "*shape"]:
    nan = element.nan_code
    if not element.has_zero and not saturate:
        is_nan |= is_zero
    if not element.signed:
        is_nan |= negative & ~is_zero
        return jnp.where(is_nan, 0 if nan is None else nan, code)
    sign = negative.astype(code.dtype) << (element.bits - 1)
    if nan is None:
        return jnp.where(is_nan, sign ^ (1 << (element.bits - 1)), code | sign)
    if element.specials == "fnuz":
        return jnp.where(is_nan, nan, jnp.where(code == 0, 0, code | sign))
    return jnp.where(is_nan, nan, code) | sign


def decode_float(
    codes: UInt[Array, "*shape"], element: FloatElement, dtype: np.dtype | type = np.float32
) -> Float[Array, "*shape"]:
    """Values of codes, exact in float32 (the default) and float64."""
    carrier = _CARRIERS[np.dtype(dtype)]
    unsigned, width, fraction_bits, bias = carrier
    codes = codes.astype(unsigned)
    m = element.fraction_bits
    magnitude = codes & ((1 << (element.bits - element.signed)) - 1)
    field = (magnitude >> m).astype(jnp.int32)
    fraction = magnitude & ((1 << m) - 1)
    if element.has_zero:
        significand = jnp.where(field == 0, fraction, fraction | (1 << m))
        field = jnp.maximum(field, 1)
    else:
        significand = fraction | (1 << m)

    # significand 2^(field - bias - m) in the carrier's layout.
    leading = lax.clz(significand).astype(jnp.int32) - (width - 1 - fraction_bits)
    normalised = significand << _as_unsigned(leading, carrier, width - 1)
    exponent = field - element.bias - m - leading + fraction_bits + bias
    bits = jnp.where(
        exponent >= 1,
        (_as_unsigned(exponent, carrier, 2 * bias) << fraction_bits)
        | (normalised & ((1 << fraction_bits) - 1)),
        normalised >> _as_unsigned(1 - exponent, carrier, width - 1),
    )
    bits = jnp.where(significand == 0, 0, bits)
    infinite = 2 * bias + 1 << fraction_bits
    if element.specials == "ieee":
        bits = jnp.where(magnitude > element.max_code, infinite, bits)
        is_nan = magnitude > element.max_code + 1
    elif element.specials == "fn":
        is_nan = magnitude > element.max_code
    elif element.specials == "fnuz":
        is_nan = jnp.equal(codes, 1 << (element.bits - 1))
    else:
        is_nan = jnp.zeros_like(codes, bool)
    bits = jnp.where(is_nan, infinite | (1 << (fraction_bits - 1)), bits)
    if element.signed:
        bits |= (codes >> (element.bits - 1)) << (width - 1)
    return lax.bitcast_convert_type(bits.astype(unsigned), dtype)
