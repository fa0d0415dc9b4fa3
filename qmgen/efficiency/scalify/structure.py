"""Rules of primitives that move numbers, or choose some of them, and so keep the scale."""

import math

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from qmgen.efficiency.scalify.scaled_array import ScaledArray, is_float
from qmgen.efficiency.scalify.values import (
    Rule,
    Value,
    at_common_scale,
    bind,
    data_at,
    larger_scale,
    lift,
    plain,
    results,
    scaled_result,
)


def on_data(equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Apply to the data of the first operand; results that aren't floats, such as places, stay."""
    first, *others = operands
    if not isinstance(first, ScaledArray):
        first = lift(first)
    done = results(equation, bind(equation, first.data, *(plain(v) for v in others)))
    return [ScaledArray(v, first.scale) if is_float(v) else v for v in done]


def each_on_data(equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Apply to the data of all operands, each of which becomes one result."""
    arrays = [v.data if isinstance(v, ScaledArray) else plain(v) for v in operands]
    done = results(equation, bind(equation, *arrays))
    return [
        ScaledArray(after, before.scale) if isinstance(before, ScaledArray) else after
        for before, after in zip(operands, done, strict=True)
    ]


def gather(equation: JaxprEqn, operand: Value, places: Value) -> list[Value]:
    """Numbers at places; what fills places outside is a value, unless it is 0 or not finite."""
    x = lift(operand)
    fill = equation.params["fill_value"]
    if fill is None or fill == 0 or not math.isfinite(fill):
        return [ScaledArray(bind(equation, x.data, plain(places)), x.scale)]
    inside = bind(equation, jnp.ones(x.shape, bool), plain(places), fill_value=False)
    taken = ScaledArray(bind(equation, x.data, plain(places), fill_value=0.0), x.scale)
    (kept, filled), scale = at_common_scale([taken, jnp.asarray(fill, x.dtype)])
    return scaled_result(equation, jnp.where(inside, kept, filled), scale)


def at_largest_scale(equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Bring all floats among the operands to the largest of their scales, then apply."""
    floats = [v for v in operands if is_float(v)]
    data, scale = at_common_scale(floats)
    remaining = iter(data)
    arrays = [next(remaining) if is_float(v) else plain(v) for v in operands]
    return scaled_result(equation, bind(equation, *arrays), scale)


def scatter_add(equation: JaxprEqn, operand: Value, places: Value, updates: Value) -> list[Value]:
    """Sums at places, in float32 at least."""
    x, y = lift(operand), lift(updates)
    scale = larger_scale([x.scale, y.scale])
    difference = equation.primitive.name == "scatter-sub"
    added = -data_at(y, scale) if difference else data_at(y, scale)
    data = lax.scatter_add(
        data_at(x, scale),
        plain(places),
        added,
        equation.params["dimension_numbers"],
        indices_are_sorted=equation.params["indices_are_sorted"],
        unique_indices=equation.params["unique_indices"],
        mode=equation.params["mode"],
    )
    return scaled_result(equation, data, scale)


_ON_DATA = (
    "abs argmax argmin broadcast_in_dim copy copy_p cummax cummin dynamic_slice expand_dims "
    "is_finite neg reduce_max reduce_min reduce_precision reduce_window_max reduce_window_min "
    "reshape rev sharding_constraint slice split squeeze stop_gradient top_k transpose"
)
_AT_LARGEST_SCALE = (
    "clamp concatenate dynamic_update_slice max min pad scatter scatter_max scatter_min "
    "scatter-max scatter-min select_n"
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ON_DATA.split(), on_data),
    **dict.fromkeys(_AT_LARGEST_SCALE.split(), at_largest_scale),
    "sort": each_on_data,
    "optimization_barrier": each_on_data,
    "gather": gather,
    "scatter-add": scatter_add,
    "scatter-sub": scatter_add,
}
