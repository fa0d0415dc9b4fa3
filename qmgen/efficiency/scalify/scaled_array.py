"""Arrays whose scale is kept beside them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from qmgen.efficiency.scalify.powers import power_of_two_below
from qmgen.errors import InputError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScaledArray:
    """The array data * scale; a pytree of two leaves.

    Attributes
    ----------
    data
        Array of any float dtype: float32, float16, bfloat16, or one of 8 bits.
    scale
        float32 scalar, a power of two from 2^-126 to 2^126. Under `vmap` each example has its own;
        `in_axes=ScaledArray(0, None)` is for one that they share.
    """

    # Transformations put axes, shapes and tangents in place of both, so that no array type fits.
    data: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes of the data."""
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the data."""
        return self.data.dtype


def is_scaled(value: object) -> bool:
    """Whether this is a `ScaledArray`; for `is_leaf`."""
    return isinstance(value, ScaledArray)


def is_float(value: Any) -> bool:
    """Whether an array, or a dtype, is of real floating-point numbers."""
    return bool(jnp.issubdtype(getattr(value, "dtype", value), jnp.floating))


def wide_dtype(dtype: np.dtype | type) -> np.dtype:
    """What numbers of a dtype are computed in: float64 if they are that, otherwise float32."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def root_mean_square(x: Float[Array, "..."]) -> Float[Array, ""]:
    """RMS in float32 that neither overflows nor underflows; 0 of no numbers."""
    if x.size == 0:
        return jnp.float32(0)
    magnitudes = jnp.abs(x.astype(wide_dtype(x.dtype)))
    largest = jnp.max(magnitudes)
    unit = power_of_two_below(largest)
    mean = jnp.mean((magnitudes / unit) ** 2).astype(jnp.float32)
    return jnp.sqrt(mean) * unit * (largest > 0)


def as_scaled(
    tree: PyTree,
    scale: float | Array | None = None,
    dtype: np.dtype | type | None = None,
) -> PyTree:
    """Make ScaledArrays of the float arrays in a pytree; everything else stays.

    Parameters
    ----------
    tree
        What is a ScaledArray already gets the dtype and keeps its scale.
    scale
        Rounded down to a power of two; the value stays the same. By default the RMS of each array,
        so that data is of order 1, and 2^-126 for one of zeros, which then yields to any other
        scale in a sum.
    dtype
        Of the data; by default that of the array.

    Raises
    ------
    InputError
        A scale that isn't positive, or a dtype that isn't a float.
    """
    if dtype is not None and not is_float(np.dtype(dtype)):
        raise InputError(f"data of a ScaledArray must be floats, which {np.dtype(dtype)} isn't")
    if isinstance(scale, int | float) and not scale > 0:
        raise InputError(f"a scale must be positive, not {scale}")

    def scaled(value: Any) -> Any:
        if isinstance(value, ScaledArray):
            return ScaledArray(value.data.astype(dtype or value.dtype), value.scale)
        if not isinstance(value, jax.Array | np.ndarray | np.generic) or not is_float(value):
            return value
        array = jnp.asarray(value)
        factor = jax.lax.stop_gradient(root_mean_square(array) if scale is None else scale)
        power = power_of_two_below(factor)
        data = array.astype(wide_dtype(array.dtype)) / power
        return ScaledArray(data.astype(dtype or array.dtype), power)

    return jax.tree.map(scaled, tree, is_leaf=is_scaled)


def unscale(tree: PyTree, dtype: np.dtype | type | None = None) -> PyTree:
    """Make arrays of the ScaledArrays in a pytree, in float32 (or float64) unless told otherwise.

    Everything else stays as it is.
    """

    def unscaled(value: Any) -> Any:
        if not isinstance(value, ScaledArray):
            return value
        array = value.data.astype(wide_dtype(value.dtype)) * value.scale
        return array if dtype is None else array.astype(dtype)

    return jax.tree.map(unscaled, tree, is_leaf=is_scaled)


def checked(value: ScaledArray) -> ScaledArray:
    """A ScaledArray of JAX arrays, of floats and with a scalar float32 scale.

    Raises
    ------
    InputError
        It isn't.
    """
    if not is_float(value.data):
        raise InputError(
            f"data of a ScaledArray must be an array of floats, not {value.data!r}; use as_scaled"
        )
    data, scale = jnp.asarray(value.data), jnp.asarray(value.scale)
    if scale.shape != () or scale.dtype != jnp.float32:
        raise InputError(
            f"the scale of a ScaledArray must be a float32 scalar, not {scale.dtype} of shape "
            f"{scale.shape}; use as_scaled, or vmap where each example has its own"
        )
    return ScaledArray(data, scale)
