"""Random rotations that spread outliers over their block before a cast.

Hu et al., 2509.17791: H S / sqrt(B) along the axis that a product sums over, H a Hadamard matrix
and S random signs. Applied to both operands it leaves the product as it is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt

from qmgen.errors import InputError


def hadamard_matrix(size: int) -> np.ndarray:
    """Sylvester's Hadamard matrix over sqrt(size): symmetric, orthogonal; shape (size, size).

    Raises
    ------
    InputError
        The size is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise InputError(f"a Hadamard matrix of {size} rows isn't known here; use a power of two")
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(np.sqrt(size))


def random_signs(key: Key[Array, ""] | UInt[Array, "2"], block: int) -> Float[Array, " block"]:
    """+1 and -1."""
    return jax.random.rademacher(key, (block,), jnp.float32)


def rotate(
    x: Float[Array, "..."], signs: Float[Array, " block"], axis: int = -1
) -> Float[Array, "..."]:
    """Turn every block along an axis: change the signs, then multiply by the Hadamard matrix.

    Raises
    ------
    InputError
        The axis isn't of whole blocks, or their size is no power of two.
    """
    return _blockwise(x, axis, len(signs), lambda v: (v * signs) @ hadamard_matrix(len(signs)))


def rotate_back(
    x: Float[Array, "..."], signs: Float[Array, " block"], axis: int = -1
) -> Float[Array, "..."]:
    """Undo `rotate`."""
    return _blockwise(x, axis, len(signs), lambda v: (v @ hadamard_matrix(len(signs))) * signs)


def _blockwise(x: Array, axis: int, block: int, function: Callable[[Array], Array]) -> Array:
    if x.shape[axis] % block:
        raise InputError(
            f"an axis of {x.shape[axis]} numbers isn't made of blocks of {block}; "
            "choose a block that divides it"
        )
    moved = jnp.moveaxis(x, axis, -1)
    blocks = moved.reshape(*moved.shape[:-1], -1, block)
    with jax.default_matmul_precision("highest"):
        turned = function(blocks).astype(x.dtype)
    return jnp.moveaxis(turned.reshape(moved.shape), -1, axis)
