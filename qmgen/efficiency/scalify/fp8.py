"""Matrix products in FP8 without scales of their own, for scalified functions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from qmgen.efficiency.scalify.markers import saturating_cast


def _dot(
    a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]], dtype: np.dtype
) -> Array:
    product = lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=jnp.float32)
    return product.astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(x: Array, weights: Array, forward: np.dtype, backward: np.dtype) -> Array:
    return _forward(x, weights, forward, backward)[0]


def _forward(
    x: Array, weights: Array, forward: np.dtype, backward: np.dtype
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    a, b = saturating_cast(x, forward), saturating_cast(weights, forward)
    # The empty arrays keep the dtypes of the gradients.
    empty = jnp.zeros(0, x.dtype), jnp.zeros(0, weights.dtype)
    return _dot(a, b, ((a.ndim - 1,), (0,)), x.dtype), (a, b, *empty)


def _backward(
    forward: np.dtype,
    backward: np.dtype,
    saved: tuple[Array, Array, Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    a, b, like_x, like_weights = saved
    g = saturating_cast(gradient, backward)
    batch = tuple(range(a.ndim - 1))
    x_gradient = _dot(g, b, ((g.ndim - 1,), (1,)), like_x.dtype)
    return x_gradient, _dot(a, g, (batch, batch), like_weights.dtype)


_matmul.defvjp(_forward, _backward)


def fp8_matmul(
    x: Float[Array, "*batch inputs"],
    weights: Float[Array, "inputs outputs"],
    forward: np.dtype | type = jnp.float8_e4m3fn,
    backward: np.dtype | type = jnp.float8_e5m2,
) -> Float[Array, "*batch outputs"]:
    """Multiply x @ weights of operands cast to 8 bits, in x's dtype; sums are float32.

    Gradients are products of cast operands, too. Casts saturate and scale nothing: in a scalified
    function it is data that is cast, which should be of order 1.

    Parameters
    ----------
    forward, backward
        Dtypes of x and weights, and of the gradient of the product.

    Raises
    ------
    InputError
        A dtype that isn't a float.
    """
    return _matmul(x, weights, np.dtype(forward), np.dtype(backward))
