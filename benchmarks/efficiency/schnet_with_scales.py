"""Layers and steps that let a SchNet be trained in 16 and 8 bits by scales of their own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qmgen.efficiency import unit_scaled_layers
from qmgen.efficiency.fp8_linear import replace_linears
from qmgen.efficiency.loss_scaling import LossScale, ScaledStep
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.scalify import as_scaled, scalify, unscale
from qmgen.efficiency.scalify.markers import dynamic_rescale_l2, rescale_gradient
from qmgen.training.jax_schnet import SchNet


class RescaledLinear(eqx.Module):
    """A linear layer whose input, and gradient of the output, are rescaled in scalified steps."""

    weight: jax.Array
    bias: jax.Array | None
    product: Callable[..., jax.Array] = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The layer of a whole batch."""
        y = self.product(dynamic_rescale_l2(x), self.weight.T)
        return rescale_gradient(y if self.bias is None else y + self.bias)


def in_scaled_half(product: Callable[..., jax.Array], model: SchNet, key: jax.Array) -> SchNet:
    """Interactions in float16, for a scalified step."""
    halves = jax.tree.map(lambda w: w.astype(jnp.float16), model.interactions)
    layers = replace_linears(halves, lambda at: RescaledLinear(at.weight, at.bias, product))
    return eqx.tree_at(lambda m: m.interactions, model, layers)


def scalified_grad(
    loss: Callable[..., jax.Array], rule: LossScale, state: Any, parameters: Any, *arguments: Any
) -> ScaledStep:
    """`value_and_scaled_grad` by scale propagation, which needs no loss scale."""
    found = scalify(jax.value_and_grad(loss))(as_scaled(parameters), *arguments)
    value, gradients = unscale(found)
    finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)]).all()
    return ScaledStep(value, gradients, finite, state)


def unit_scaled(formats: MatmulFormats, model: SchNet) -> SchNet:
    """The same function with weights of order 1: those of the interactions times sqrt(inputs)."""

    def layer(at: eqx.nn.Linear) -> unit_scaled_layers.Linear:
        made = unit_scaled_layers.Linear(
            at.in_features, at.out_features, key=jax.random.key(0),
            use_bias=at.bias is not None, formats=formats,
        )  # fmt: skip
        weight = at.weight * at.in_features**0.5
        return eqx.tree_at(
            lambda m: (m.weight, m.bias), made, (weight, at.bias), is_leaf=lambda v: v is None
        )

    layers = replace_linears(model.interactions, layer)
    return eqx.tree_at(lambda m: m.interactions, model, layers)


def unit_scaled_factors(model: SchNet) -> SchNet:
    """By what steps are larger, as weights are: sqrt(inputs) for those of unit-scaled layers."""

    def of_layer(node: Any) -> Any:
        if not isinstance(node, unit_scaled_layers.Linear):
            return 1.0 if eqx.is_inexact_array(node) else node
        factor = node.weight.shape[1] ** 0.5
        return eqx.tree_at(
            lambda m: (m.weight, m.bias), node, (factor, None if node.bias is None else 1.0),
            is_leaf=lambda v: v is None,
        )  # fmt: skip

    return jax.tree.map(of_layer, model, is_leaf=lambda v: isinstance(v, unit_scaled_layers.Linear))
