"""A causal language model that decodes with a cache, densely or with SparQ attention.

Norms before each branch, rotary positions (Su et al., 2104.09864), queries that may share heads of
keys and values (Ainslie et al., 2305.13245), gated SiLU, as in the models that SparQ was tried on.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt

from qmgen.efficiency.fp8_linear import apply_linear
from qmgen.efficiency.networks.kv_cache import KVCache, append, empty_cache
from qmgen.efficiency.networks.smiles_tokens import BEGIN, END, MASK, PAD
from qmgen.efficiency.networks.sparq import SparQ, dense_attention, sparq_attention
from qmgen.errors import InputError

AnyKey = Key[Array, ""] | UInt[Array, "2"]
Rotation = eqx.nn.RotaryPositionalEmbedding
THETA = 10_000.0


def rotated(
    x: Float[Array, "batch length heads size"], angles: tuple[Array, Array]
) -> Float[Array, "batch length heads size"]:
    """Rotate pairs of components, i and i + size / 2.

    angles
        Cosines and sines (length, size / 2) of the places.
    """
    cos, sin = (jnp.concatenate([part, part], -1)[:, None] for part in angles)
    return x * cos + Rotation.rotate_half(x) * sin


class CausalAttention(eqx.Module):
    """Attention to earlier tokens, of whole rows or of a step."""

    query: eqx.nn.Linear
    key_value: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)
    key_heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, key_heads: int, *, key: AnyKey) -> None:
        if width % (2 * heads) or heads % key_heads:
            raise InputError(
                f"a width of {width}, {heads} heads of queries and {key_heads} of keys: heads need "
                "an even size, and each of keys the same number of queries"
            )
        first, middle, last = jax.random.split(key, 3)
        shared = 2 * key_heads * (width // heads)
        self.query = eqx.nn.Linear(width, width, use_bias=False, key=first)
        self.key_value = eqx.nn.Linear(width, shared, use_bias=False, key=middle)
        self.out = eqx.nn.Linear(width, width, use_bias=False, key=last)
        self.heads = heads
        self.key_heads = key_heads

    def parts(
        self, x: Float[Array, "batch length width"], angles: tuple[Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Queries, keys and values, each (batch, length, heads, size)."""
        size = x.shape[-1] // self.heads
        query = apply_linear(self.query, x).reshape(*x.shape[:2], self.heads, size)
        pair = apply_linear(self.key_value, x).reshape(*x.shape[:2], 2, self.key_heads, size)
        return rotated(query, angles), rotated(pair[:, :, 0], angles), pair[:, :, 1]

    def __call__(
        self, x: Float[Array, "batch length width"], angles: tuple[Array, Array], cache: KVCache
    ) -> tuple[Float[Array, "batch length width"], KVCache]:
        """Whole rows, which are the first in the cache."""
        query, key, value = self.parts(x, angles)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        cache = append(cache, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))
        return apply_linear(self.out, mixed.reshape(x.shape)), cache

    def step(
        self,
        x: Float[Array, "batch 1 width"],
        angles: tuple[Array, Array],
        cache: KVCache,
        sparq: SparQ | None,
    ) -> tuple[Float[Array, "batch 1 width"], KVCache]:
        """One further token."""
        query, key, value = self.parts(x, angles)
        cache = append(cache, jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))
        if sparq is None:
            mixed = dense_attention(query[:, 0], cache)
        else:
            mixed = sparq_attention(query[:, 0], cache, sparq)
        return apply_linear(self.out, mixed.reshape(x.shape)), cache


class DecoderLayer(eqx.Module):
    """Attention and gated feed-forward, each in a residual branch behind a norm."""

    attention: CausalAttention
    attention_norm: eqx.nn.RMSNorm
    up_and_gate: eqx.nn.Linear
    down: eqx.nn.Linear
    ffn_norm: eqx.nn.RMSNorm

    def __init__(self, width: int, heads: int, key_heads: int, *, key: AnyKey) -> None:
        attention, up, down = jax.random.split(key, 3)
        hidden = 3 * width
        self.attention = CausalAttention(width, heads, key_heads, key=attention)
        self.attention_norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.up_and_gate = eqx.nn.Linear(width, 2 * hidden, use_bias=False, key=up)
        self.down = eqx.nn.Linear(hidden, width, use_bias=False, key=down)
        self.ffn_norm = eqx.nn.RMSNorm(width, use_bias=False)

    def feed_forward(
        self, x: Float[Array, "batch length width"]
    ) -> Float[Array, "batch length width"]:
        """The second branch and its residual connection."""
        up, gate = jnp.split(apply_linear(self.up_and_gate, _normalised(self.ffn_norm, x)), 2, -1)
        return x + apply_linear(self.down, up * jax.nn.silu(gate))


def _normalised(norm: eqx.nn.RMSNorm, x: Array) -> Array:
    return jax.vmap(jax.vmap(norm))(x)


class Decoder(eqx.Module):
    """Embedding, layers, norm, and logits by the embedding of each token.

    Attributes
    ----------
    longest
        Tokens that a row and a cache have room for.
    """

    embedding: Float[Array, "vocabulary width"]
    layers: tuple[DecoderLayer, ...]
    norm: eqx.nn.RMSNorm
    longest: int = eqx.field(static=True)

    def __init__(
        self,
        vocabulary: int,
        depth: int,
        width: int,
        heads: int,
        longest: int,
        *,
        key: AnyKey,
        key_heads: int | None = None,
    ) -> None:
        first, *rest = jax.random.split(key, depth + 1)
        # Logits of normalised vectors are then of the order of 1.
        self.embedding = jax.random.normal(first, (vocabulary, width)) * width**-0.5
        self.layers = tuple(
            DecoderLayer(width, heads, heads if key_heads is None else key_heads, key=k)
            for k in rest
        )
        self.norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.longest = longest

    @property
    def head_size(self) -> int:
        """Components of a key."""
        return self.embedding.shape[1] // self.layers[0].attention.heads

    def _angles(self) -> tuple[Array, Array]:
        return Rotation.precompute_freqs_cis(self.head_size, self.longest, THETA, jnp.float32)

    def _logits(self, x: Array) -> Array:
        return _normalised(self.norm, x) @ self.embedding.T

    def read(
        self, tokens: Int[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length vocabulary"], tuple[KVCache, ...]]:
        """Logits of the token behind each one, by dense attention, and the caches after that.

        Raises
        ------
        InputError
            Rows that are longer than `longest`.
        """
        batch, length = tokens.shape
        if length > self.longest:
            raise InputError(f"rows of {length} tokens, and the model has room for {self.longest}")
        cos, sin = self._angles()
        angles = (cos[:length], sin[:length])
        x, caches = self.embedding[tokens], []
        for layer in self.layers:
            empty = empty_cache(batch, layer.attention.key_heads, self.longest, self.head_size)
            mixed, cache = layer.attention(_normalised(layer.attention_norm, x), angles, empty)
            x = layer.feed_forward(x + mixed)
            caches.append(cache)
        return self._logits(x), tuple(caches)

    def __call__(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of the token behind each one."""
        return self.read(tokens)[0]

    def loss(self, tokens: Int[Array, "batch length"]) -> Float[Array, ""]:
        """Mean cross-entropy of all tokens but the first, and but PAD."""
        losses = optax.softmax_cross_entropy_with_integer_labels(
            self(tokens[:, :-1]), tokens[:, 1:]
        )
        counts = tokens[:, 1:] != PAD
        return jnp.sum(losses * counts) / jnp.maximum(jnp.sum(counts), 1)

    def step(
        self, tokens: Int[Array, " batch"], caches: tuple[KVCache, ...], sparq: SparQ | None = None
    ) -> tuple[Float[Array, "batch vocabulary"], tuple[KVCache, ...]]:
        """Logits of the token behind the next ones, and the caches with these.

        sparq
            What attention reads; everything by default.

        Raises
        ------
        InputError
            As `sparq_attention`.
        equinox.EquinoxRuntimeError
            The caches are full, which shows only when the step runs.
        """
        at = caches[0].filled
        at = eqx.error_if(
            at, at >= self.longest, f"no room behind {self.longest} tokens; make the model longer"
        )
        cos, sin = self._angles()
        angles = (lax.dynamic_slice_in_dim(cos, at, 1), lax.dynamic_slice_in_dim(sin, at, 1))
        x, after = self.embedding[tokens][:, None], []
        for layer, cache in zip(self.layers, caches, strict=True):
            x_in = _normalised(layer.attention_norm, x)
            mixed, cache = layer.attention.step(x_in, angles, cache, sparq)
            x = layer.feed_forward(x + mixed)
            after.append(cache)
        return self._logits(x)[:, 0], tuple(after)

    def decoded(
        self, tokens: Int[Array, "batch length"], prompt: int, sparq: SparQ | None = None
    ) -> Float[Array, "batch steps vocabulary"]:
        """Logits behind given tokens: a prompt is read densely, each other token is a step.

        Parameters
        ----------
        prompt
            Tokens of the prompt. Logits are those behind the tokens after it.

        Raises
        ------
        InputError
            Rows too long, or no tokens after the prompt.
        """
        length = tokens.shape[1]
        if not 0 < prompt < length <= self.longest:
            raise InputError(
                f"a prompt of {prompt} in rows of {length} tokens, with room for {self.longest}; "
                "it needs at least a token, a token after it, and room"
            )
        _, caches = self.read(tokens[:, :prompt])

        def one(caches: tuple[KVCache, ...], token: Array) -> tuple[tuple[KVCache, ...], Array]:
            logits, caches = self.step(token, caches, sparq)
            return caches, logits

        return jnp.swapaxes(lax.scan(one, caches, tokens[:, prompt:].T)[1], 0, 1)


def generated(
    model: Decoder,
    prompt: Int[Array, "batch start"],
    steps: int,
    *,
    key: AnyKey | None = None,
    sparq: SparQ | None = None,
) -> Int[Array, "batch steps"]:
    """Symbols that the model puts behind a prompt, and PAD behind an END.

    Parameters
    ----------
    key
        To draw each token by its probability; without one the most probable is taken.
    sparq
        What attention reads; everything by default.

    Raises
    ------
    InputError
        Prompt and steps need more room than the model has, or there are none.
    """
    if min(prompt.shape[1], steps) < 1 or prompt.shape[1] + steps > model.longest:
        raise InputError(
            f"a prompt of {prompt.shape[1]} tokens and {steps} steps, with room for "
            f"{model.longest}; both are at least 1, and together no more than that"
        )
    logits, caches = model.read(prompt)
    keys = None if key is None else jax.random.split(key, steps)

    def choose(logits: Array, ended: Array, step_key: Array | None) -> tuple[Array, Array]:
        logits = logits.at[:, jnp.array([PAD, BEGIN, MASK])].set(-jnp.inf)
        if step_key is None:
            token = jnp.argmax(logits, -1)
        else:
            token = jax.random.categorical(step_key, logits)
        token = jnp.where(ended, PAD, token).astype(prompt.dtype)
        return token, ended | (token == END)

    def one(carry: tuple, step_key: Array | None) -> tuple[tuple, Array]:
        token, ended, caches = carry
        logits, caches = model.step(token, caches, sparq)
        token, ended = choose(logits, ended, step_key)
        return (token, ended, caches), token

    begun = jnp.zeros(len(prompt), bool)
    token, ended = choose(logits[:, -1], begun, None if keys is None else keys[0])
    rest = None if keys is None else keys[1:]
    _, tokens = lax.scan(one, (token, ended, caches), rest, length=steps - 1)
    return jnp.concatenate([token[None], tokens]).T
