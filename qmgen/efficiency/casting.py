"""From numbers to the codes of an element and back, without scales."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Key, UInt

from qmgen.efficiency.element import Codebook, Element, FloatElement, IntElement
from qmgen.efficiency.float_bits import Rounding, code_dtype, decode_float, encode_float
from qmgen.errors import InputError


@partial(jax.jit, static_argnames=("element", "rounding", "saturate"))
def encode(
    x: Float[Array, "*shape"],
    element: Element,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> Integer[Array, "*shape"]:
    """Round to an element and return codes; see `encode_float` for the options.

    Integers and codebooks always saturate; a number halfway between two codebook values goes to the
    lower one. Codes of integers are signed if the element is, all others unsigned.

    Raises
    ------
    InputError
        Stochastic rounding without a key.
    """
    if isinstance(element, FloatElement):
        return encode_float(x, element, rounding, saturate, key)
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    if isinstance(element, IntElement):
        dtype = code_dtype(element.bits)
        signed = {1: jnp.int8, 2: jnp.int16}[dtype.itemsize]
        rounded = _rounded_to_integer(x, element, rounding, key)
        return rounded.astype(signed if element.signed else dtype)
    return _encode_codebook(x, element, rounding, key)


@partial(jax.jit, static_argnames=("element", "dtype"))
def decode(
    codes: Integer[Array, "*shape"], element: Element, dtype: np.dtype | type = np.float32
) -> Float[Array, "*shape"]:
    """Values of codes as float32 (the default) or float64."""
    if isinstance(element, FloatElement):
        return decode_float(codes, element, dtype)
    if isinstance(element, IntElement):
        return codes.astype(dtype)
    return jnp.asarray(np.array(element.values), dtype)[codes]


def round_to(
    x: Float[Array, "*shape"],
    element: Element,
    rounding: Rounding = "nearest_even",
    saturate: bool = True,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> Float[Array, "*shape"]:
    """The values of `encode`: float64 of float64 and float32 of all else."""
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    if isinstance(element, IntElement):
        # XLA's conversion to bytes and back takes four times as long as all else.
        return _rounded_to_integer(x.astype(dtype), element, rounding, key)
    return decode(encode(x, element, rounding, saturate, key), element, dtype)


def _uniform(x: Array, key: Array | None) -> Array:
    if key is None:
        raise InputError("stochastic rounding needs a key; pass key=jax.random.key(...)")
    return jax.random.uniform(key, x.shape, x.dtype)


def _rounded_to_integer(
    x: Float[Array, "*shape"],
    element: IntElement,
    rounding: Rounding,
    key: Key[Array, ""] | UInt[Array, "2"] | None,
) -> Float[Array, "*shape"]:
    if rounding == "nearest_even":
        rounded = jnp.round(x)
    elif rounding == "toward_zero":
        rounded = jnp.trunc(x)
    elif rounding == "up":
        rounded = jnp.ceil(x)
    else:
        below = jnp.floor(x)
        rounded = below + (_uniform(x, key) < x - below)
    return jnp.where(jnp.isnan(x), 0, jnp.clip(rounded, element.min, element.max))


def _encode_codebook(
    x: Float[Array, "*shape"],
    element: Codebook,
    rounding: Rounding,
    key: Key[Array, ""] | UInt[Array, "2"] | None,
) -> UInt[Array, "*shape"]:
    values = np.array(element.values)
    middles = (values[1:] + values[:-1]) / 2
    nearest_zero = int(np.abs(values).argmin())
    # Ten times as fast as a search where the codebook is small.
    method = "compare_all" if len(values) <= 64 else "scan_unrolled"
    if rounding == "nearest_even":
        codes = jnp.searchsorted(jnp.asarray(middles, x.dtype), x, side="left", method=method)
    else:
        table = jnp.asarray(values, x.dtype)
        lower = jnp.clip(
            jnp.searchsorted(table, x, side="right", method=method) - 1, 0, len(values) - 2
        )
        lost = (x - table[lower]) / (table[lower + 1] - table[lower])
        if rounding == "toward_zero":
            goes_up = jnp.where(x < 0, lost > 0, lost >= 1)
        elif rounding == "up":
            goes_up = lost > 0
        else:
            goes_up = _uniform(x, key) < lost
        codes = lower + goes_up
    return jnp.where(jnp.isnan(x), nearest_zero, codes).astype(code_dtype(element.bits))
