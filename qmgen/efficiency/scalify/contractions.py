"""Rules of products and sums: data is divided by sqrt(n), rounded down to a power of two.

So sums of n independent numbers of order 1 stay of order 1. They are made in float32 at least.
"""

import math

import jax.numpy as jnp
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from qmgen.efficiency.scalify.powers import power_of_two_below_root, product_of_scales
from qmgen.efficiency.scalify.scaled_array import ScaledArray, wide_dtype
from qmgen.efficiency.scalify.values import (
    Rule,
    Value,
    bind,
    lift,
    result_dtype,
    scaled_result,
    wide_data,
)


def _product(equation: JaxprEqn, a: ScaledArray, b: ScaledArray, count: int) -> list[Value]:
    wide = wide_dtype(result_dtype(equation))
    data = bind(equation, a.data, b.data, preferred_element_type=wide)
    scale, rest = product_of_scales(a.scale, b.scale)
    return _spread_out(equation, data * rest, scale, count)


def _spread_out(
    equation: JaxprEqn, data: Float[Array, "..."], scale: Float[Array, ""], count: int
) -> list[Value]:
    root = power_of_two_below_root(count)
    scale, rest = product_of_scales(scale, root)
    return scaled_result(equation, data * (rest / root), scale)


def dot_general(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """A product of matrices in any arrangement."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    x, y = lift(a), lift(b)
    return _product(equation, x, y, math.prod(x.shape[axis] for axis in contracted))


def convolution(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """A sum over the kernel and the input's channels."""
    x, kernel = lift(a), lift(b)
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    count = math.prod(n for axis, n in enumerate(kernel.shape) if axis != outputs)
    return _product(equation, x, kernel, count)


def _sum(equation: JaxprEqn, a: Value, count: int) -> list[Value]:
    x = lift(a)
    return _spread_out(equation, bind(equation, wide_data(x)), x.scale, count)


def reduce_sum(equation: JaxprEqn, a: Value) -> list[Value]:
    """Sum over axes."""
    return _sum(equation, a, math.prod(a.shape[axis] for axis in equation.params["axes"]))


def cumulative_sum(equation: JaxprEqn, a: Value) -> list[Value]:
    """Sum along an axis up to each place."""
    return _sum(equation, a, a.shape[equation.params["axis"]])


def window_sum(equation: JaxprEqn, a: Value) -> list[Value]:
    """Sum over windows."""
    return _sum(equation, a, math.prod(equation.params["window_dimensions"]))


def pick_by_window(equation: JaxprEqn, moved: Value, compared: Value) -> list[Value]:
    """Gradients of extremes of windows: numbers that go where others are the largest."""
    x = lift(moved)
    wide = jnp.asarray(lift(compared).data).astype(wide_dtype(x.dtype))
    return scaled_result(equation, bind(equation, wide_data(x), wide), x.scale)


RULES: dict[str, Rule] = {
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "reduce_sum": reduce_sum,
    "cumsum": cumulative_sum,
    "reduce_window_sum": window_sum,
    "select_and_scatter_add": pick_by_window,
    "select_and_gather_add": pick_by_window,
}
