"""Rules of primitives that compute with each number by itself.

All of them compute in float32 (or float64) and round once. Two powers of two cancel exactly, so
that in float32 the results are those of the plain function but for numbers near the ends of range.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from qmgen.efficiency.scalify.powers import (
    power_of_scale,
    product_of_scales,
    quotient_of_scales,
    root_of_scale,
)
from qmgen.efficiency.scalify.scaled_array import ScaledArray, is_float, wide_dtype
from qmgen.efficiency.scalify.values import (
    Rule,
    Value,
    bind,
    data_at,
    known_number,
    larger_scale,
    lift,
    result_dtype,
    scaled_result,
    unscaled,
    wide_data,
)


def multiply(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """Multiply data and scales separately."""
    x, y = lift(a), lift(b)
    scale, rest = product_of_scales(x.scale, y.scale)
    return scaled_result(equation, wide_data(x) * wide_data(y) * rest, scale)


def square(equation: JaxprEqn, a: Value) -> list[Value]:
    """Data and scale separately."""
    return multiply(equation, a, a)


def divide(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """Divide data and scales separately."""
    x, y = lift(a), lift(b)
    scale, rest = quotient_of_scales(x.scale, y.scale)
    return scaled_result(equation, wide_data(x) / wide_data(y) * rest, scale)


def integer_power(equation: JaxprEqn, a: Value) -> list[Value]:
    """Data and scale separately."""
    x = lift(a)
    exponent = equation.params["y"]
    scale, rest = power_of_scale(x.scale, exponent)
    return scaled_result(equation, lax.integer_pow(wide_data(x), exponent) * rest, scale)


def square_root(equation: JaxprEqn, a: Value) -> list[Value]:
    """Root of data, which takes a factor of 2 where the scale's exponent is odd."""
    x = lift(a)
    scale, rest = root_of_scale(x.scale)
    return scaled_result(equation, bind(equation, wide_data(x) * rest), scale)


def inverse_square_root(equation: JaxprEqn, a: Value) -> list[Value]:
    """As the square root, at the inverse scale."""
    x = lift(a)
    scale, rest = root_of_scale(x.scale)
    return scaled_result(equation, bind(equation, wide_data(x) * rest), 1 / scale)


def add(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """Sum or difference at the larger scale, as hypot(sa, sb) of powers of two rounds down to."""
    x, y = lift(a), lift(b)
    scale = larger_scale([x.scale, y.scale])
    done = jnp.subtract if equation.primitive.name == "sub" else jnp.add
    return scaled_result(equation, done(data_at(x, scale), data_at(y, scale)), scale)


def sign(equation: JaxprEqn, a: Value) -> list[Value]:
    """Signs of the data, at scale 1."""
    return scaled_result(equation, bind(equation, lift(a).data), jnp.float32(1))


def compare(equation: JaxprEqn, a: Value, b: Value) -> list[Value]:
    """Compare data of one scale, or with 0, as they are, and all else unscaled."""
    if isinstance(a, ScaledArray) and isinstance(b, ScaledArray) and a.scale is b.scale:
        return [bind(equation, a.data, b.data)]
    operands: list[Any] = []
    for value, other in ((a, b), (b, a)):
        if isinstance(value, ScaledArray) and known_number(other) == 0:
            operands.append(wide_data(value))
        else:
            operands.append(unscaled(value))
    wide = wide_dtype(a.dtype)
    return [bind(equation, *(jnp.asarray(v).astype(wide) for v in operands))]


def cast(equation: JaxprEqn, a: Value) -> list[Value]:
    """Cast data between floats, and what is unscaled to anything else."""
    if is_float(result_dtype(equation)):
        x = lift(a)
        return [ScaledArray(bind(equation, x.data), x.scale)]
    return [bind(equation, unscaled(a))]


RULES: dict[str, Rule] = {
    "mul": multiply,
    "square": square,
    "div": divide,
    "integer_pow": integer_power,
    "sqrt": square_root,
    "rsqrt": inverse_square_root,
    "add": add,
    "add_any": add,
    "sub": add,
    "sign": sign,
    "eq": compare,
    "ne": compare,
    "lt": compare,
    "le": compare,
    "gt": compare,
    "ge": compare,
    "convert_element_type": cast,
}
