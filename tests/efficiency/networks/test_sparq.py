"""SparQ attention against dense attention, the paper's algorithm in NumPy, and what it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from qmgen.efficiency.networks.kv_cache import KVCache, append, empty_cache
from qmgen.efficiency.networks.sparq import (
    SparQ,
    dense_attention,
    dense_elements,
    sparq_attention,
    sparq_elements,
    sparq_for,
)
from qmgen.errors import InputError

BATCH, SIZE, CAPACITY = 2, 16, 40
dense = jax.jit(dense_attention)
sparse = jax.jit(sparq_attention, static_argnums=2)
library = jax.jit(jax.nn.dot_product_attention)


def filled(length: int, heads: int = 2, capacity: int = CAPACITY, size: int = SIZE) -> KVCache:
    rng = np.random.default_rng(length)
    numbers = np.zeros((2, BATCH, heads, capacity, size), np.float32)
    numbers[:, :, :, :length] = rng.normal(size=(2, BATCH, heads, length, size))
    numbers[1, :, :, :length] += 0.5
    keys, values = numbers
    mean = values.sum(2) / length
    parts = (keys, np.ascontiguousarray(np.swapaxes(keys, 2, 3)), values, mean, np.int32(length))
    return KVCache(*map(jnp.asarray, parts))


def queries(heads: int, size: int = SIZE) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, heads, size)), jnp.float32)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("length", [1, 25, CAPACITY])
def test_the_limit_is_dense_attention(heads: int, length: int) -> None:
    """With all components and tokens, to 1e-5, and dense attention is JAX's own."""
    cache, query = filled(length), queries(heads)
    rows = (jnp.swapaxes(v, 1, 2) for v in (cache.keys, cache.values))
    expected = library(query[:, None], *rows, key_value_seq_lengths=jnp.full(BATCH, length))[:, 0]
    np.testing.assert_allclose(dense(query, cache), expected, rtol=1e-5, atol=1e-6)
    found = sparse(query, cache, SparQ(SIZE, CAPACITY))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def by_hand(query: np.ndarray, keys: np.ndarray, values: np.ndarray, sparq: SparQ) -> np.ndarray:
    """Algorithm 1 for the queries (g, d) of one head of keys and values (S, d), in float64."""
    length, size = keys.shape
    magnitude = np.abs(query)
    some = np.argsort(-magnitude.sum(0))[: sparq.components]
    tau = np.sqrt(size * magnitude[:, some].sum(1) / magnitude.sum(1))
    approximate = softmax(query[:, some] @ keys[:, some].T / tau[:, None], axis=1)
    rank = approximate.sum(0)
    rank[length - 1 - sparq.local :] = np.inf
    chosen = np.argsort(-rank)[: sparq.tokens + 1]
    weights = softmax(query @ keys[chosen].T / np.sqrt(size), axis=1)
    if not sparq.reallocate:
        return weights @ values[chosen]
    alpha = approximate[:, chosen].sum(1, keepdims=True)
    return alpha * (weights @ values[chosen]) + (1 - alpha) * values.mean(0)


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize(
    "sparq",
    [SparQ(4, 8), SparQ(4, 8, local=3), SparQ(3, 5, 2, reallocate=False), SparQ(1, 0)],
    ids=str,
)
def test_the_paper_s_algorithm(heads: int, sparq: SparQ) -> None:
    length = 30
    cache, query = filled(length), queries(heads)
    found = np.asarray(sparse(query, cache, sparq)).reshape(BATCH, 2, heads // 2, SIZE)
    grouped = np.asarray(query, np.float64).reshape(found.shape)
    keys, values = (np.asarray(v, np.float64)[:, :, :length] for v in (cache.keys, cache.values))
    for at in np.ndindex(BATCH, 2):
        expected = by_hand(grouped[at], keys[at], values[at], sparq)
        np.testing.assert_allclose(found[at], expected, rtol=1e-4, atol=1e-5)


def test_cache_by_steps_is_the_cache_at_once() -> None:
    whole = filled(7, capacity=9)
    cache, step = empty_cache(BATCH, 2, 9, SIZE), jax.jit(append)
    cache = step(cache, whole.keys[:, :, :3], whole.values[:, :, :3])
    for at in range(3, 7):
        cache = step(cache, whole.keys[:, :, at : at + 1], whole.values[:, :, at : at + 1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), cache, whole)


def test_unused_places_make_no_difference() -> None:
    cache, query = filled(9), queries(2)
    keys, components, values = map(np.array, (cache.keys, cache.components, cache.values))
    keys[:, :, 9:] = components[..., 9:] = values[:, :, 9:] = 7.0
    numbers = map(jnp.asarray, (keys, components, values))
    other = KVCache(*numbers, cache.value_mean, cache.filled)
    # More tokens than there are, so that some of those chosen are unused places.
    sparq = SparQ(4, 20)
    np.testing.assert_array_equal(sparse(query, other, sparq), sparse(query, cache, sparq))
    np.testing.assert_array_equal(dense(query, other), dense(query, cache))
    zero = sparse(jnp.zeros_like(query), cache, sparq)
    assert np.isfinite(zero).all()


def gathered(query: jax.Array, cache: KVCache, sparq: SparQ) -> int:
    """Numbers that the compiled program takes out of the cache, a head."""
    jaxpr = jax.make_jaxpr(lambda q, c: sparq_attention(q, c, sparq))(query, cache)
    cached = [v.aval.shape for v in jaxpr.jaxpr.invars[1:4]]
    total = 0

    def walk(jaxpr) -> None:
        nonlocal total
        for equation in jaxpr.eqns:
            if equation.primitive.name == "gather" and equation.invars[0].aval.shape in cached:
                total += equation.outvars[0].aval.size
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    walk(jaxpr.jaxpr)
    return total // (BATCH * cache.keys.shape[1])


@pytest.mark.parametrize("sparq", [SparQ(4, 8, 2), SparQ(16, 30)], ids=str)
def test_what_is_read_is_what_is_counted(sparq: SparQ) -> None:
    """A full cache; the current key and value are read here, too, and mean value apart."""
    found = gathered(queries(4), filled(CAPACITY), sparq)
    counted = sparq_elements(CAPACITY, SIZE, sparq)
    assert found == counted - 4 * SIZE + 2 * SIZE
    assert counted == CAPACITY * sparq.components + 2 * sparq.tokens * SIZE + 4 * SIZE


def test_cost_of_a_compression() -> None:
    for compression in (1, 2, 4, 8):
        sparq = sparq_for(compression, 64, 4096)
        assert (sparq.components, sparq.tokens) == (64 // compression, 2048 // compression)
        assert sparq.local == sparq.tokens // 4
        ratio = dense_elements(4096, 64) / sparq_elements(4096, 64, sparq)
        assert ratio == pytest.approx(compression, rel=0.01)
    assert sparq_for(100, 8, 20) == SparQ(1, 1, 0)


def synthetic(seed: int) -> tuple[jax.Array, KVCache]:
    """Queries with few large components, and values with an offset that all tokens share."""
    rng = np.random.default_rng(seed)
    length, size = 1024, 64
    scales = np.exp(rng.normal(size=size))
    query = rng.normal(size=(8, 1, size)) * scales / np.sqrt(np.mean(scales**2))
    keys, values = rng.normal(size=(2, 8, 1, length, size))
    values += rng.normal(size=size)
    cache = KVCache(
        *(jnp.asarray(v, jnp.float32) for v in (keys, np.swapaxes(keys, 2, 3), values)),
        jnp.asarray(values.mean(2), jnp.float32),
        jnp.int32(length),
    )
    return jnp.asarray(query, jnp.float32), cache


def test_errors_of_reallocation_and_of_a_random_choice() -> None:
    """Reallocation at least halves the error, and random tokens have five times as much."""
    query, cache = synthetic(0)
    exact = dense(query, cache)

    def error(found: np.ndarray) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    sparq = error(sparse(query, cache, SparQ(16, 64)))
    without = error(sparse(query, cache, SparQ(16, 64, reallocate=False)))
    chosen = np.random.default_rng(1).choice(1024, 64, replace=False)
    q, k, v = (np.asarray(v, np.float64)[:, 0] for v in (query, cache.keys, cache.values))
    weights = softmax(np.einsum("bd,bkd->bk", q, k[:, chosen]) / 8, axis=1)
    random = error(np.einsum("bk,bkd->bd", weights, v[:, chosen])[:, None])
    assert sparq <= without / 2, (sparq, without)
    assert sparq <= random / 5, (sparq, random)


def test_bad_input() -> None:
    cache = filled(5)
    for arguments in ((0, 3), (2, -1), (2, 3, 4)):
        with pytest.raises(InputError, match="at least one component"):
            SparQ(*arguments)
    with pytest.raises(InputError, match="at most all"):
        sparq_attention(queries(2), cache, SparQ(SIZE + 1, 3))
    with pytest.raises(InputError, match="3 heads"):
        dense_attention(queries(3), cache)
    with pytest.raises(InputError, match="make it larger"):
        append(empty_cache(BATCH, 2, 4, SIZE), cache.keys, cache.values)
    with pytest.raises(InputError, match="compression"):
        sparq_for(0.5, 16, 16)
