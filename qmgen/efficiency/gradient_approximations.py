"""Gradients of a cast that know of its steps and scales, beside passing straight through.

Hu et al., 2509.17791: y = s q(x / s), where the steps of q, the scale s, which follows the block's
absmax, and the rounding of s depend on x. A tensor scale has no gradient.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.casting import decode, round_to
from qmgen.efficiency.element import Codebook, Element, FloatElement
from qmgen.efficiency.float_bits import Rounding, code_dtype
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import into_blocks, spread
from qmgen.efficiency.quantise import block_scales
from qmgen.errors import InputError

Step = Literal["straight_through", "power", "sigmoid", "spline"]
ScaleGradient = Literal["none", "absmax", "softmax"]
# Power of the step's curve, and where its slope is cut (Wang et al., 2501.17116).
_POWER, _STEEPEST = 5.0, 3.0
# Steepness of the sigmoid over a step, and the part of a step in which the spline rises.
_STEEPNESS, _RISE = 8.0, 0.5


@dataclass(frozen=True)
class CastGradient:
    """What stands in for the gradient of a cast; by default that of the identity.

    Attributes
    ----------
    step
        Of the element's steps, see `step_slope`.
    scale
        Where the scale's gradient goes: nowhere, to the largest number of the block, or to all of
        them by a softmax of their magnitudes in units of the block's RMS.
    scale_step
        Of the steps of the scale's own format.

    Raises
    ------
    InputError
        The rounding of a scale that has no gradient.
    """

    step: Step = "straight_through"
    scale: ScaleGradient = "none"
    scale_step: Step = "straight_through"

    def __post_init__(self) -> None:
        if self.scale == "none" and self.scale_step != "straight_through":
            raise InputError(
                "the rounding of a scale has no gradient where the scale has none; choose 'absmax' "
                "or 'softmax' for `scale`"
            )


STRAIGHT_THROUGH = CastGradient()


def _values_of(element: Element) -> np.ndarray:
    """All finite values in order."""
    if isinstance(element, Codebook):
        return np.array(element.values, np.float32)
    if not isinstance(element, FloatElement):
        return np.arange(element.min, element.max + 1, dtype=np.float32)
    if element.bits > 8:
        raise InputError("gradients of single steps are for elements of at most 8 bits")
    with jax.ensure_compile_time_eval():
        codes = jnp.arange(1 << element.bits, dtype=code_dtype(element.bits))
        values = np.asarray(decode(codes, element))
    return np.unique(values[np.isfinite(values)])


def step_slope(u: Float[Array, "..."], element: Element, step: Step) -> Float[Array, "..."]:
    """Derivative that stands in for that of rounding, at numbers in units of the scale.

    "straight_through" is 1 everywhere. The others are 0 beyond the largest value and steepest in
    the middle of a step: "power" is the derivative of a fifth root to both sides of it, cut at 3
    (Wang et al., 2501.17116), and 0.59 on average over a step; "sigmoid" and "spline" are those of
    a logistic curve and of a ramp in the inner half of the step, and 1 on average.
    """
    if step == "straight_through":
        return jnp.ones_like(u)
    values = jnp.asarray(_values_of(element), u.dtype)
    lower = jnp.clip(jnp.searchsorted(values, u, side="right") - 1, 0, len(values) - 2)
    # From -1 to 1 over the step.
    place = 2 * (u - values[lower]) / (values[lower + 1] - values[lower]) - 1
    distance = jnp.abs(place)
    if step == "power":
        root = jnp.maximum(distance, 1e-6) ** (1 / _POWER - 1) / _POWER
        slope = jnp.minimum(root, _STEEPEST)
    elif step == "sigmoid":
        sigmoid = jax.nn.sigmoid(_STEEPNESS * place / 2)
        slope = _STEEPNESS * sigmoid * (1 - sigmoid) / np.tanh(_STEEPNESS / 4)
    else:
        slope = jnp.where(distance <= _RISE, 1 / _RISE, 0.0)
    return jnp.where(distance <= 1, slope, 0.0).astype(u.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _round(
    u: Array, element: Element, rounding: Rounding, saturate: bool, step: Step, key: Array | None
) -> Array:
    return round_to(u, element, rounding, saturate, key)


@_round.defjvp
def _round_jvp(
    element: Element,
    rounding: Rounding,
    saturate: bool,
    step: Step,
    primals: tuple[Array, Array | None],
    tangents: tuple[Array, object],
) -> tuple[Array, Array]:
    value = _round(primals[0], element, rounding, saturate, step, primals[1])
    return value, tangents[0] * step_slope(primals[0], element, step)


@partial(jax.jit, static_argnames=("format", "gradient"))
def approximate_quantise(
    x: Float[Array, "..."],
    format: Format,
    gradient: CastGradient = STRAIGHT_THROUGH,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> Float[Array, "..."]:
    """`fake_quantise` with another gradient.

    Raises
    ------
    InputError
        The scale's gradient of a format without absmax scales; no key for stochastic rounding.
    """
    wide = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    total: Array = jnp.ones(format.granularity.scale_shape(x.shape), wide.dtype)
    scales, tensor_scale = block_scales(lax.stop_gradient(wide), format)
    if scales is not None:
        total = scales if tensor_scale is None else scales * tensor_scale
    if gradient.scale != "none":
        total = _differentiable(total, tensor_scale, wide, format, gradient)
    scale = spread(total, x.shape, format.granularity)
    rounded = _round(
        wide / scale, format.element, format.rounding, format.saturate, gradient.step, key
    )
    return (rounded * scale).astype(x.dtype)


def _differentiable(
    total: Array, tensor_scale: Array | None, x: Array, format: Format, gradient: CastGradient
) -> Array:
    """The rounded scales with the gradient of what they follow."""
    scale = format.scale
    if not isinstance(scale, ScaleFormat) or scale.statistic != "absmax":
        raise InputError("the scale of this format has no absmax whose gradient is to be taken")
    follows = _smooth_absmax(x, format, gradient.scale) / scale.target_in(format.element)
    if gradient.scale_step == "straight_through":
        slope: Array | float = 1.0
    else:
        # What was rounded is the largest magnitude's, whatever its gradient follows.
        wanted = _smooth_absmax(lax.stop_gradient(x), format, "absmax")
        wanted = wanted / scale.target_in(format.element)
        in_units = wanted if tensor_scale is None else wanted / tensor_scale
        slope = step_slope(in_units, scale.element, gradient.scale_step)
    return total + slope * (follows - lax.stop_gradient(follows))


def _smooth_absmax(x: Array, format: Format, gradient: ScaleGradient) -> Array:
    magnitudes = jnp.abs(into_blocks(x, format.granularity))
    within = tuple(range(1, 2 * x.ndim, 2))
    if gradient == "absmax":
        return jnp.max(magnitudes, within)
    rms = jnp.sqrt(jnp.mean(magnitudes**2, within, keepdims=True) + 1e-30)
    weights = jax.nn.softmax(lax.stop_gradient(magnitudes / rms), within)
    return jnp.sum(weights * magnitudes, within)
