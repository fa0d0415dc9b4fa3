"""Matrix products whose operands are rounded to a format, forwards and backwards."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.formats import Format
from qmgen.efficiency.hadamard import random_signs, rotate
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
        needs a key, and an axis of whole blocks of `rotation_block`.
    """

    activations: Format | None = None
    weights: Format | None = None
    gradients: Format | None = None
    stochastic_backward: bool = False
    rotation: Literal["none", "forward", "backward", "all"] = "none"
    rotation_block: int = 32


class _Operand(NamedTuple):
    """A matrix, its format, and the axis that the product sums over."""

    values: Array
    format: Format | None
    axis: int
    key: Array | None


def _rounded(operand: _Operand, stochastic: bool, signs: Array | None) -> Array:
    values, format, axis, key = operand
    if format is None:
        return values
    if signs is not None:
        values = rotate(values, signs, axis)
    if stochastic:
        format = format.with_rounding("stochastic")
    return fake_quantise(values, format.along(axis), key)


def _rounded_pair(
    a: _Operand, b: _Operand, formats: MatmulFormats, backward: bool, key: Array | None
) -> tuple[Array, Array]:
    signs = None
    if formats.rotation in ("all", "backward" if backward else "forward"):
        if a.format is None or b.format is None:
            raise InputError("a rotation turns both operands, so both need a format")
        if key is None:
            raise InputError("a random rotation needs a key; pass key=jax.random.key(...)")
        signs = random_signs(key, formats.rotation_block)
    stochastic = backward and formats.stochastic_backward
    return _rounded(a, stochastic, signs), _rounded(b, stochastic, signs)


def _product(a: Array, b: Array, dtype: jnp.dtype) -> Array:
    # The full precision of float32 also where an accelerator would round its operands.
    wide = jnp.promote_types(jnp.float32, dtype)
    product = jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=wide)
    return product.astype(dtype)


def _keys(key: Array | None) -> tuple[Array | None, ...]:
    """Keys of activations, weights, gradients, and of the rotation."""
    return (None,) * 4 if key is None else tuple(jax.random.split(key, 4))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, weights: Array, formats: MatmulFormats, key: Array | None) -> Array:
    key_x, key_weights, _, turn = _keys(key)
    a, b = _rounded_pair(
        _Operand(x, formats.activations, -1, key_x),
        _Operand(weights, formats.weights, 0, key_weights),
        formats,
        backward=False,
        key=turn,
    )
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
    return x_gradient, weight_gradient, None


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
    Rounding itself passes gradients straight through. Rotations and stochastic rounding backwards
    are those of Hu et al., 2509.17791.

    key
        Where something is random; it needs another one in each step.

    Raises
    ------
    InputError
        No key, or an axis that a rotation's blocks don't fit into.
    """
    return _matmul(x, weights, formats, key)
