"""What the interpreter computes with, and how one kind of value becomes another."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from qmgen.efficiency.scalify.powers import LARGEST, SMALLEST, power_of_two_below, split_scalar
from qmgen.efficiency.scalify.scaled_array import (
    ScaledArray,
    as_scaled,
    is_float,
    unscale,
    wide_dtype,
)


@dataclass(frozen=True)
class Filled:
    """One number all over a shape, kept so that its power of two can be split off.

    `number` may be wider than `dtype`, which it is rounded to after that.
    """

    number: Array | np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype


Value = Array | np.ndarray | ScaledArray | Filled
# Of an equation and its operands; where it contains jaxprs, of the interpreter first.
Rule = Callable[..., list[Value]]


def is_number(value: Value) -> bool:
    """Whether a value is one number, be it repeated."""
    return isinstance(value, Filled) or (not isinstance(value, ScaledArray) and value.ndim == 0)


def known_number(value: Value) -> float | None:
    """The number that a value is, if that is known while tracing."""
    number = value.number if isinstance(value, Filled) else value
    return float(number) if isinstance(number, np.ndarray) and number.ndim == 0 else None


def plain(value: Value) -> Array | np.ndarray:
    """The array that a value is, in its own dtype."""
    if isinstance(value, ScaledArray):
        return unscale(value, value.dtype)
    if isinstance(value, Filled):
        return jnp.broadcast_to(jnp.asarray(value.number).astype(value.dtype), value.shape)
    return value


def unscaled(value: Value) -> Array | np.ndarray:
    """The array that a value is, scaled ones in float32 or float64."""
    return unscale(value) if isinstance(value, ScaledArray) else plain(value)


def lift(value: Value) -> ScaledArray:
    """A value with a scale: numbers have theirs split off, arrays get that of their RMS.

    With a scale of 1 an array of small numbers, such as a gradient that depends on nothing scaled,
    would impose that on all that it is added to.
    """
    if isinstance(value, ScaledArray):
        return value
    if not is_number(value):
        return as_scaled(value)
    number = value.number if isinstance(value, Filled) else value
    mantissa, power = split_scalar(number)
    return ScaledArray(jnp.broadcast_to(mantissa.astype(value.dtype), value.shape), power)


def wide_data(value: ScaledArray) -> Float[Array, "*shape"]:
    """Data as what it is computed in."""
    return jnp.asarray(value.data).astype(wide_dtype(value.dtype))


def data_at(value: ScaledArray, scale: Float[Array, ""]) -> Float[Array, "*shape"]:
    """Data that stands for the same at another scale, wide."""
    data = wide_data(value)
    return data if value.scale is scale else data * (value.scale / scale)


def larger_scale(scales: Sequence[Float[Array, ""]]) -> Float[Array, ""]:
    """The largest of some scales; the same object if they all are."""
    different = {id(scale): scale for scale in scales}
    if len(different) == 1:
        return scales[0]
    return lax.stop_gradient(reduce(lax.max, different.values()))


def at_common_scale(values: Sequence[Value]) -> tuple[list[Array], Float[Array, ""]]:
    """Data of some values, of which one is scaled at least, at the largest of their scales.

    A number such as the -65504 of a mask doesn't impose its own scale: it only needs to stay
    below the largest of the dtype.
    """
    dtype = next(v.dtype for v in values if isinstance(v, ScaledArray))
    scales = [least for v in values if (least := _least_scale(v, dtype)) is not None]
    scale = larger_scale(scales)
    return [_at_scale(value, scale).astype(dtype) for value in values], scale


def _least_scale(value: Value, dtype: np.dtype) -> Float[Array, ""] | None:
    if isinstance(value, ScaledArray):
        return value.scale
    if not is_number(value):
        return lift(value).scale
    known = known_number(value)
    if known is not None and (known == 0 or not math.isfinite(known)):
        return None
    number = jnp.asarray(_number(value))
    # A mantissa rounded up to 2 must fit, too.
    largest = float(jnp.finfo(dtype).max)
    room = 2.0 ** (math.frexp(min(largest, float(LARGEST)))[1] - 2)
    least = lax.clamp(SMALLEST, power_of_two_below(number) / room, LARGEST)
    return jnp.where((number == 0) | ~jnp.isfinite(number), SMALLEST, least)


def _at_scale(value: Value, scale: Float[Array, ""]) -> Array:
    if isinstance(value, ScaledArray):
        return data_at(value, scale)
    array = value.number if isinstance(value, Filled) else value
    data = jnp.asarray(array).astype(wide_dtype(array.dtype)) / scale
    return jnp.broadcast_to(data, value.shape)


def bind(equation: JaxprEqn, *operands: Any, **changes: Any) -> Any:
    """Apply an equation's primitive to arrays, with other parameters where told."""
    functions, parameters = (), equation.primitive.get_bind_params(equation.params)
    if isinstance(parameters, tuple):
        # As JAX had it before 0.10.
        functions, parameters = parameters
    return equation.primitive.bind(*functions, *operands, **{**parameters, **changes})


def results(equation: JaxprEqn, done: Any) -> list[Any]:
    """What `bind` gave as a list, also where there is one result only."""
    return list(done) if equation.primitive.multiple_results else [done]


def aval_of(atom: Any) -> Any:
    """Shape and dtype of what an equation takes or gives."""
    return atom.aval


def result_dtype(equation: JaxprEqn) -> np.dtype:
    """Dtype of the first result."""
    return aval_of(equation.outvars[0]).dtype


def scaled_result(
    equation: JaxprEqn, data: Float[Array, "*shape"], scale: Float[Array, ""]
) -> list[Value]:
    """One result of an equation in its dtype."""
    return [ScaledArray(data.astype(result_dtype(equation)), scale)]


def without_filled(value: Value) -> Array | np.ndarray | ScaledArray:
    """A value that is a pytree."""
    return plain(value) if isinstance(value, Filled) else value


def filled_result(equation: JaxprEqn, operands: Sequence[Value]) -> Filled | None:
    """The result of an equation that spreads, reshapes or casts one number, as such."""
    if not operands or not equation.outvars or not is_float(aval_of(equation.outvars[0])):
        return None
    shape, dtype = aval_of(equation.outvars[0]).shape, aval_of(equation.outvars[0]).dtype
    first = operands[0]
    name = equation.primitive.name
    if name == "convert_element_type" and is_number(first):
        return Filled(_converted(_number(first), dtype), shape, dtype)
    if name == "broadcast_in_dim" and is_number(first):
        return Filled(_number(first), shape, dtype)
    if name in _KEEPS_NUMBER and isinstance(first, Filled):
        return Filled(first.number, shape, dtype)
    return None


_KEEPS_NUMBER = {"reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "stop_gradient"}


def _number(value: Any) -> Array | np.ndarray:
    """The number that a value is all over."""
    return value.number if isinstance(value, Filled) else value


def _converted(number: Array | np.ndarray, dtype: np.dtype) -> Array | np.ndarray:
    """A number for a dtype, but not rounded to a narrow one yet."""
    if isinstance(number, np.ndarray):
        with np.errstate(over="ignore"):
            return number.astype(wide_dtype(dtype))
    return lax.convert_element_type(number, wide_dtype(dtype))
