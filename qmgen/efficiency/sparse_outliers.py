"""A few numbers of largest magnitude kept apart in bfloat16, all others in any format.

Orr et al., 2505.12988: the outliers that would stretch the scale of all others cost 48 bits each,
16 of the number and 32 of its place.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, Float, Int, Key, UInt

from qmgen.efficiency.formats import Format
from qmgen.efficiency.quantise import Quantised, bits_per_element, dequantise, quantise
from qmgen.errors import InputError

_OUTLIER_BITS = 16 + 32


@dataclass(frozen=True)
class SparseFormat:
    """A format, and the share of the numbers that are kept beside it.

    Raises
    ------
    InputError
        The share isn't from 0 to 1.
    """

    format: Format
    share: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"the share of outliers must be from 0 to 1, not {self.share}")

    def count(self, shape: tuple[int, ...]) -> int:
        """Outliers of an array of this shape, rounded to a whole number.

        Raises
        ------
        InputError
            There are more numbers than 32 bits can tell apart.
        """
        size = math.prod(shape)
        if size > 1 << 31:
            raise InputError(f"{size} numbers are more than 32-bit places reach; split the array")
        return round(self.share * size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseQuantised:
    """An array in a sparse format.

    Attributes
    ----------
    others
        The array without its outliers, which are 0 in it.
    places
        Places of the outliers in the flattened array.
    outliers
        Their values.
    """

    others: Quantised
    places: Int[Array, " count"]
    outliers: BFloat16[Array, " count"]


@partial(jax.jit, static_argnames="sparse")
def quantise_sparse(
    x: Float[Array, "..."],
    sparse: SparseFormat,
    key: Key[Array, ""] | UInt[Array, "2"] | None = None,
) -> SparseQuantised:
    """Take the outliers out and round the rest.

    Raises
    ------
    InputError
        As `quantise` and `SparseFormat.count`.
    """
    flat = x.ravel()
    places = jax.lax.top_k(jnp.abs(flat), sparse.count(x.shape))[1]
    others = flat.at[places].set(0).reshape(x.shape)
    return SparseQuantised(
        quantise(others, sparse.format, key), places, flat[places].astype(jnp.bfloat16)
    )


@partial(jax.jit, static_argnames="dtype")
def dequantise_sparse(
    quantised: SparseQuantised, dtype: np.dtype | type = np.float32
) -> Float[Array, "..."]:
    """The array that codes, scales and outliers stand for; float32 or float64."""
    values = dequantise(quantised.others, dtype)
    flat = values.ravel().at[quantised.places].set(quantised.outliers.astype(dtype))
    return flat.reshape(values.shape)


def sparse_bits_per_element(sparse: SparseFormat, shape: tuple[int, ...]) -> float:
    """Bits for each number of an array of this shape, scales and outliers included."""
    outliers = _OUTLIER_BITS * sparse.count(shape)
    return bits_per_element(sparse.format, shape) + outliers / max(math.prod(shape), 1)
