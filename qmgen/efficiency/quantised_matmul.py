"""Matrix products whose operands are rounded to a format, forwards and backwards."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.formats import Format
from qmgen.efficiency.gradient_approximations import (
    STRAIGHT_THROUGH,
    CastGradient,
    approximate_quantise,
)
from qmgen.efficiency.hadamard import random_signs, rotate, rotate_back
from qmgen.efficiency.quantise import fake_quantise
from qmgen.errors import InputError


@dataclass(frozen=True)
class MatmulFormats:
    """Formats of the operands of the three products of a layer; None leaves one as it is.

    Blocks along an axis are turned to the axis that a product sums over. Sums are float32.

    Attributes
    ----------
    stochastic_backward
        All operands of the two backward products are rounded stochastically.
    rotation
        Products whose operands are turned by a random Hadamard matrix before they are rounded; this
        needs a key. Zeros fill a last block that is shorter than `rotation_block`.
    cast_gradient
        What the gradients of x and of the weights become on their way through the forward casts.
    """

    activations: Format | None = None
    weights: Format | None = None
    gradients: Format | None = None
    stochastic_backward: bool = False
    rotation: Literal["none", "forward", "backward", "all"] = "none"
    rotation_block: int = 32
    cast_gradient: CastGradient = STRAIGHT_THROUGH


class _Operand(NamedTuple):
    """A matrix, its format, and the axis that the product sums over."""

    values: Array
    format: Format | None
    axis: int
    key: Array | None


def _filled(values: Array, axis: int, block: int) -> Array:
    """Zeros after the last number of an axis, up to whole blocks."""
    fill = [(0, 0)] * values.ndim
    fill[axis] = (0, -values.shape[axis] % block)
    return jnp.pad(values, fill)


def _rounded(operand: _Operand, stochastic: bool, signs: Array | None) -> Array:
    values, format, axis, key = operand
    if format is None:
        return values
    if signs is not None:
        values = rotate(_filled(values, axis, len(signs)), signs, axis)
    if stochastic:
        format = format.with_rounding("stochastic")
    return fake_quantise(values, format.along(axis), key)


def _signs(formats: MatmulFormats, backward: bool, key: Array | None) -> Array | None:
    """Of a product's rotation, if it has one."""
    if formats.rotation not in ("all", "backward" if backward else "forward"):
        return None
    if key is None:
        raise InputError("a random rotation needs a key; pass key=jax.random.key(...)")
    return random_signs(key, formats.rotation_block)


def _rounded_pair(
    a: _Operand, b: _Operand, formats: MatmulFormats, backward: bool, key: Array | None
) -> tuple[Array, Array]:
    signs = _signs(formats, backward, key)
    if signs is not None and (a.format is None or b.format is None):
        raise InputError("a rotation turns both operands, so both need a format")
    stochastic = backward and formats.stochastic_backward
    return _rounded(a, stochastic, signs), _rounded(b, stochastic, signs)


def _through_cast(
    operand: _Operand, gradient: Array, formats: MatmulFormats, turn: Array | None
) -> Array:
    """Turn the gradient of a rounded operand of the forward product into that of the operand."""
    values, format, axis, key = operand
    if format is None or formats.cast_gradient == STRAIGHT_THROUGH:
        return gradient
    signs, rounds_to = _signs(formats, False, turn), format.along(axis)

    def cast(v: Array) -> Array:
        if signs is None:
            return approximate_quantise(v, rounds_to, formats.cast_gradient, key)
        turned = rotate(_filled(v, axis, len(signs)), signs, axis)
        rounded = approximate_quantise(turned, rounds_to, formats.cast_gradient, key)
        return lax.slice_in_dim(rotate_back(rounded, signs, axis), 0, v.shape[axis], axis=axis)

    _, pullback = jax.vjp(cast, values)
    return pullback(gradient)[0]


def _product(a: Array, b: Array, dtype: jnp.dtype) -> Array:
    # The full precision of float32 also where an accelerator would round its operands.
    wide = jnp.promote_types(jnp.float32, dtype)
    product = jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=wide)
    return product.astype(dtype)


def _keys(key: Array | None) -> tuple[Array | None, ...]:
    """Keys of activations, weights, gradients, and of the rotation."""
    return (None,) * 4 if key is None else tuple(jax.random.split(key, 4))


def _operands(
    x: Array, weights: Array, formats: MatmulFormats, key: Array | None
) -> tuple[_Operand, _Operand]:
    key_x, key_weights, _, _ = _keys(key)
    return (
        _Operand(x, formats.activations, -1, key_x),
        _Operand(weights, formats.weights, 0, key_weights),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, weights: Array, formats: MatmulFormats, key: Array | None) -> Array:
    operands = _operands(x, weights, formats, key)
    a, b = _rounded_pair(*operands, formats, backward=False, key=_keys(key)[3])
    return _product(a, b, x.dtype)


def _forward(
    x: Array, weights: Array, formats: MatmulFormats, key: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _matmul(x, weights, formats, key), (x, weights, key)


def _backward(
    formats: MatmulFormats, saved: tuple[Array, Array, Array | None], gradient: Array
) -> tuple[Array, Array, None]:
    x, weights, key = saved
    key_x, key_weights, key_gradient, turn = _keys(key)
    a, b = _rounded_pair(
        _Operand(gradient, formats.gradients, -1, key_gradient),
        _Operand(weights, formats.weights, 1, key_weights),
        formats,
        backward=True,
        key=turn,
    )
    x_gradient = _product(a, b.T, x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    gradient_rows = gradient.reshape(-1, gradient.shape[-1])
    a, b = _rounded_pair(
        _Operand(rows, formats.activations, 0, key_x),
        _Operand(gradient_rows, formats.gradients, 0, key_gradient),
        formats,
        backward=True,
        key=turn,
    )
    weight_gradient = _product(a.T, b, weights.dtype)
    of_x, of_weights = _operands(x, weights, formats, key)
    return (
        _through_cast(of_x, x_gradient, formats, turn),
        _through_cast(of_weights, weight_gradient, formats, turn),
        None,
    )


_matmul.defvjp(_forward, _backward)


@partial(jax.jit, static_argnames="formats")
def quantised_matmul(
    x: Float[Array, "*batch inputs"],
    weights: Float[Array, "inputs outputs"],
    formats: MatmulFormats,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> Float[Array, "*batch outputs"]:
    """Multiply x @ weights of rounded operands, in x's dtype.

    As in Noune et al., 2206.02915, and Perez et al., 2309.17224, gradients are products of rounded
    operands, too: that of x of gradients and weights, that of the weights of x and gradients.
    Rounding itself passes gradients straight through, or as `cast_gradient` has it. Rotations and
    stochastic rounding backwards are those of Hu et al., 2509.17791.

    key
        Where something is random; it needs another one in each step.

    Raises
    ------
    InputError
        No key.
    """
    return _matmul(x, weights, formats, key)
