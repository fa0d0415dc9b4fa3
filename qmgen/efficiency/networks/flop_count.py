"""What a function costs: the multiply-accumulates of its matrix products and convolutions.

They are read off its jaxpr, so that gradients, scans and jitted parts count as what they are, what
no result needs doesn't count, and nothing is compiled or run. Element-wise operations don't count,
as in the figures that papers on architectures publish.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval

from qmgen.errors import InputError


def multiply_accumulates(
    function: Callable[..., Any], *arguments: Any, count_padding: bool = True
) -> int:
    """Multiply-accumulates of one call.

    Parameters
    ----------
    function
        Of arrays, modules and anything else that `equinox.filter_jit` takes.
    arguments
        Arrays may be `jax.ShapeDtypeStruct`, as only shapes matter.
    count_padding
        Whether products of a convolution with the zeros around its input count, as they do in
        published figures. Zeros in between (a stride's gradient) never count.

    Raises
    ------
    InputError
        A `while_loop` with products in it, whose number of turns isn't known, or a kernel or
        sharding that has its own loops.
    """
    # Arrays in a module that is called are arguments, too.
    call = eqx.filter_make_jaxpr(lambda called, *values: called(*values))
    closed, _, _ = call(function, *arguments)
    used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of_jaxpr(used, count_padding)


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of the products of one call, two for a multiply-accumulate.

    Raises
    ------
    InputError
        As `multiply_accumulates`.
    """
    return 2 * multiply_accumulates(function, *arguments)


def _of_jaxpr(jaxpr: Jaxpr, count_padding: bool) -> int:
    return sum(_of_equation(equation, count_padding) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn, count_padding: bool) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation, count_padding)
    inner = [_of_jaxpr(jaxpr, count_padding) for jaxpr in _inner_jaxprs(equation)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name in ("while", "pallas_call", "shard_map") and any(inner):
        raise InputError(
            f"products inside {name} can't be counted, as how often it runs isn't known; write a "
            "loop as jax.lax.scan, or count the function inside"
        )
    return sum(inner)


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _of_dot(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(left[i] for i in contracted)


def _of_convolution(equation: JaxprEqn, count_padding: bool) -> int:
    """Pairs of a place and a tap along each axis, times batch, outputs and a group's inputs."""
    p = equation.params
    numbers = p["dimension_numbers"]
    left, kernel = (_shape(variable) for variable in equation.invars)
    result = _shape(equation.outvars[0])
    batch, features, *spatial = numbers.out_spec
    total = result[batch] * result[features] * kernel[numbers.rhs_spec[1]]
    for axis, place in enumerate(spatial):
        index = (
            p["window_strides"][axis] * np.arange(result[place])[:, None]
            + p["rhs_dilation"][axis] * np.arange(kernel[numbers.rhs_spec[2 + axis]])
            - p["padding"][axis][0]
        )
        counts = index % p["lhs_dilation"][axis] == 0
        if not count_padding:
            size = p["lhs_dilation"][axis] * (left[numbers.lhs_spec[2 + axis]] - 1) + 1
            counts &= (index >= 0) & (index < size)
        total *= int(counts.sum())
    return total
