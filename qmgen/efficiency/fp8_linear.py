"""Linear layers in FP8 for training, and trained ones cast for inference.

Perez et al., 2309.17224: activations and weights in E4M3, gradients in E5M2, each with one power of
two, 2^b, for the tensor, b = floor(log2(largest number of the format / absmax)).
"""

from collections.abc import Callable
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
    """A linear layer for training: wide weights, rounded in every product."""

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None
    formats: MatmulFormats = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "*batch inputs"],
        *,
        key: Key[Array, ""] | UInt[Array, "2"] | None = None,
    ) -> Float[Array, "*batch outputs"]:
        """The layer of whole batches; under vmap each example's activations have their own scale.

        key
            For stochastic rounding.
        """
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
    return _replace_linears(model, lambda layer: QuantisedLinear(layer.weight, layer.bias, formats))


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

    return _replace_linears(model, cast)


def _replace_linears(model: PyTree, replacement: Callable[[Any], eqx.Module]) -> PyTree:
    def is_linear(node: object) -> bool:
        return isinstance(node, QuantisedLinear) or (
            isinstance(node, eqx.nn.Linear)
            and "scalar" not in (node.in_features, node.out_features)
        )

    return jax.tree.map(
        lambda node: replacement(node) if is_linear(node) else node, model, is_leaf=is_linear
    )
