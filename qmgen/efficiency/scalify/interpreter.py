"""Balanca et al., Scalify, 2407.17353: a function of arrays made one of scaled arrays."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxprs_in_params
from jaxtyping import Array

from qmgen.efficiency.scalify import (
    arithmetic,
    calls,
    contractions,
    control_flow,
    markers,
    structure,
)
from qmgen.efficiency.scalify.scaled_array import (
    ScaledArray,
    checked,
    is_float,
    is_scaled,
    wide_dtype,
)
from qmgen.efficiency.scalify.values import (
    Rule,
    Value,
    aval_of,
    bind,
    filled_result,
    plain,
    results,
    unscaled,
    without_filled,
)

_RULES: dict[str, Rule] = {
    **arithmetic.RULES,
    **contractions.RULES,
    **structure.RULES,
    **markers.RULES,
}
# Those of primitives that contain jaxprs, which get `evaluate` as well.
_NESTED_RULES: dict[str, Rule] = {**control_flow.RULES, **calls.RULES}

# What these do depends on the dtype, or on code that expects one.
_BOUND_TO_DTYPE = {
    "bitcast_convert_type",
    "nextafter",
    "pure_callback",
    "io_callback",
    "debug_callback",
    "debug_print",
    "ffi_call",
}


def scalify(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function take ScaledArrays in place of arrays, and compute with scales throughout.

    The result means the same as that of the function with plain arrays. What depends on a
    ScaledArray is a ScaledArray of the dtype that the function gives it; all else is as without
    this. Each primitive has a rule: products multiply data and scales separately, sums take the
    larger scale, matrix products and sums of n numbers divide data by sqrt(n) rounded down to a
    power of two. Those without one (exp, tanh, fft, cholesky, ...) see unscaled float32 numbers,
    and their results have scale 1.

    What depends on nothing scaled gets the scale of its RMS where it meets something scaled.

    No rule looks at scaled data, which may therefore drift where something is multiplied over and
    over, as a loop's carry is: there, and on what optimisers keep, `dynamic_rescale_l2` and its
    kin put the scale right.

    Compile the result, `jax.jit(scalify(f))`: by itself it traces f in each call. For gradients
    use `scalify(jax.grad(f))`; those of a scalified function by a ScaledArray are by its two
    leaves, as are those of any pytree.

    Parameters
    ----------
    function
        Any function that JAX can trace, of and to pytrees. Leaves that aren't arrays pass
        unchanged, so that Equinox modules may be arguments.

    Raises
    ------
    InputError
        The scalified function got a ScaledArray whose data aren't floats or whose scale is no
        float32 scalar.
    """

    @wraps(function)
    def scaled(*arguments: Any, **keywords: Any) -> Any:
        leaves, tree = jax.tree.flatten((arguments, keywords), is_leaf=is_scaled)
        places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
        operands = [
            checked(leaf) if isinstance(leaf, ScaledArray) else leaf
            for leaf in (leaves[place] for place in places)
        ]
        found: list[tuple[list[Any], Any]] = []

        def of_arrays(*arrays: Array) -> list[Array]:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = array
            arguments, keywords = jax.tree.unflatten(tree, filled)
            parts, result_tree = jax.tree.flatten(function(*arguments, **keywords))
            found.append(([None if _is_array(v) else v for v in parts], result_tree))
            return [v for v in parts if _is_array(v)]

        plain_leaves = [v.data if isinstance(v, ScaledArray) else v for v in operands]
        traced = jax.make_jaxpr(of_arrays)(*plain_leaves)
        done = iter([without_filled(value) for value in evaluate(traced, *operands)])
        parts, result_tree = found[-1]
        return jax.tree.unflatten(result_tree, [next(done) if v is None else v for v in parts])

    return scaled


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, ScaledArray | jax.Array | np.ndarray | np.generic)


def evaluate(closed: ClosedJaxpr, *operands: Value) -> list[Value]:
    """Interpret a jaxpr."""
    jaxpr = closed.jaxpr
    constants = [v if isinstance(v, jax.Array) else np.asarray(v) for v in closed.consts]
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return np.asarray(atom.val, aval_of(atom).dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        done = _apply(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, done, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: JaxprEqn, operands: list[Value]) -> list[Value]:
    name = equation.primitive.name
    if not any(isinstance(value, ScaledArray) for value in operands):
        filled = filled_result(equation, operands)
        if filled is not None:
            return [filled]
        return results(equation, bind(equation, *(plain(value) for value in operands)))
    if name in _NESTED_RULES:
        return _NESTED_RULES[name](evaluate, equation, *operands)
    if name in _RULES:
        return _RULES[name](equation, *operands)
    return apply_unscaled(equation, operands)


def apply_unscaled(equation: JaxprEqn, operands: list[Value]) -> list[Value]:
    """Apply a primitive to what the operands stand for; floats among the results have scale 1.

    That is done in float32 unless it depends on the dtype, or doesn't work in another one.
    """
    done = None if _is_bound_to_dtype(equation) else _applied_wide(equation, operands)
    if done is None:
        done = results(equation, bind(equation, *(plain(value) for value in operands)))
    return [
        ScaledArray(value.astype(aval_of(variable).dtype), jnp.float32(1))
        if is_float(aval_of(variable))
        else value
        for value, variable in zip(done, equation.outvars, strict=True)
    ]


def _is_bound_to_dtype(equation: JaxprEqn) -> bool:
    return (
        equation.primitive.name in _BOUND_TO_DTYPE
        or bool(equation.effects)
        or any(True for _ in jaxprs_in_params(equation.params))
    )


def _applied_wide(equation: JaxprEqn, operands: list[Value]) -> list[Any] | None:
    """Results in float32 of a primitive, None of one that wants its own dtype."""
    wide = [
        jnp.asarray(unscaled(v)).astype(wide_dtype(v.dtype)) if is_float(v) else plain(v)
        for v in operands
    ]
    if all(array.dtype == value.dtype for array, value in zip(wide, operands, strict=True)):
        return results(equation, bind(equation, *wide))
    try:
        shapes = results(equation, jax.eval_shape(lambda *v: bind(equation, *v), *wide))
    except (TypeError, ValueError, NotImplementedError):
        # What primitives raise that don't take float32; the caller gives them what they take.
        return None
    for shape, variable in zip(shapes, equation.outvars, strict=True):
        expected = aval_of(variable)
        widened = is_float(expected) and shape.dtype == wide_dtype(expected.dtype)
        if shape.shape != expected.shape or not (widened or shape.dtype == expected.dtype):
            return None
    return results(equation, bind(equation, *wide))
