"""Rules of loops and branches, whose bodies are interpreted in turn.

Which carries and results are scaled must be the same in all turns and branches. It is found by
tracing: what one turn or branch makes scaled is scaled from the start and everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array, Float

from qmgen.efficiency.scalify.powers import SMALLEST
from qmgen.efficiency.scalify.scaled_array import ScaledArray
from qmgen.efficiency.scalify.values import (
    Filled,
    Rule,
    Value,
    data_at,
    lift,
    plain,
    without_filled,
)

# The interpreter: of a closed jaxpr and its operands.
Evaluate = Callable[..., list[Value]]


def _as_kinds(values: Sequence[Value], kinds: Sequence[bool]) -> list[Any]:
    """Values that are scaled where told."""
    pairs = zip(values, kinds, strict=True)
    return [lift(value) if scaled else without_filled(value) for value, scaled in pairs]


def _kinds_of(function: Callable[..., list[Value]], *arguments: Any) -> list[bool]:
    """Which results of a function are scaled; arguments may be shapes."""
    kinds: list[bool] = []

    def probe(*arguments: Any) -> list[Any]:
        done = function(*arguments)
        kinds.extend(isinstance(value, ScaledArray) for value in done)
        return [without_filled(value) for value in done]

    jax.eval_shape(probe, *arguments)
    return kinds


def _steady_carry(
    body: Callable[[list[Any]], list[Value]], carry: Sequence[Value]
) -> tuple[list[Any], list[bool]]:
    """A first carry that is scaled wherever the body makes it so, and where that is."""
    kinds = [isinstance(value, ScaledArray) for value in carry]
    while True:
        start = _as_kinds(carry, kinds)
        after = _kinds_of(body, start)
        grown = [before or later for before, later in zip(kinds, after, strict=True)]
        if grown == kinds:
            return start, kinds
        kinds = grown


def scan(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """A loop over slices; each result that is stacked gets the largest scale of all turns."""
    body = equation.params["jaxpr"]
    constants = operands[: equation.params["num_consts"]]
    stop = len(constants) + equation.params["num_carry"]
    carry, stacked = operands[len(constants) : stop], operands[stop:]
    arrays = [_stacked_data(value) for value in stacked]

    def turn(carry: list[Any], slices: Sequence[Any]) -> list[Value]:
        pairs = zip(stacked, slices, strict=True)
        return evaluate(body, *constants, *carry, *(_slice(v, data) for v, data in pairs))

    shapes = [None if v is None else jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for v in arrays]

    # Slices are shapes within the trace that finds the kinds, hence zeros.
    def first_results(carry: list[Any]) -> list[Value]:
        zeros = [None if s is None else jnp.zeros(s.shape, s.dtype) for s in shapes]
        return turn(carry, zeros)[: len(carry)]

    start, kinds = _steady_carry(first_results, carry)

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        done = turn(carry, slices)
        after = _as_kinds(done[: len(carry)], kinds)
        return after, [without_filled(value) for value in done[len(carry) :]]

    last, results = lax.scan(
        step,
        start,
        arrays,
        length=equation.params["length"],
        reverse=equation.params["reverse"],
        unroll=equation.params["unroll"],
    )
    return [*last, *(_one_scale(value) for value in results)]


def _stacked_data(value: Value) -> Array | None:
    """What is cut in slices; None of one number all over."""
    if isinstance(value, Filled):
        return None
    return jnp.asarray(value.data if isinstance(value, ScaledArray) else value)


def _slice(value: Value, data: Array | None) -> Value:
    """A slice of a value whose data is cut already."""
    if isinstance(value, Filled):
        return Filled(value.number, value.shape[1:], value.dtype)
    assert data is not None
    return ScaledArray(data, value.scale) if isinstance(value, ScaledArray) else data


def _one_scale(value: Array | ScaledArray) -> Array | ScaledArray:
    """Stacked data with a scale for each, at the largest of them."""
    if not isinstance(value, ScaledArray):
        return value
    scale: Float[Array, ""] = lax.stop_gradient(jnp.max(value.scale, initial=SMALLEST))
    scales = value.scale.reshape(value.scale.shape + (1,) * (value.ndim - 1))
    return ScaledArray(data_at(ScaledArray(value.data, scales), scale).astype(value.dtype), scale)


def while_loop(evaluate: Evaluate, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """A loop until a condition fails."""
    parameters = equation.params
    of_condition = operands[: parameters["cond_nconsts"]]
    stop = len(of_condition) + parameters["body_nconsts"]
    of_body, carry = operands[len(of_condition) : stop], operands[stop:]

    def turn(carry: list[Any]) -> list[Value]:
        return evaluate(parameters["body_jaxpr"], *of_body, *carry)

    def condition(carry: list[Any]) -> Array:
        (goes_on,) = evaluate(parameters["cond_jaxpr"], *of_condition, *carry)
        return jnp.asarray(plain(goes_on))

    start, kinds = _steady_carry(turn, carry)
    return lax.while_loop(condition, lambda carry: _as_kinds(turn(carry), kinds), start)


def conditional(evaluate: Evaluate, equation: JaxprEqn, place: Value, *operands: Value) -> list:
    """Branches, all of which give scaled what one of them does."""
    branches = equation.params["branches"]
    of_each = [_kinds_of(lambda branch=branch: evaluate(branch, *operands)) for branch in branches]
    kinds = [any(of_one) for of_one in zip(*of_each, strict=True)]

    def taken(branch: Any) -> Callable[[], list[Any]]:
        return lambda: _as_kinds(evaluate(branch, *operands), kinds)

    return lax.switch(plain(place), [taken(branch) for branch in branches])


RULES: dict[str, Rule] = {"scan": scan, "while": while_loop, "cond": conditional}
