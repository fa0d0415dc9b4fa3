"""Linear layers in FP8 for training, and trained ones cast for inference.

Perez et al., 2309.17224: activations and weights in E4M3, gradients in E5M2, each with one power of
two, 2^b, for the tensor, b = floor(log2(largest number of the format / absmax)).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, UInt

from qmgen.efficiency.element import E4M3FN, E5M2, E8M0, FloatElement
from qmgen.efficiency.formats import FixedScale, Format, ScaleFormat
from qmgen.efficiency.quantise import Quantised, dequantise, fake_quantise, quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul


def amax_format(element: FloatElement) -> Format:
    """One power of two for the tensor, as large as its absmax allows (FP8-AMAX).

    The scale is 2^-b, so b rounded down is the scale rounded up.
    """
    return Format(element, ScaleFormat(E8M0, target="max", rounding="up"))


def constant_scale_format(element: FloatElement, bias: int) -> Format:
    """Every tensor times 2^bias, whatever is in it (FP8-CSCALE)."""
    return Format(element, FixedScale(-bias))


FP8_AMAX = MatmulFormats(amax_format(E4M3FN), amax_format(E4M3FN), amax_format(E5M2))


def fp8_constant_scale(bias: int, gradient_bias: int) -> MatmulFormats:
    """FP8-CSCALE with one bias for activations and weights and one for gradients."""
    forward = constant_scale_format(E4M3FN, bias)
    return MatmulFormats(forward, forward, constant_scale_format(E5M2, gradient_bias))


class QuantisedLinear(eqx.Module):
    """A linear layer for training: wide weights, rounded in every product.

    `key` is what a call without one takes; `with_keys` sets it.
    """

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None
    formats: MatmulFormats = eqx.field(static=True)
    key: Key[Array, ""] | UInt[Array, "2"] | None = None

    def __call__(
        self,
        x: Float[Array, "*batch inputs"],
        *,
        key: Key[Array, ""] | UInt[Array, "2"] | None = None,
    ) -> Float[Array, "*batch outputs"]:
        """The layer of whole batches; under vmap each example's activations have their own scale.

        key
            For stochastic rounding and random rotations.
        """
        key = self.key if key is None else key
        y = quantised_matmul(x, self.weight.T, self.formats, key)
        return y if self.bias is None else y + self.bias


class CastLinear(eqx.Module):
    """A linear layer for inference: its weights are codes, rounded once."""

    weight: Quantised
    bias: Float[Array, " outputs"] | None
    activations: Format | None = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "*batch inputs"], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "*batch outputs"]:
        """The layer; `key` is there because Equinox passes one to every layer."""
        rounded = x if self.activations is None else fake_quantise(x, self.activations.along(-1))
        y = jnp.matmul(
            rounded,
            dequantise(self.weight).T,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        ).astype(x.dtype)
        return y if self.bias is None else y + self.bias


def quantise_linears(model: PyTree, formats: MatmulFormats) -> PyTree:
    """Replace each `equinox.nn.Linear` of a model by a `QuantisedLinear` of the same weights."""
    return replace_linears(model, lambda layer: QuantisedLinear(layer.weight, layer.bias, formats))


def with_keys(model: PyTree, key: Key[Array, ""] | UInt[Array, "2"]) -> PyTree:
    """Give each `QuantisedLinear` of a model a key of its own, for the random part of a step.

    Call it with another key in each step, inside the function that is differentiated; then the
    model itself need not pass keys on.
    """

    def is_quantised(node: object) -> bool:
        return isinstance(node, QuantisedLinear)

    count = sum(map(is_quantised, jax.tree.leaves(model, is_leaf=is_quantised)))
    keys = iter(jax.random.split(key, max(count, 1)))
    return jax.tree.map(
        lambda node: replace(node, key=next(keys)) if is_quantised(node) else node,
        model,
        is_leaf=is_quantised,
    )


def apply_linear(
    layer: Callable[..., Array], x: Float[Array, "*batch inputs"]
) -> Float[Array, "*batch outputs"]:
    """A linear layer, plain or quantised, of a whole batch; products are summed in float32.

    An `equinox.nn.Linear` takes single vectors, and under vmap a quantised one would scale each by
    itself.
    """
    if not isinstance(layer, eqx.nn.Linear):
        return layer(x)
    y = quantised_matmul(x, layer.weight.T, MatmulFormats())
    return y if layer.bias is None else y + layer.bias


def cast_linears(model: PyTree, weights: Format, activations: Format | None = None) -> PyTree:
    """Cast each linear layer of a trained model (plain or quantised) for inference.

    Blocks along an axis are along the inputs. Without a format for activations these stay wide.

    Raises
    ------
    InputError
        A stochastic format: what is cast once is rounded to nearest.
    """

    def cast(layer: eqx.nn.Linear | QuantisedLinear) -> CastLinear:
        return CastLinear(quantise(layer.weight, weights.along(-1)), layer.bias, activations)

    return replace_linears(model, cast)


def replace_linears(
    model: PyTree, replacement: Callable[[Any], eqx.Module], also: tuple[type, ...] = ()
) -> PyTree:
    """Put something in the place of each linear layer of a model, plain, quantised or of `also`."""

    def is_linear(node: object) -> bool:
        return isinstance(node, (QuantisedLinear, *also)) or (
            isinstance(node, eqx.nn.Linear)
            and "scalar" not in (node.in_features, node.out_features)
        )

    return jax.tree.map(
        lambda node: replacement(node) if is_linear(node) else node, model, is_leaf=is_linear
    )
