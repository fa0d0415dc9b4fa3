"""Operations whose outputs and gradients have unit variance when their inputs have.

Blake et al., Unit scaling, 2303.11257: fixed factors, those of values and those of gradients apart,
so that narrow formats need neither a loss scale nor scales that follow the numbers. Inputs and
gradients from behind are taken for independent standard normal numbers.

A gradient factor that differs from the value's makes the gradient a multiple of the true one where
the edge is a cut edge: a graph without it falls apart. Weights are such, and so is every edge of a
chain. Where branches meet again all of them need the same multiple, which a `Constraint` sees to.

Factors come from shapes, so operations are for whole batches; `jax.vmap` would hide the batch. What
follows a nonlinearity is in `unit_scaled_nonlinear`, layers are in `unit_scaled_layers`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key, UInt

from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.errors import InputError

# Which factor value and input gradients share; None lets each have its own.
Constraint = Literal["to_output", "geometric_mean"] | None


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def scale_forward(x: Array, factor: float) -> Array:
    """Multiply the value, not the gradient."""
    return x * factor


@scale_forward.defjvp
def _scale_forward_jvp(
    factor: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    return scale_forward(primals[0], factor), tangents[0]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def scale_backward(x: Array, factor: float) -> Array:
    """Multiply the gradient, not the value."""
    return x


@scale_backward.defjvp
def _scale_backward_jvp(
    factor: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    return scale_backward(primals[0], factor), tangents[0] * factor


def constrained(constraint: Constraint, output: float, *gradients: float) -> tuple[float, ...]:
    """Factors of the output and of input gradients under a constraint, in this order.

    Raises
    ------
    InputError
        No such constraint.
    """
    factors = (output, *gradients)
    if constraint is None:
        return factors
    if constraint == "to_output":
        return (output,) * len(factors)
    if constraint == "geometric_mean":
        return (math.prod(factors) ** (1 / len(factors)),) * len(factors)
    raise InputError(f"no constraint {constraint!r}; use 'to_output', 'geometric_mean' or None")


def _affine(
    x: Array,
    weight: Array,
    bias: Array | None,
    factors: tuple[float, ...],
    formats: MatmulFormats | None,
) -> Array:
    forward, backward = factors
    rows = max(x.size // x.shape[-1], 1)
    x = scale_backward(x, backward)
    weight = scale_backward(weight, rows**-0.5).T
    # What the product gets, and its gradient, are not multiplied yet, so they are what is cast.
    product = x @ weight if formats is None else quantised_matmul(x, weight, formats)
    y = scale_forward(product, forward)
    return y if bias is None else y + scale_backward(bias, rows**-0.5)


def linear(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "outputs inputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    constraint: Constraint = "to_output",
    formats: MatmulFormats | None = None,
) -> Float[Array, "*batch outputs"]:
    """Give x W^T inputs^-1/2 + bias; gradients are by outputs^-1/2 (x) and rows^-1/2 (weights).

    The bias is added behind the factor, so that its effect does not fade with the width.

    formats
        Of the operands of all three products; bare casts will do.

    Raises
    ------
    InputError
        Unknown constraint; a format that needs a key.
    """
    outputs, inputs = weight.shape
    factors = constrained(constraint, inputs**-0.5, outputs**-0.5)
    return _affine(x, weight, bias, factors, formats)


def linear_readout(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "outputs inputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    constraint: Constraint = None,
    formats: MatmulFormats | None = None,
) -> Float[Array, "*batch outputs"]:
    """`linear` for the last layer, with 1 / inputs in place of inputs^-1/2 (u-muP, 2407.17465).

    Its output shrinks with the width at first, as what it learns there adds up coherently.

    Raises
    ------
    InputError
        As `linear`.
    """
    outputs, inputs = weight.shape
    factors = constrained(constraint, 1 / inputs, outputs**-0.5)
    return _affine(x, weight, bias, factors, formats)


def matmul(
    left: Float[Array, "*batch rows inner"],
    right: Float[Array, "*batch inner columns"],
    *,
    constraint: Constraint = "to_output",
) -> Float[Array, "*batch rows columns"]:
    """Product of two activations.

    Factors are inner^-1/2, and for the gradients columns^-1/2 (left) and rows^-1/2 (right).

    Raises
    ------
    InputError
        Unknown constraint.
    """
    rows, inner = left.shape[-2:]
    columns = right.shape[-1]
    factors = (inner**-0.5, columns**-0.5, rows**-0.5)
    forward, to_left, to_right = constrained(constraint, *factors)
    return scale_forward(scale_backward(left, to_left) @ scale_backward(right, to_right), forward)


def add(
    *terms: Float[Array, "*shape"], constraint: Constraint = "to_output"
) -> Float[Array, "*shape"]:
    """Sum of n arrays times n^-1/2; without a constraint gradients stay as they are.

    Raises
    ------
    InputError
        Unknown constraint, or nothing to add.
    """
    if not terms:
        raise InputError("there is nothing to add; give at least one array")
    forward, *backward = constrained(constraint, len(terms) ** -0.5, *(1.0,) * len(terms))
    scaled = [scale_backward(term, b) for term, b in zip(terms, backward, strict=True)]
    return scale_forward(sum(scaled[1:], start=scaled[0]), forward)


def residual_split(
    x: Float[Array, "*shape"], tau: float = 1.0
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Inputs of the branch and of the skip connection, whose gradients are weighted here.

    So gradients inside the branch have unit scale however small its weight tau is.
    """
    norm = math.hypot(1.0, tau)
    return scale_backward(x, tau / norm), scale_backward(x, 1 / norm)


def residual_add(
    branch: Float[Array, "*shape"], skip: Float[Array, "*shape"], tau: float = 1.0
) -> Float[Array, "*shape"]:
    """(tau branch + skip) / sqrt(1 + tau^2), of what `residual_split` gave."""
    norm = math.hypot(1.0, tau)
    return scale_forward(branch, tau / norm) + scale_forward(skip, 1 / norm)


def residual(
    function: Callable[[Array], Array], x: Float[Array, "*shape"], tau: float = 1.0
) -> Float[Array, "*shape"]:
    """(tau f(x) + x) / sqrt(1 + tau^2). The function needs constrained factors."""
    branch, skip = residual_split(x, tau)
    return residual_add(function(branch), skip, tau)


def embedding(
    tokens: Integer[Array, "*batch"], table: Float[Array, "vocabulary width"]
) -> Float[Array, "*batch width"]:
    """Rows of a table, whose gradient is times sqrt(vocabulary / tokens)."""
    return scale_backward(table, (table.shape[0] / max(tokens.size, 1)) ** 0.5)[tokens]


def _with_gain(x: Array, gain: Array | None, bias: Array | None) -> Array:
    factor = (x.shape[-1] / max(x.size, 1)) ** 0.5
    if gain is not None:
        x = x * scale_backward(gain, factor)
    return x if bias is None else x + scale_backward(bias, factor)


def layer_norm(
    x: Float[Array, "*batch width"],
    gain: Float[Array, " width"] | None = None,
    bias: Float[Array, " width"] | None = None,
    epsilon: float = 1e-5,
) -> Float[Array, "*batch width"]:
    """Zero mean and unit variance along the last axis; gradients of gain and bias by rows^-1/2."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + epsilon)
    return _with_gain((centred * inverse).astype(x.dtype), gain, bias)


def rms_norm(
    x: Float[Array, "*batch width"],
    gain: Float[Array, " width"] | None = None,
    epsilon: float = 1e-5,
) -> Float[Array, "*batch width"]:
    """Unit RMS along the last axis; the gradient of the gain by rows^-1/2."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + epsilon)
    return _with_gain((wide * inverse).astype(x.dtype), gain, None)


def dropout(
    x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | UInt[Array, "2"]
) -> Float[Array, "*shape"]:
    """Set numbers to 0 at this rate, and multiply the others by (1 - rate)^-1/2.

    Raises
    ------
    InputError
        A rate below 0, or of 1 and more.
    """
    if not 0 <= rate < 1:
        raise InputError(f"a dropout rate is from 0 to below 1, not {rate}")
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x * (1 - rate) ** -0.5, 0)


def cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    multiplier: float = 1.0,
) -> Float[Array, ""]:
    """Mean cross-entropy of softmax(multiplier logits).

    Its gradient is that of the sum times classes / sqrt(classes - 1), and not times the multiplier:
    unit scale for logits near 0.

    Raises
    ------
    InputError
        Fewer than two classes.
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise InputError("cross-entropy tells at least two classes apart")
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    scaled = scale_forward(scale_backward(wide, classes * (classes - 1) ** -0.5), multiplier)
    losses = optax.softmax_cross_entropy_with_integer_labels(scaled, labels)
    return scale_forward(jnp.sum(losses), 1 / max(losses.size, 1))


def mean_squared_error(
    predictions: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Mean of (predictions - targets)^2; its gradient is that of the sum times 8^-1/2."""
    difference = scale_backward(predictions, 8**-0.5) - scale_backward(targets, 8**-0.5)
    wide = difference.astype(jnp.promote_types(difference.dtype, jnp.float32))
    return scale_forward(jnp.sum(wide**2), 1 / max(difference.size, 1))
