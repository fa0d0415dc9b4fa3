"""The layer of BERT, Devlin et al., 1810.04805, and the masked-language model around any layers.

Layers take a batch and which of its places are tokens; those that aren't never change the others'
outputs. `quantise_linears` of `fp8_linear` puts their dense products into a narrow format.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt

from qmgen.efficiency.fp8_linear import apply_linear
from qmgen.efficiency.networks.smiles_tokens import MASK, PAD, SPECIAL
from qmgen.errors import InputError

AnyKey = Key[Array, ""] | UInt[Array, "2"]
Layer = Callable[[Array, Array], Array]


def normalised(
    norm: eqx.nn.LayerNorm, x: Float[Array, "batch length width"]
) -> Float[Array, "batch length width"]:
    """Each place's numbers by itself."""
    return jax.vmap(jax.vmap(norm))(x)


class SelfAttention(eqx.Module):
    """Attention of several heads to all places that are tokens."""

    into: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: AnyKey) -> None:
        if width % heads:
            raise InputError(f"a width of {width} can't be cut into {heads} heads")
        into, out = jax.random.split(key)
        self.into = eqx.nn.Linear(width, 3 * width, key=into)
        self.out = eqx.nn.Linear(width, width, key=out)
        self.heads = heads

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The layer of a whole batch."""
        size = x.shape[-1] // self.heads
        parts = apply_linear(self.into, x).reshape(*x.shape[:-1], 3, self.heads, size)
        query, key, value = (parts[:, :, part] for part in range(3))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=is_token[:, None, None, :])
        return apply_linear(self.out, mixed.reshape(x.shape))


class FeedForward(eqx.Module):
    """GELU between two linear layers, the inner one four times as wide."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, *, key: AnyKey) -> None:
        up, down = jax.random.split(key)
        self.up = eqx.nn.Linear(width, 4 * width, key=up)
        self.down = eqx.nn.Linear(4 * width, width, key=down)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The layer of a whole batch."""
        return apply_linear(self.down, jax.nn.gelu(apply_linear(self.up, x), approximate=False))


class BertLayer(eqx.Module):
    """Attention and feed-forward with residual connections: 12 d^2 weights.

    Attributes
    ----------
    order
        "post" normalises sums, as BERT does; "pre" the inputs of the branches.
    """

    attention: SelfAttention
    attention_norm: eqx.nn.LayerNorm
    ffn: FeedForward
    ffn_norm: eqx.nn.LayerNorm
    order: Literal["pre", "post"] = eqx.field(static=True)

    def __init__(
        self, width: int, heads: int, *, key: AnyKey, order: Literal["pre", "post"] = "post"
    ) -> None:
        attention, ffn = jax.random.split(key)
        self.attention = SelfAttention(width, heads, key=attention)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.ffn = FeedForward(width, key=ffn)
        self.ffn_norm = eqx.nn.LayerNorm(width)
        self.order = order

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The layer of a whole batch."""
        if self.order == "pre":
            x = x + self.attention(normalised(self.attention_norm, x), is_token)
            return x + self.ffn(normalised(self.ffn_norm, x))
        x = normalised(self.attention_norm, x + self.attention(x, is_token))
        return normalised(self.ffn_norm, x + self.ffn(x))


class MaskedLanguageModel(eqx.Module):
    """Embeddings of tokens and places, layers, a norm, and logits by the tokens' embeddings."""

    embedding: Float[Array, "vocabulary width"]
    places: Float[Array, "longest width"]
    layers: tuple[Layer, ...]
    norm: eqx.nn.LayerNorm
    bias: Float[Array, " vocabulary"]

    def __init__(
        self, vocabulary: int, longest: int, width: int, layers: tuple[Layer, ...], *, key: AnyKey
    ) -> None:
        tokens, places = jax.random.split(key)
        # Logits of normalised vectors are then of the order of 1.
        self.embedding = jax.random.normal(tokens, (vocabulary, width)) * width**-0.5
        self.places = jax.random.normal(places, (longest, width)) * width**-0.5
        self.layers = layers
        self.norm = eqx.nn.LayerNorm(width)
        self.bias = jnp.zeros(vocabulary)

    def __call__(
        self, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of the token at each place; those at places of PAD mean nothing.

        Raises
        ------
        InputError
            Rows that are longer than the model knows places.
        """
        length, longest = tokens.shape[1], len(self.places)
        if length > longest:
            raise InputError(f"rows of {length} tokens, and the model has {longest} places")
        is_token = tokens != PAD
        x = self.embedding[tokens] + self.places[:length]
        for layer in self.layers:
            x = layer(x, is_token)
        return normalised(self.norm, x) @ self.embedding.T + self.bias


class Corrupted(NamedTuple):
    """What a model is shown, and the places where it has to find the token."""

    tokens: Int[Array, "batch length"]
    chosen: Bool[Array, "batch length"]


def corrupted(tokens: Int[Array, "batch length"], vocabulary: int, key: AnyKey) -> Corrupted:
    """Choose 15 % of the symbols; 80 % of these become MASK, 10 % any symbol, 10 % stay.

    As BERT does (1810.04805, section 3.1). Special tokens are never chosen.

    Raises
    ------
    InputError
        A vocabulary without symbols.
    """
    if vocabulary <= len(SPECIAL):
        raise InputError("a vocabulary of special tokens only; make one from strings")
    choice, fate, other = jax.random.split(key, 3)
    symbol = tokens >= len(SPECIAL)
    chosen = symbol & jax.random.bernoulli(choice, 0.15, tokens.shape)
    lot = jax.random.uniform(fate, tokens.shape)
    any_symbol = jax.random.randint(other, tokens.shape, len(SPECIAL), vocabulary, tokens.dtype)
    shown = jnp.where(lot < 0.8, MASK, jnp.where(lot < 0.9, any_symbol, tokens))
    return Corrupted(jnp.where(chosen, shown, tokens).astype(tokens.dtype), chosen)


def masked_language_loss(
    model: Callable[[Array], Array],
    tokens: Int[Array, "batch length"],
    vocabulary: int,
    key: AnyKey,
) -> Float[Array, ""]:
    """Mean cross-entropy of the tokens at the chosen places, 0 if none was chosen."""
    shown = corrupted(tokens, vocabulary, key)
    losses = optax.softmax_cross_entropy_with_integer_labels(model(shown.tokens), tokens)
    return jnp.sum(losses * shown.chosen) / jnp.maximum(jnp.sum(shown.chosen), 1)


def weight_count(module: PyTree) -> int:
    """Numbers in matrices and kernels, those of biases and norms left out."""
    leaves = jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves if leaf.ndim > 1)
