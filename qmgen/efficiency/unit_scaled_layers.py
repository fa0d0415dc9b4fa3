"""Equinox layers with unit scale: weights are standard normal, factors are in `unit_scaling`.

Layers take whole batches, along any number of leading axes: under `jax.vmap` each example would
count as the batch, and weight gradients would have the wrong scale.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key, UInt

from qmgen.efficiency import unit_scaling
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.unit_scaled_nonlinear import Function, elementwise
from qmgen.efficiency.unit_scaling import Constraint
from qmgen.errors import InputError

AnyKey = Key[Array, ""] | UInt[Array, "2"]


class Linear(eqx.Module):
    """A linear layer; `formats` are those of its products, None for wide ones."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None
    constraint: Constraint = eqx.field(static=True)
    formats: MatmulFormats | None = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key: AnyKey,
        use_bias: bool = False,
        constraint: Constraint = "to_output",
        formats: MatmulFormats | None = None,
    ) -> None:
        self.weight = jax.random.normal(key, (outputs, inputs))
        self.bias = jnp.zeros(outputs) if use_bias else None
        self.constraint = constraint
        self.formats = formats

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer of a whole batch."""
        return unit_scaling.linear(
            x, self.weight, self.bias, constraint=self.constraint, formats=self.formats
        )


class LinearReadout(eqx.Module):
    """The last linear layer of a network, a cut edge with outputs times 1 / inputs."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None
    formats: MatmulFormats | None = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key: AnyKey,
        use_bias: bool = False,
        formats: MatmulFormats | None = None,
    ) -> None:
        self.weight = jax.random.normal(key, (outputs, inputs))
        self.bias = jnp.zeros(outputs) if use_bias else None
        self.formats = formats

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer of a whole batch."""
        return unit_scaling.linear_readout(x, self.weight, self.bias, formats=self.formats)


class Embedding(eqx.Module):
    """A vector for each token of a vocabulary."""

    weight: Float[Array, "vocabulary width"]

    def __init__(self, vocabulary: int, width: int, *, key: AnyKey) -> None:
        self.weight = jax.random.normal(key, (vocabulary, width))

    def __call__(self, tokens: Integer[Array, "*batch"]) -> Float[Array, "*batch width"]:
        """Vectors of a whole batch of tokens."""
        return unit_scaling.embedding(tokens, self.weight)


class LayerNorm(eqx.Module):
    """Zero mean and unit variance of each row, with a gain and a bias on request."""

    gain: Float[Array, " width"] | None
    bias: Float[Array, " width"] | None

    def __init__(self, width: int, *, use_gain: bool = False, use_bias: bool = False) -> None:
        self.gain = jnp.ones(width) if use_gain else None
        self.bias = jnp.zeros(width) if use_bias else None

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalise along the last axis."""
        return unit_scaling.layer_norm(x, self.gain, self.bias)


class RMSNorm(eqx.Module):
    """Unit RMS of each row, with a gain on request; u-muP does without."""

    gain: Float[Array, " width"] | None

    def __init__(self, width: int, *, use_gain: bool = False) -> None:
        self.gain = jnp.ones(width) if use_gain else None

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalise along the last axis."""
        return unit_scaling.rms_norm(x, self.gain)


class MLP(eqx.Module):
    """Linear layers with an activation function between them, and a readout.

    All of its edges are cut edges, so that values and gradients have factors of their own; a
    residual branch needs layers with a constraint instead.

    Attributes
    ----------
    layers
        All but the readout.
    activation, multiplier
        As in `elementwise`.
    """

    layers: tuple[Linear, ...]
    readout: LinearReadout
    activation: Function = eqx.field(static=True)
    multiplier: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        *,
        key: AnyKey,
        activation: Function = jax.nn.relu,
        multiplier: float = 1.0,
        use_bias: bool = False,
        formats: MatmulFormats | None = None,
    ) -> None:
        if depth < 1:
            raise InputError(f"a network of {depth} hidden layers; give it at least one")
        *keys, last = jax.random.split(key, depth + 1)
        self.layers = tuple(
            Linear(size, width, key=k, use_bias=use_bias, constraint=None, formats=formats)
            for size, k in zip((inputs, *(width,) * (depth - 1)), keys, strict=True)
        )
        self.readout = LinearReadout(width, outputs, key=last, use_bias=use_bias, formats=formats)
        self.activation = activation
        self.multiplier = multiplier

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The network of a whole batch."""
        for layer in self.layers:
            x = elementwise(self.activation, layer(x), multiplier=self.multiplier, constraint=None)
        return self.readout(x)


class DepthStack(eqx.Module):
    """Residual layers one after another; u-muP lets their weights learn by depth^-1/2."""

    layers: tuple[Callable[..., Array], ...]

    def __call__(self, x: Float[Array, "*shape"], *others: Array) -> Float[Array, "*shape"]:
        """All layers in turn; others, such as a mask, are given to each."""
        for layer in self.layers:
            x = layer(x, *others)
        return x
