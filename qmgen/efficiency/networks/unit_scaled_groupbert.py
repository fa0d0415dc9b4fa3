"""GroupBERT's layer at unit scale, Chelombiev et al., 2106.05822, and Blake et al., 2303.11257.

Weights start standard normal and all numbers and gradients have about unit variance, so that the
products, grouped ones included, can be bare casts to FP8. Attention's two inner products stay wide.
Norms are without gains and linear layers without biases, as in u-muP.
"""

import math
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Integer

from qmgen.efficiency.networks.bert import AnyKey, corrupted
from qmgen.efficiency.networks.groupbert import (
    FFN_GROUPS,
    GROUP_CHANNELS,
    KERNEL,
    convolution_groups,
)
from qmgen.efficiency.networks.grouped import check_groups
from qmgen.efficiency.networks.smiles_tokens import PAD
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.umup import Hyperparameters, residual_weights
from qmgen.efficiency.unit_scaled_layers import DepthStack, Embedding, Linear, LinearReadout
from qmgen.efficiency.unit_scaled_nonlinear import gelu, silu
from qmgen.efficiency.unit_scaled_transformer import SelfAttention
from qmgen.efficiency.unit_scaling import (
    Constraint,
    add,
    layer_norm,
    residual,
    scale_backward,
    scale_forward,
)


@lru_cache
def gate_factor() -> float:
    """1 / RMS of v sigmoid(g) for normal v and g, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    return float((weights @ (1 + np.exp(-points)) ** -2 / math.sqrt(2 * math.pi)) ** -0.5)


def gated(value: Float[Array, "*shape"], gate: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gate v by g: v sigmoid(g), with one factor for the value and both gradients.

    Both come from one branch. The gradient of the value has unit scale, that of the gate 0.4.
    """
    factor = gate_factor()
    value, gate = scale_backward(value, factor), scale_backward(gate, factor)
    return scale_forward(value * jax.nn.sigmoid(gate), factor)


class GroupedLinear(eqx.Module):
    """One unit-scaled linear layer a group of channels; its weights are (groups, out, in)."""

    layers: Linear

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        *,
        key: AnyKey,
        constraint: Constraint = "to_output",
        formats: MatmulFormats | None = None,
    ) -> None:
        check_groups(inputs, outputs, groups)

        def of_group(key: Array) -> Linear:
            return Linear(
                inputs // groups, outputs // groups, key=key, constraint=constraint, formats=formats
            )

        self.layers = eqx.filter_vmap(of_group)(jax.random.split(key, groups))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer of a whole batch. Groups are no part of it, so vmap leaves factors right."""
        groups = self.layers.weight.shape[0]
        x = x.reshape(*x.shape[:-1], groups, -1)
        y = eqx.filter_vmap(
            lambda layer, v: layer(v), in_axes=(eqx.if_array(0), -2), out_axes=x.ndim - 2
        )(self.layers, x)
        return y.reshape(*x.shape[:-2], -1)


def windows(
    x: Float[Array, "batch length width"], groups: int
) -> Float[Array, "batch length windows"]:
    """What a grouped convolution of 7 places sees: for each group places, and in these channels."""
    batch, length, width = x.shape
    filled = jnp.pad(x, ((0, 0), (KERNEL // 2, KERNEL // 2), (0, 0)))
    places = jnp.stack([filled[:, at : at + length] for at in range(KERNEL)], 2)
    split = places.reshape(batch, length, KERNEL, groups, width // groups)
    return jnp.swapaxes(split, 2, 3).reshape(batch, length, KERNEL * width)


class ConvolutionModule(eqx.Module):
    """Gated linear unit, grouped convolution, norm, Swish, and a linear layer.

    The convolution is a grouped linear layer of windows. As it has as many outputs as inputs a
    group, value and gradient have the same factor.
    """

    value: Linear
    gate: Linear
    convolution: GroupedLinear
    out: Linear

    def __init__(self, width: int, *, key: AnyKey, formats: MatmulFormats | None = None) -> None:
        value, gate, middle, last = jax.random.split(key, 4)
        groups = convolution_groups(width)
        self.value = Linear(width, width, key=value, formats=formats)
        self.gate = Linear(width, width, key=gate, formats=formats)
        self.convolution = GroupedLinear(KERNEL * width, width, groups, key=middle, formats=formats)
        self.out = Linear(width, width, key=last, formats=formats)

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The module of a whole batch."""
        inside = jnp.where(is_token[..., None], gated(self.value(x), self.gate(x)), 0)
        mixed = self.convolution(windows(inside, x.shape[-1] // GROUP_CHANNELS))
        return self.out(silu(layer_norm(mixed)))


class GroupedFeedForward(eqx.Module):
    """GELU between a dense and a grouped layer, and a dense layer.

    The first two need no constraint: with four times as many outputs, and four groups, they have
    together the same factor for value and gradient, 1 / width.
    """

    up: Linear
    down: GroupedLinear
    mix: Linear

    def __init__(self, width: int, *, key: AnyKey, formats: MatmulFormats | None = None) -> None:
        up, down, mix = jax.random.split(key, 3)
        self.up = Linear(width, 4 * width, key=up, constraint=None, formats=formats)
        self.down = GroupedLinear(
            4 * width, width, FFN_GROUPS, key=down, constraint=None, formats=formats
        )
        self.mix = Linear(width, width, key=mix, formats=formats)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The layer of a whole batch."""
        return self.mix(self.down(gelu(self.up(x))))


class GroupBertLayer(eqx.Module):
    """Convolution, feed-forward, attention, feed-forward in residual branches behind a norm.

    Attributes
    ----------
    weights
        tau of the four branches.
    """

    convolution: ConvolutionModule
    first_ffn: GroupedFeedForward
    attention: SelfAttention
    second_ffn: GroupedFeedForward
    weights: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key: AnyKey,
        weights: tuple[float, ...],
        formats: MatmulFormats | None = None,
    ) -> None:
        convolution, first, attention, second = jax.random.split(key, 4)
        self.convolution = ConvolutionModule(width, key=convolution, formats=formats)
        self.first_ffn = GroupedFeedForward(width, key=first, formats=formats)
        self.attention = SelfAttention(width, heads, key=attention, causal=False, formats=formats)
        self.second_ffn = GroupedFeedForward(width, key=second, formats=formats)
        self.weights = weights

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The layer of a whole batch."""
        branches = (
            lambda v: self.convolution(layer_norm(v), is_token),
            lambda v: self.first_ffn(layer_norm(v)),
            lambda v: self.attention(layer_norm(v), is_token),
            lambda v: self.second_ffn(layer_norm(v)),
        )
        for branch, weight in zip(branches, self.weights, strict=True):
            x = residual(branch, x, weight)
        return x


def groupbert_stack(
    depth: int, width: int, heads: int, *, key: AnyKey, formats: MatmulFormats | None = None
) -> DepthStack:
    """Layers whose branches all contribute the same, together as much as the input.

    Raises
    ------
    InputError
        A width that isn't a multiple of 16, or that doesn't make heads of an even size.
    """
    pairs = residual_weights(2 * depth, Hyperparameters())
    layers = tuple(
        GroupBertLayer(
            width, heads, key=k, weights=pairs[2 * i] + pairs[2 * i + 1], formats=formats
        )
        for i, k in enumerate(jax.random.split(key, depth))
    )
    return DepthStack(layers)


class MaskedLanguageModel(eqx.Module):
    """Embeddings of tokens and places, layers, a norm and a readout; for `umup.roles`, too."""

    embedding: Embedding
    places: Embedding
    stack: DepthStack
    readout: LinearReadout

    def __init__(
        self,
        vocabulary: int,
        longest: int,
        depth: int,
        width: int,
        heads: int,
        *,
        key: AnyKey,
        formats: MatmulFormats | None = None,
    ) -> None:
        tokens, places, middle, last = jax.random.split(key, 4)
        self.embedding = Embedding(vocabulary, width, key=tokens)
        self.places = Embedding(longest, width, key=places)
        self.stack = groupbert_stack(depth, width, heads, key=middle, formats=formats)
        self.readout = LinearReadout(width, vocabulary, key=last, formats=formats)

    def __call__(
        self, tokens: Integer[Array, "batch length"]
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits of the token at each place; those at places of PAD mean nothing."""
        is_token = tokens != PAD
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = add(self.embedding(tokens), self.places(places))
        return self.readout(layer_norm(self.stack(x, is_token)))

    def loss(self, tokens: Integer[Array, "batch length"], key: AnyKey) -> Float[Array, ""]:
        """`masked_language_loss`, with the gradient of the sum as `unit_scaling.cross_entropy`.

        Gradients of logits are 0 but at the chosen places, where they have unit scale.
        """
        vocabulary = self.embedding.weight.shape[0]
        shown = corrupted(tokens, vocabulary, key)
        logits = scale_backward(self(shown.tokens), vocabulary * (vocabulary - 1) ** -0.5)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
        total = jnp.sum(losses * shown.chosen)
        mean = total / jnp.maximum(jnp.sum(shown.chosen), 1)
        # The number of chosen places is none of the constants that `scale_forward` takes.
        return total + jax.lax.stop_gradient(mean - total)
