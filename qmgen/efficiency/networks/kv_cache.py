"""Keys and values of the tokens so far, laid out for SparQ attention, Ribar et al., 2312.04985.

Keys are there twice: a row a token, for products with few whole keys, and a row a component, for
products of few components of all keys. Either way what is read lies together. That makes the cache
half as large again.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from qmgen.errors import InputError


class KVCache(eqx.Module):
    """A layer's cache, of which the first `filled` places are in use.

    Attributes
    ----------
    components
        The keys' rows and columns exchanged.
    value_mean
        Running mean of the values.
    """

    keys: Float[Array, "batch heads capacity size"]
    components: Float[Array, "batch heads size capacity"]
    values: Float[Array, "batch heads capacity size"]
    value_mean: Float[Array, "batch heads size"]
    filled: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """Places for tokens."""
        return self.keys.shape[2]


def empty_cache(batch: int, heads: int, capacity: int, size: int) -> KVCache:
    """A cache of zeros for `heads` heads of keys and values."""
    keys = jnp.zeros((batch, heads, capacity, size))
    mean = jnp.zeros((batch, heads, size))
    return KVCache(keys, keys.mT, keys, mean, jnp.int32(0))


def append(
    cache: KVCache,
    keys: Float[Array, "batch heads new size"],
    values: Float[Array, "batch heads new size"],
) -> KVCache:
    """The cache with further tokens' keys and values; the caller sees to it that there is room.

    Raises
    ------
    InputError
        More tokens than an empty cache has room for. How many a cache holds isn't known while a
        step is compiled, so `Decoder` checks that when it runs.
    """
    new = keys.shape[2]
    if new > cache.capacity:
        raise InputError(f"{new} tokens for a cache of {cache.capacity}; make it larger")
    total = cache.filled + new
    mean = cache.value_mean + (values.sum(2) - new * cache.value_mean) / total
    return KVCache(
        lax.dynamic_update_slice_in_dim(cache.keys, keys, cache.filled, 2),
        lax.dynamic_update_slice_in_dim(cache.components, keys.mT, cache.filled, 3),
        lax.dynamic_update_slice_in_dim(cache.values, values, cache.filled, 2),
        mean,
        total,
    )
