"""The layer of GroupBERT, Chelombiev et al., 2106.05822.

Four residual branches behind a norm each: convolution, feed-forward, attention, feed-forward. The
convolution sees near places, so attention is left with far ones; groups make the second
feed-forward branch affordable. A model has one more norm behind its last layer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qmgen.efficiency.fp8_linear import apply_linear
from qmgen.efficiency.networks.bert import AnyKey, SelfAttention, normalised
from qmgen.efficiency.networks.grouped import GroupedConvolution, GroupedLinear
from qmgen.errors import InputError

KERNEL = 7
GROUP_CHANNELS = 16
FFN_GROUPS = 4


def convolution_groups(width: int) -> int:
    """Groups of 16 channels.

    Raises
    ------
    InputError
        A width that isn't a multiple of 16.
    """
    if width % GROUP_CHANNELS:
        raise InputError(
            f"convolutions have {GROUP_CHANNELS} channels a group, and a width of {width} is no "
            "multiple of it"
        )
    return width // GROUP_CHANNELS


class ConvolutionModule(eqx.Module):
    """Gated linear unit, grouped convolution, norm, Swish, and a linear layer.

    The gate is a sigmoid, that of Dauphin et al., 1612.08083.
    """

    gate_and_value: eqx.nn.Linear
    convolution: GroupedConvolution
    norm: eqx.nn.LayerNorm
    out: eqx.nn.Linear

    def __init__(self, width: int, *, key: AnyKey) -> None:
        first, middle, last = jax.random.split(key, 3)
        self.gate_and_value = eqx.nn.Linear(width, 2 * width, key=first)
        self.convolution = GroupedConvolution(
            width, width, (KERNEL,), groups=convolution_groups(width), key=middle, use_bias=True
        )
        self.norm = eqx.nn.LayerNorm(width)
        self.out = eqx.nn.Linear(width, width, key=last)

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The module of a whole batch."""
        gate, value = jnp.split(apply_linear(self.gate_and_value, x), 2, axis=-1)
        # Zeros like those around the row, so that a row's padding makes no difference.
        gated = jnp.where(is_token[..., None], value * jax.nn.sigmoid(gate), 0)
        mixed = normalised(self.norm, self.convolution(gated))
        return apply_linear(self.out, jax.nn.silu(mixed))


class GroupedFeedForward(eqx.Module):
    """GELU between a dense layer and one of four groups, and a dense layer that mixes the groups.

    The first has all outputs from all inputs, so only the second is in groups.
    """

    up: eqx.nn.Linear
    down: GroupedLinear
    mix: eqx.nn.Linear

    def __init__(self, width: int, *, key: AnyKey) -> None:
        up, down, mix = jax.random.split(key, 3)
        self.up = eqx.nn.Linear(width, 4 * width, key=up)
        self.down = GroupedLinear(4 * width, width, FFN_GROUPS, key=down)
        self.mix = eqx.nn.Linear(width, width, key=mix)

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The layer of a whole batch."""
        hidden = jax.nn.gelu(apply_linear(self.up, x), approximate=False)
        return apply_linear(self.mix, self.down(hidden))


class GroupBertLayer(eqx.Module):
    """The four branches in their order: 19 d^2 + 112 d weights, against BERT's 12 d^2."""

    convolution: ConvolutionModule
    first_ffn: GroupedFeedForward
    attention: SelfAttention
    second_ffn: GroupedFeedForward
    norms: tuple[eqx.nn.LayerNorm, ...]

    def __init__(self, width: int, heads: int, *, key: AnyKey) -> None:
        convolution, first, attention, second = jax.random.split(key, 4)
        self.convolution = ConvolutionModule(width, key=convolution)
        self.first_ffn = GroupedFeedForward(width, key=first)
        self.attention = SelfAttention(width, heads, key=attention)
        self.second_ffn = GroupedFeedForward(width, key=second)
        self.norms = tuple(eqx.nn.LayerNorm(width) for _ in range(4))

    def __call__(
        self, x: Float[Array, "batch length width"], is_token: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length width"]:
        """The layer of a whole batch."""
        x = x + self.convolution(normalised(self.norms[0], x), is_token)
        x = x + self.first_ffn(normalised(self.norms[1], x))
        x = x + self.attention(normalised(self.norms[2], x), is_token)
        return x + self.second_ffn(normalised(self.norms[3], x))
