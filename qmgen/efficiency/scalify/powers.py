"""Powers of two: how scales are chosen, multiplied and kept within what float32 holds."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

# Both have an inverse that is a normal number, as XLA may take subnormal ones for 0.
SMALLEST = np.float32(2.0**-126)
LARGEST = np.float32(2.0**126)

_EXPONENT = np.int32(0x7F800000)
_BITS_OF = {
    name: value.view(np.int32)
    for name, value in (("smallest", SMALLEST), ("largest", LARGEST), ("one", np.float32(1.0)))
}

Scalar = Float[Array, ""]


def power_of_two_below(x: float | np.ndarray | Array) -> Float[Array, "*shape"]:
    """|x| rounded down to a power of two from 2^-126 to 2^126; 1 for infinities and NaN.

    Read off the bits, so exact, and without gradient.
    """
    bits = lax.bitcast_convert_type(jnp.asarray(x).astype(jnp.float32), jnp.int32) & _EXPONENT
    bounded = lax.clamp(_BITS_OF["smallest"], bits, _BITS_OF["largest"])
    chosen = jnp.where(bits == _EXPONENT, _BITS_OF["one"], bounded)
    return lax.bitcast_convert_type(chosen, jnp.float32)


def power_of_two_below_root(count: int) -> float:
    """sqrt(count) rounded down to a power of two; 1 for no numbers."""
    return float(2 ** ((max(count, 1).bit_length() - 1) // 2))


def split_scalar(x: Float[Array, ""] | np.ndarray) -> tuple[Scalar, Scalar]:
    """Mantissa, of magnitude 1 to below 2 and x's dtype, and power of two (float32) of a number.

    The mantissa is 0 for 0, whose power is 2^-126, and infinity or NaN for those; beyond the
    bounds of the power it is what is left.
    """
    power = power_of_two_below(x)
    wide = jnp.asarray(x).astype(np.float64 if x.dtype == np.float64 else np.float32)
    return (wide / power).astype(x.dtype), power


def product_of_scales(a: Scalar | float, b: Scalar | float) -> tuple[Scalar, Scalar]:
    """Product as a scale within bounds, and what data must be multiplied by, which is 1 as a rule.

    Scales are constants where something is differentiated: gradients go by way of the data.
    """
    scale = lax.stop_gradient(lax.clamp(SMALLEST, a * b, LARGEST))
    return scale, (a / scale) * b


def quotient_of_scales(a: Scalar, b: Scalar) -> tuple[Scalar, Scalar]:
    """Quotient, as `product_of_scales` has the product."""
    scale = lax.stop_gradient(lax.clamp(SMALLEST, a / b, LARGEST))
    return scale, (a / scale) / b


def power_of_scale(scale: Scalar, exponent: int) -> tuple[Scalar, Scalar]:
    """Integer power, as `product_of_scales` has the product."""
    result, rest = jnp.ones_like(scale), jnp.ones_like(scale)
    for bit in f"{abs(exponent):b}":
        result, more = product_of_scales(result, result)
        rest = lax.clamp(SMALLEST, rest * rest * more, LARGEST)
        if bit == "1":
            result, more = product_of_scales(result, scale)
            rest = lax.clamp(SMALLEST, rest * more, LARGEST)
    return (result, rest) if exponent >= 0 else (1 / result, 1 / rest)


def root_of_scale(scale: Scalar) -> tuple[Scalar, Scalar]:
    """Largest power of two whose square is at most a scale, and the scale over that square."""
    root = power_of_two_below(jax.lax.stop_gradient(jnp.sqrt(scale)))
    return root, scale / root / root
