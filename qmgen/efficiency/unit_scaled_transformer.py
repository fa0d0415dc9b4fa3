"""A causal transformer of unit-scaled layers, as in u-muP, Blake et al., 2407.17465.

Norms without gain before each branch, rotary positions, gated SiLU, and residual weights and
multipliers from `Hyperparameters`.
"""

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Integer

from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.umup import Hyperparameters, residual_weights
from qmgen.efficiency.unit_scaled_layers import (
    AnyKey,
    DepthStack,
    Embedding,
    Linear,
    LinearReadout,
)
from qmgen.efficiency.unit_scaled_nonlinear import attention, gated_silu
from qmgen.efficiency.unit_scaling import cross_entropy, residual, rms_norm
from qmgen.errors import InputError


class FeedForward(eqx.Module):
    """Gated SiLU between linear layers.

    These need no constraint: `down` has the factors of `up` and `gate` the other way round, so that
    value and gradient of the whole have one factor.
    """

    up: Linear
    gate: Linear
    down: Linear
    multiplier: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        key: AnyKey,
        multiplier: float = 1.0,
        formats: MatmulFormats | None = None,
    ) -> None:
        up, gate, down = jax.random.split(key, 3)
        self.up = Linear(width, hidden, key=up, constraint=None, formats=formats)
        self.gate = Linear(width, hidden, key=gate, constraint=None, formats=formats)
        self.down = Linear(hidden, width, key=down, constraint=None, formats=formats)
        self.multiplier = multiplier

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The layer of a whole batch."""
        return self.down(gated_silu(self.up(x), self.gate(x), multiplier=self.multiplier))


class SelfAttention(eqx.Module):
    """Attention of several heads with rotary positions; its two inner products stay wide."""

    into: Linear
    out: Linear
    heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)
    multiplier: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key: AnyKey,
        causal: bool = True,
        multiplier: float = 1.0,
        formats: MatmulFormats | None = None,
    ) -> None:
        if width % (2 * heads):
            raise InputError(f"a width of {width} doesn't make {heads} heads of an even size")
        into, out = jax.random.split(key)
        self.into = Linear(width, 3 * width, key=into, formats=formats)
        self.out = Linear(width, width, key=out, formats=formats)
        self.heads = heads
        self.causal = causal
        self.multiplier = multiplier

    def __call__(
        self,
        x: Float[Array, "batch length width"],
        is_token: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length width"]:
        """The layer of a whole batch; only tokens are attended to."""
        size = x.shape[-1] // self.heads
        parts = self.into(x).reshape(*x.shape[:-1], 3, self.heads, size)
        query, key, value = (parts[..., part, :, :] for part in range(3))
        # A rotation leaves values and gradients at unit scale.
        turn = eqx.nn.RotaryPositionalEmbedding(size)
        turn_heads = jax.vmap(jax.vmap(turn, 1, 1))
        mixed = attention(
            turn_heads(query),
            turn_heads(key),
            value,
            is_token=is_token,
            causal=self.causal,
            multiplier=self.multiplier,
        )
        return self.out(mixed.reshape(x.shape))


class TransformerLayer(eqx.Module):
    """Attention and feed-forward, each in a residual branch behind a norm.

    Attributes
    ----------
    attention_weight, ffn_weight
        tau of the two branches.
    """

    attention: SelfAttention
    ffn: FeedForward
    attention_weight: float = eqx.field(static=True)
    ffn_weight: float = eqx.field(static=True)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        """The layer of a whole batch."""
        x = residual(lambda v: self.attention(rms_norm(v)), x, self.attention_weight)
        return residual(lambda v: self.ffn(rms_norm(v)), x, self.ffn_weight)


def transformer_stack(
    depth: int,
    width: int,
    heads: int,
    *,
    key: AnyKey,
    causal: bool = True,
    expansion: int = 4,
    hyper: Hyperparameters | None = None,
    formats: MatmulFormats | None = None,
) -> DepthStack:
    """`depth` transformer layers whose branches have u-muP's weights.

    Parameters
    ----------
    expansion
        Hidden numbers of a feed-forward layer over the width.
    formats
        Of the products with weights.

    Raises
    ------
    InputError
        Heads don't divide the width into even parts.
    """
    hyper = hyper or Hyperparameters()
    layers = []
    for weights, pair in zip(
        residual_weights(depth, hyper), jax.random.split(key, (depth, 2)), strict=True
    ):
        attention = SelfAttention(
            width,
            heads,
            key=pair[0],
            causal=causal,
            multiplier=hyper.attention_softmax,
            formats=formats,
        )
        ffn = FeedForward(
            width,
            expansion * width,
            key=pair[1],
            multiplier=hyper.ffn_activation,
            formats=formats,
        )
        layers.append(TransformerLayer(attention, ffn, *weights))
    return DepthStack(tuple(layers))


class Decoder(eqx.Module):
    """A causal language model: embedding, transformer layers, norm, readout."""

    embedding: Embedding
    stack: DepthStack
    readout: LinearReadout
    hyper: Hyperparameters = eqx.field(static=True)

    def __init__(
        self,
        vocabulary: int,
        depth: int,
        width: int,
        heads: int,
        *,
        key: AnyKey,
        expansion: int = 4,
        hyper: Hyperparameters | None = None,
        formats: MatmulFormats | None = None,
    ) -> None:
        first, middle, last = jax.random.split(key, 3)
        self.hyper = hyper or Hyperparameters()
        self.embedding = Embedding(vocabulary, width, key=first)
        self.stack = transformer_stack(
            depth,
            width,
            heads,
            key=middle,
            expansion=expansion,
            hyper=self.hyper,
            formats=formats,
        )
        self.readout = LinearReadout(width, vocabulary, key=last, formats=formats)

    def __call__(
        self, tokens: Integer[Array, "batch length"]
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of the token behind each one."""
        return self.readout(rms_norm(self.stack(self.embedding(tokens))))

    def loss(self, tokens: Integer[Array, "batch length"]) -> Float[Array, ""]:
        """Mean cross-entropy of all tokens but the first."""
        logits = self(tokens[:, :-1])
        return cross_entropy(logits, tokens[:, 1:], multiplier=self.hyper.loss_softmax)
