"""Matrix products whose operands are rounded to a format, forwards and backwards."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.formats import Format
from qmgen.efficiency.quantise import fake_quantise


@dataclass(frozen=True)
class MatmulFormats:
    """Formats of the operands of the three products of a layer; None leaves one as it is.

    Blocks along an axis are turned to the axis that a product sums over. Sums are float32.
    """

    activations: Format | None = None
    weights: Format | None = None
    gradients: Format | None = None


def _rounded(x: Array, format: Format | None, axis: int, key: Array | None) -> Array:
    return x if format is None else fake_quantise(x, format.along(axis), key)


def _product(a: Array, b: Array, dtype: jnp.dtype) -> Array:
    # The full precision of float32 also where an accelerator would round its operands.
    wide = jnp.promote_types(jnp.float32, dtype)
    product = jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=wide)
    return product.astype(dtype)


def _keys(key: Array | None) -> tuple[Array | None, Array | None, Array | None]:
    if key is None:
        return None, None, None
    activations, weights, gradients = jax.random.split(key, 3)
    return activations, weights, gradients


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, weights: Array, formats: MatmulFormats, key: Array | None) -> Array:
    key_x, key_weights, _ = _keys(key)
    return _product(
        _rounded(x, formats.activations, -1, key_x),
        _rounded(weights, formats.weights, 0, key_weights),
        x.dtype,
    )


def _forward(
    x: Array, weights: Array, formats: MatmulFormats, key: Array | None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _matmul(x, weights, formats, key), (x, weights, key)


def _backward(
    formats: MatmulFormats, saved: tuple[Array, Array, Array | None], gradient: Array
) -> tuple[Array, Array, None]:
    x, weights, key = saved
    key_x, key_weights, key_gradient = _keys(key)
    x_gradient = _product(
        _rounded(gradient, formats.gradients, -1, key_gradient),
        _rounded(weights, formats.weights, 1, key_weights).T,
        x.dtype,
    )
    rows = x.reshape(-1, x.shape[-1])
    gradient_rows = gradient.reshape(-1, gradient.shape[-1])
    weight_gradient = _product(
        _rounded(rows, formats.activations, 0, key_x).T,
        _rounded(gradient_rows, formats.gradients, 0, key_gradient),
        weights.dtype,
    )
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
    Rounding itself passes gradients straight through.

    key
        Where a format rounds stochastically.

    Raises
    ------
    InputError
        Stochastic rounding without key.
    """
    return _matmul(x, weights, formats, key)
