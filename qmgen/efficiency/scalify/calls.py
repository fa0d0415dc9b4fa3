"""Rules of primitives that call a function: jit, checkpoint, and custom derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jaxtyping import Array

from qmgen.efficiency.scalify.control_flow import Evaluate
from qmgen.efficiency.scalify.powers import quotient_of_scales
from qmgen.efficiency.scalify.scaled_array import (
    ScaledArray,
    as_scaled,
    is_float,
    unscale,
    wide_dtype,
)
from qmgen.efficiency.scalify.values import Rule, Value, bind, results, without_filled


def inline(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Interpret the function in place; an outer jit compiles it anyway."""
    called: Any = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
    return evaluate(closed, *operands)


def checkpoint(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Keep what is computed again in backward passes, be they inside or outside."""
    values = [without_filled(value) for value in operands]
    parameters = equation.params
    if parameters["differentiated"]:
        if parameters["prevent_cse"]:
            values = lax.optimization_barrier(values)
        return inline(evaluate, equation, *values)

    def interpreted(values: list[Any]) -> list[Any]:
        return [without_filled(value) for value in inline(evaluate, equation, *values)]

    kept = jax.checkpoint(
        interpreted, prevent_cse=parameters["prevent_cse"], policy=parameters["policy"]
    )
    return kept(values)


def custom_jvp(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Interpret the function, and its own rule where the whole is differentiated."""
    values = [without_filled(value) for value in operands]

    @jax.custom_jvp
    def call(values: list[Any]) -> list[Any]:
        return [without_filled(value) for value in inline(evaluate, equation, *values)]

    def directional(floats: list[Array], directions: list[Array], others: list[Array]) -> list:
        def of_floats(floats: list[Array]) -> list[Array]:
            done = results(equation, bind(equation, *_merged(values, floats, others)))
            return [result for result in done if is_float(result)]

        return jax.jvp(of_floats, (floats,), (directions,))[1]

    @call.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
        (at,), (along,) = primals, tangents
        floats, others = _parted(at)
        directions = [
            _direction(value, tangent)
            for value, tangent in zip(at, along, strict=True)
            if is_float(value)
        ]
        done = call(at)
        moved = iter(_scalified(evaluate, directional, floats, directions, others))
        return done, [
            _tangent(value, next(moved)) if is_float(value) else np.zeros(value.shape, jax.float0)
            for value in done
        ]

    return call(values)


def custom_vjp(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """As `custom_jvp`; backwards the function is computed again."""
    values = [without_filled(value) for value in operands]

    @jax.custom_vjp
    def call(values: list[Any]) -> list[Any]:
        return [without_filled(value) for value in inline(evaluate, equation, *values)]

    def forward(values: list[Any]) -> tuple[list[Any], tuple[list[Any], list[Any]]]:
        done = call(values)
        return done, (values, done)

    def pulled_back(floats: list[Array], gradients: list[Array], others: list[Array]) -> list:
        def of_floats(floats: list[Array]) -> list[Array]:
            done = results(equation, bind(equation, *_merged(values, floats, others)))
            return [result for result in done if is_float(result)]

        return jax.vjp(of_floats, floats)[1](gradients)[0]

    def backward(saved: tuple[list[Any], list[Any]], gradients: list[Any]) -> tuple[list[Any]]:
        at, done = saved
        floats, others = _parted(at)
        of_values = [
            _by_value(value, gradient)
            for value, gradient in zip(done, gradients, strict=True)
            if is_float(value)
        ]
        back = iter(_scalified(evaluate, pulled_back, floats, of_values, others))
        return ([_cotangent(value, next(back)) if is_float(value) else None for value in at],)

    call.defvjp(forward, backward)
    return call(values)


def _has_scale(value: Any) -> bool:
    return isinstance(value, ScaledArray)


def _at_one(array: Array) -> ScaledArray:
    """A tangent or gradient of scale 1: splitting its exponent off would not be linear in it."""
    return ScaledArray(array, jnp.float32(1))


def _parted(values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Floats, and all else."""
    return [v for v in values if is_float(v)], [v for v in values if not is_float(v)]


def _merged(values: list[Any], floats: list[Array], others: list[Array]) -> list[Array]:
    """Undo `_parted`."""
    first, second = iter(floats), iter(others)
    return [next(first) if is_float(value) else next(second) for value in values]


def _scalified(evaluate: Evaluate, function: Any, *arguments: Any) -> list[Any]:
    """`scalify` of a function of lists of arrays, which gives one."""
    values, tree = jax.tree.flatten(arguments, is_leaf=_has_scale)
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
    traced = jax.make_jaxpr(lambda *leaves: function(*jax.tree.unflatten(tree, leaves)))(*shapes)
    return [without_filled(value) for value in evaluate(traced, *values)]


def _direction(value: Any, tangent: Any) -> Any:
    """What a value moves along, of the tangents of its data and scale."""
    if not isinstance(value, ScaledArray):
        return _at_one(tangent)
    wide = wide_dtype(value.dtype)
    along = tangent.data.astype(wide) + value.data.astype(wide) * (tangent.scale / value.scale)
    return ScaledArray(along.astype(value.dtype), value.scale)


def _tangent(value: Any, moved: Any) -> Any:
    """Undo `_direction`: the data moves, and the scale stays."""
    if not isinstance(value, ScaledArray):
        return unscale(moved).astype(value.dtype)
    data, scale = (moved.data, moved.scale) if _has_scale(moved) else (moved, jnp.float32(1))
    along = data.astype(wide_dtype(value.dtype)) * (scale / value.scale)
    return ScaledArray(along.astype(value.dtype), jnp.zeros_like(value.scale))


def _by_value(value: Any, gradient: Any) -> ScaledArray:
    """The gradient by a value of that by its data, which has no scale of its own and gets one."""
    if not isinstance(value, ScaledArray):
        return as_scaled(gradient)
    scaled = as_scaled(gradient.data)
    scale, rest = quotient_of_scales(scaled.scale, value.scale)
    wide = scaled.data.astype(wide_dtype(value.dtype)) * rest
    return ScaledArray(wide.astype(value.dtype), scale)


def _cotangent(value: Any, gradient: Any) -> Any:
    """Gradients by data and scale of one by the value."""
    if not isinstance(value, ScaledArray):
        return unscale(gradient).astype(value.dtype)
    data, scale = (
        (gradient.data, gradient.scale) if _has_scale(gradient) else (gradient, jnp.float32(1))
    )
    wide = wide_dtype(value.dtype)
    by_data = data.astype(wide) * (scale * value.scale)
    by_scale = jnp.sum(data.astype(wide) * value.data.astype(wide)).astype(jnp.float32) * scale
    return ScaledArray(by_data.astype(value.dtype), by_scale)


RULES: dict[str, Rule] = {
    "jit": inline,
    "pjit": inline,
    "closed_call": inline,
    "core_call": inline,
    "remat2": checkpoint,
    "checkpoint": checkpoint,
    "custom_jvp_call": custom_jvp,
    "custom_vjp_call": custom_vjp,
}
