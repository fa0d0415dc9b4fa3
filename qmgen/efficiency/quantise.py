"""Arrays to codes and scales in a format, and back."""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer, Key, UInt

from qmgen.efficiency.casting import decode, encode, round_to
from qmgen.efficiency.float_bits import absmax
from qmgen.efficiency.formats import FixedScale, Format, ScaleFormat
from qmgen.efficiency.granularity import (
    into_blocks,
    numbers_in_blocks,
    scale_count,
    spread,
)
from qmgen.errors import InputError

# Float arithmetic of XLA takes smaller scales for 0.
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantised:
    """An array in a format; a pytree whose leaves are the codes and scales.

    Attributes
    ----------
    codes
        Codes of the elements, in the array's shape; one to a byte even if smaller.
    scales
        Scales as numbers that the scale's format holds exactly; one for each block, along as many
        axes as the array has. Unscaled formats have none.
    tensor_scale
        Scale of all scales, if the format has one.
    format
        What codes and scales mean; not a leaf.
    """

    codes: Integer[Array, "..."]
    scales: Float[Array, "..."] | None
    tensor_scale: Float[Array, ""] | None
    format: Format = field(metadata={"static": True})


@partial(jax.jit, static_argnames="format")
def block_scales(
    x: Float[Array, "..."], format: Format
) -> tuple[Float[Array, "..."] | None, Float[Array, ""] | None]:
    """Scales of an array: one for each block, rounded to their format, and one for the tensor.

    A scale of zero, be it that a block is all zeros or that its scale underflows, becomes 1. One of
    NaN or infinities makes NaN, or the scale format's largest number, of its block alone, but of
    the whole array where there is a tensor scale.
    """
    scale = format.scale
    if scale is None:
        return None, None
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    if isinstance(scale, FixedScale):
        blocks = format.granularity.scale_shape(x.shape)
        return jnp.full(blocks, 2.0**scale.exponent, x.dtype), None
    wanted = _wanted_scales(block_statistics(x, format, scale), format, scale)
    if not format.tensor_scale:
        return _rounded_scale(wanted, scale), None
    tensor_scale = absmax(wanted) / scale.element.max
    # Rounded as it is stored, whatever the dtype of x.
    tensor_scale = tensor_scale.astype(jnp.float32).astype(x.dtype)
    tensor_scale = jnp.where(tensor_scale < _SMALLEST, 1.0, tensor_scale)
    return _rounded_scale(wanted / tensor_scale, scale), tensor_scale


def scales_for(statistics: Float[Array, "..."], format: Format) -> Float[Array, "..."]:
    """Scales, rounded to their format, of blocks that have these statistics; no tensor scale.

    Raises
    ------
    InputError
        The format has no scale that depends on the numbers.
    """
    if not isinstance(format.scale, ScaleFormat):
        raise InputError("this format has no scales that follow the numbers; use one that has")
    return _rounded_scale(_wanted_scales(statistics, format, format.scale), format.scale)


def block_statistics(
    x: Float[Array, "..."], format: Format, scale: ScaleFormat
) -> Float[Array, "..."]:
    """Absmax, RMS or signed maximum of each block, as the scale's format has it."""
    blocked = into_blocks(x, format.granularity)
    within = tuple(range(1, 2 * x.ndim, 2))
    if scale.statistic != "rms":
        largest = absmax(blocked, within)
        if scale.statistic == "absmax":
            return largest
        return jnp.where(jnp.max(blocked, within, initial=0) == largest, largest, -largest)
    mean_square = jnp.sum(blocked**2, within) / numbers_in_blocks(x.shape, format.granularity)
    return jnp.sqrt(mean_square).astype(x.dtype)


def _wanted_scales(statistics: Array, format: Format, scale: ScaleFormat) -> Array:
    magnitudes = jnp.abs(statistics)
    scales = jnp.maximum(magnitudes / scale.target_in(format.element), _SMALLEST)
    # NaN compares false and stays.
    return jnp.where(magnitudes > 0, jnp.copysign(scales, statistics), statistics)


def _rounded_scale(wanted: Array, scale: ScaleFormat) -> Array:
    rounded = round_to(jnp.abs(wanted), scale.element, scale.rounding)
    if scale.element.signed:
        rounded = jnp.copysign(rounded, wanted)
    return jnp.where((wanted == 0) | (rounded == 0), 1.0, rounded).astype(wanted.dtype)


@partial(jax.jit, static_argnames="format")
def quantise(
    x: Float[Array, "..."],
    format: Format,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
    scales: Float[Array, "..."] | None = None,
) -> Quantised:
    """Codes and scales of an array.

    Parameters
    ----------
    x
        Any shape that has the axes of the format's blocks. Inside it is float64 or float32.
    key
        For stochastic rounding.
    scales
        Instead of those from `block_scales`, one for each block.

    Raises
    ------
    InputError
        Stochastic rounding without key, an axis that the array lacks, or scales of another shape.
    """
    scaled, scales, tensor_scale = _scaled(x, format, scales)
    codes = encode(scaled, format.element, format.rounding, format.saturate, key)
    return Quantised(codes, scales, tensor_scale, format)


def _scaled(
    x: Array, format: Format, scales: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """The numbers that are rounded, and scales of blocks and of the tensor."""
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    tensor_scale = None
    if scales is None:
        scales, tensor_scale = block_scales(x, format)
    elif scales.shape != format.granularity.scale_shape(x.shape):
        raise InputError(
            f"an array of shape {x.shape} has scales of shape "
            f"{format.granularity.scale_shape(x.shape)} in this format, not {scales.shape}"
        )
    if scales is None:
        return x, None, None
    scales = _worked_out_once(scales)
    total = scales if tensor_scale is None else scales * tensor_scale
    return x / spread(total, x.shape, format.granularity), scales, tensor_scale


def _worked_out_once(scales: Array) -> Array:
    """The same numbers, which XLA doesn't work out again for each number of their blocks.

    On a CPU it takes `optimization_barrier` away, and puts all that leads to a scale into the loop
    over numbers unless what comes last is costly, as a remainder is; INT4 in blocks of 128 took
    four times as long. Only infinite scales change, to NaN, which their blocks become anyway.
    """
    return lax.rem(scales, jnp.full_like(scales, jnp.inf))


@partial(jax.jit, static_argnames="dtype")
def dequantise(quantised: Quantised, dtype: np.dtype | type = np.float32) -> Float[Array, "..."]:
    """The array that codes and scales stand for, in the codes' shape.

    dtype
        float32 or float64.
    """
    values = decode(quantised.codes, quantised.format.element, dtype)
    return _unscaled(values, quantised.format, quantised.scales, quantised.tensor_scale)


def _unscaled(
    values: Array, format: Format, scales: Array | None, tensor_scale: Array | None
) -> Array:
    if scales is None:
        return values
    total = scales.astype(values.dtype)
    if tensor_scale is not None:
        total = total * tensor_scale.astype(values.dtype)
    return values * spread(total, values.shape, format.granularity)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _fake_quantise(x: Array, format: Format, key: Array | None) -> Array:
    scaled, scales, tensor_scale = _scaled(x, format, None)
    # The values of codes, without the codes.
    values = round_to(scaled, format.element, format.rounding, format.saturate, key)
    return _unscaled(values, format, scales, tensor_scale).astype(x.dtype)


@_fake_quantise.defjvp
def _straight_through(
    format: Format, primals: tuple[Array, Array | None], tangents: tuple[Array, object]
) -> tuple[Array, Array]:
    return _fake_quantise(primals[0], format, primals[1]), tangents[0]


@partial(jax.jit, static_argnames="format")
def fake_quantise(
    x: Float[Array, "..."],
    format: Format,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> Float[Array, "..."]:
    """Round an array to a format and keep its dtype; the gradient passes straight through.

    The gradient is that of the identity for every number, clipped ones included.

    Raises
    ------
    InputError
        Stochastic rounding without key, or an axis that the array lacks.
    """
    return _fake_quantise(x, format, key)


def bits_per_element(format: Format, shape: tuple[int, ...]) -> float:
    """Bits that an array of this shape takes for each of its numbers, scales included."""
    count = max(math.prod(shape), 1)
    bits = float(format.element.bits * count)
    if isinstance(format.scale, ScaleFormat):
        bits += format.scale.element.bits * scale_count(shape, format.granularity)
    return (bits + 32 * format.tensor_scale) / count
