"""SparQ attention, Ribar et al., 2312.04985: decoding that reads a small part of the cache.

A step's time is that of reading keys and values. SparQ reads a few components of all keys, those
where the query is large, to find the tokens that matter, and whole keys and values of these only.
The other tokens' share of attention goes to the mean of all values. It needs no training; prompts
are still read densely.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmgen.efficiency.networks.kv_cache import KVCache
from qmgen.errors import InputError


@dataclass(frozen=True)
class SparQ:
    """How much is read.

    Attributes
    ----------
    components
        r: of each key, to find the tokens.
    tokens
        k: whose keys and values are read, the current one not counted.
    local
        How many of the latest are among these whatever their scores; the authors mostly take k / 4.
    reallocate
        Give what the softmax over few components leaves to other tokens to the mean value. The
        authors leave this out for models whose queries share keys.

    Raises
    ------
    InputError
        No components, a negative number of tokens, or more local ones than tokens.
    """

    components: int
    tokens: int
    local: int = 0
    reallocate: bool = True

    def __post_init__(self) -> None:
        if self.components < 1 or not 0 <= self.local <= self.tokens:
            raise InputError(
                f"{self}: it needs at least one component, and no more local tokens than tokens"
            )


def sparq_for(compression: float | int, size: int, length: int) -> SparQ:
    """Read about 1 / compression of `length` tokens with heads of `size`, half to find tokens.

    r = size / compression and k = length / (2 compression), and a quarter of these local.

    Raises
    ------
    InputError
        A compression below 1.
    """
    if compression < 1:
        raise InputError(f"a compression of {compression}; 1 is none, so it is at least 1")
    tokens = max(round(length / (2 * compression)), 1)
    return SparQ(max(round(size / compression), 1), tokens, tokens // 4)


def _by_key_head(query: Array, cache: KVCache) -> Array:
    """Queries (batch, key heads, queries of a key head, size)."""
    batch, heads, size = query.shape
    shared = cache.keys.shape[1]
    if heads % shared:
        raise InputError(f"{heads} heads of queries can't share {shared} of keys evenly")
    return query.reshape(batch, shared, heads // shared, size)


def dense_attention(
    query: Float[Array, "batch heads size"], cache: KVCache
) -> Float[Array, "batch heads size"]:
    """Attention of the latest token to all in the cache, itself included.

    Heads of queries may be a multiple of those of keys; neighbours share one (grouped queries).

    Raises
    ------
    InputError
        They aren't a multiple.
    """
    grouped = _by_key_head(query, cache)
    scores = jnp.einsum("bhgd,bhsd->bhgs", grouped, cache.keys) * query.shape[-1] ** -0.5
    visible = jnp.arange(cache.capacity) < cache.filled
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
    return jnp.einsum("bhgs,bhsd->bhgd", weights, cache.values).reshape(query.shape)


def approximate_weights(
    query: Float[Array, "batch heads queries size"], cache: KVCache, components: int
) -> Float[Array, "batch heads queries capacity"]:
    """Softmax of scores from the components where the queries of a key head are largest.

    The temperature is sqrt(size |q of these|_1 / |q|_1), between that for exact scores and that for
    a random choice of components.
    """
    size = query.shape[-1]
    magnitude = jnp.abs(query)
    _, chosen = lax.top_k(magnitude.sum(2), components)
    taken = jnp.take_along_axis(query, chosen[:, :, None, :], -1)
    part, whole = jnp.abs(taken).sum(-1), magnitude.sum(-1)
    # Scores of a query of zeros are 0 at any temperature.
    covered = jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 1)
    # Each is a row of the transposed keys.
    rows = jnp.take_along_axis(cache.components, chosen[..., None], 2)
    scores = jnp.einsum("bhgr,bhrs->bhgs", taken, rows) / jnp.sqrt(size * covered)[..., None]
    visible = jnp.arange(cache.capacity) < cache.filled
    return jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))


def sparq_attention(
    query: Float[Array, "batch heads size"], cache: KVCache, sparq: SparQ
) -> Float[Array, "batch heads size"]:
    """Approximate `dense_attention` by algorithm 1 of the paper.

    Where queries share a head of keys, magnitudes and weights are summed over these before each
    choice, so that they read the same.

    Raises
    ------
    InputError
        More components than a key has, or heads that can't share keys.
    """
    size = query.shape[-1]
    if sparq.components > size:
        raise InputError(f"{sparq.components} components of keys of {size}; take at most all")
    grouped = _by_key_head(query, cache)
    approximate = approximate_weights(grouped, cache, sparq.components)
    place = jnp.arange(cache.capacity)
    # The current token's key and value are at hand, so that they cost nothing.
    is_local = (place < cache.filled) & (place >= cache.filled - 1 - sparq.local)
    ranking = jnp.where(is_local, jnp.inf, approximate.sum(2))
    _, chosen = lax.top_k(ranking, min(sparq.tokens + 1, cache.capacity))
    keys, values = (
        jnp.take_along_axis(rows, chosen[..., None], 2) for rows in (cache.keys, cache.values)
    )
    scores = jnp.einsum("bhgd,bhkd->bhgk", grouped, keys) * size**-0.5
    # As long as fewer are there than are chosen.
    scores = jnp.where((chosen < cache.filled)[:, :, None], scores, -jnp.inf)
    mixed = jnp.einsum("bhgk,bhkd->bhgd", jax.nn.softmax(scores), values)
    if sparq.reallocate:
        covered = jnp.take_along_axis(approximate, chosen[:, :, None, :], -1).sum(-1, keepdims=True)
        mixed = covered * mixed + (1 - covered) * cache.value_mean[:, :, None]
    return mixed.reshape(query.shape)


def dense_elements(length: int, size: int) -> int:
    """Numbers that a dense step of one head moves: all keys and values, and the new ones.

    Of grouped queries, a head here is one of keys. Bytes are these times those of a number.
    """
    return 2 * length * size + 2 * size


def sparq_elements(length: int, size: int, sparq: SparQ) -> int:
    """Numbers that a step of SparQ moves: S r + 2 k d + 4 d.

    The last are the new key and value, and the mean value, read and written.
    """
    return length * sparq.components + 2 * min(sparq.tokens, length) * size + 4 * size
