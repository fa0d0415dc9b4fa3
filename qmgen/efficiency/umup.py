"""u-muP: a parametrisation whose best learning rate is meant to stay as width and depth change.

Blake et al., 2407.17465. Weights start standard normal and operations have unit scale
(`unit_scaling`), so what is left of muP is in the learning rates: under Adam eta width^-1/2 for
embeddings, eta inputs^-1/2 for hidden weights, eta for the readout, biases and gains; in residual
layers also times depth^-1/2. The other hyper-parameters hardly depend on it or on each other, so
sweep the learning rate first.
"""

import math
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PyTree

from qmgen.efficiency.unit_scaled_layers import (
    DepthStack,
    Embedding,
    LayerNorm,
    Linear,
    LinearReadout,
    RMSNorm,
)
from qmgen.errors import InputError


@dataclass(frozen=True)
class Hyperparameters:
    """Multipliers of u-muP; all are near their best at 1.

    Attributes
    ----------
    attention_softmax
        Of attention's logits.
    ffn_activation
        Inside the gated SiLU.
    residual
        Contribution of all residual layers to the last one's output, over that of the embedding.
    residual_attention_ratio
        Contribution of attention over that of feed-forward layers.
    loss_softmax
        Of the logits in the loss.
    """

    attention_softmax: float = 1.0
    ffn_activation: float = 1.0
    residual: float = 1.0
    residual_attention_ratio: float = 1.0
    loss_softmax: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"the multiplier {name} is {value}; it must be positive")


def residual_weights(depth: int, hyper: Hyperparameters) -> list[tuple[float, float]]:
    """Weights tau of the attention and the feed-forward branch of each of `depth` layers.

    Branch i of the 2 depth ones has tau_i^2 = a_i^2 / (depth + n_A a_A^2 + n_F a_F^2), where n_A
    and n_F branches of each kind come before it: all of a kind contribute alike to the output.
    """
    ratio = hyper.residual_attention_ratio
    ffn = 2 * hyper.residual**2 / (1 + ratio**2)
    attention = ratio**2 * ffn
    weights = []
    for before in range(depth):
        total = depth + before * (attention + ffn)
        weights.append((math.sqrt(attention / total), math.sqrt(ffn / (total + attention))))
    return weights


@dataclass(frozen=True)
class Role:
    """What a parameter is to the rule of learning rates.

    Attributes
    ----------
    kind
        "vector" are biases and gains.
    fan_in
        Numbers that it sums over; of an embedding its width.
    depth
        Of the stack it is in, 1 outside of one.
    """

    kind: Literal["embedding", "hidden", "output", "vector"]
    fan_in: int
    depth: int = 1

    @property
    def learning_rate_factor(self) -> float:
        """By which the learning rate of Adam is multiplied."""
        by_width = self.kind in ("embedding", "hidden")
        return (self.fan_in**-0.5 if by_width else 1.0) * self.depth**-0.5


_LAYERS = (Linear, LinearReadout, Embedding, LayerNorm, RMSNorm)


def roles(model: PyTree) -> PyTree:
    """The model with a `Role` in place of each parameter, and None in place of other leaves.

    Raises
    ------
    InputError
        A parameter outside of unit-scaled layers.
    """
    return _roles(model, 1)


def _roles(model: PyTree, depth: int) -> PyTree:
    def of_node(path: tuple, node: object) -> object:
        if isinstance(node, DepthStack):
            return eqx.tree_at(
                lambda stack: stack.layers, node, _roles(node.layers, depth * len(node.layers))
            )
        if isinstance(node, _LAYERS):
            return _layer_roles(node, depth)
        if eqx.is_inexact_array(node):
            raise InputError(
                f"the parameter {jax.tree_util.keystr(path)} is in no unit-scaled layer, so that "
                "its learning rate isn't known; use the layers of unit_scaled_layers"
            )
        return None

    return jax.tree_util.tree_map_with_path(
        of_node, model, is_leaf=lambda node: isinstance(node, (DepthStack, *_LAYERS))
    )


def _layer_roles(layer: eqx.Module, depth: int) -> eqx.Module:
    kind: Literal["embedding", "hidden", "output"] = "hidden"
    if isinstance(layer, Embedding):
        kind = "embedding"
    elif isinstance(layer, LinearReadout):
        kind = "output"
    # Stacked layers, as `equinox.filter_vmap` makes them, have weights of three axes.
    return jax.tree.map(
        lambda leaf: Role(kind if leaf.ndim > 1 else "vector", leaf.shape[-1], depth), layer
    )


def scale_by_role(model_roles: PyTree) -> optax.GradientTransformation:
    """Multiply each parameter's update by the factor of its role.

    Put behind whatever makes updates of unit scale: Adam, or plain gradients of networks whose
    readout has no constraint.
    """
    factors = jax.tree.map(lambda role: role.learning_rate_factor, model_roles)

    def scale(updates: optax.Updates, parameters: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda factor, update: factor * update, factors, updates)

    return optax.stateless(scale)


def adam(
    learning_rate: float | Float[Array, ""],
    model_roles: PyTree,
    *,
    schedule: optax.Schedule | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with u-muP's learning rates and independent weight decay.

    A step is -schedule(t) (learning_rate factor adam + weight_decay parameter).

    Parameters
    ----------
    learning_rate
        eta at its peak, of the order of 1.
    model_roles
        `roles` of the model.
    schedule
        Of learning rate and decay, relative to their peak; constant if there is none.
    weight_decay
        Part of a parameter that a step takes away, whatever the learning rate.
    """
    return optax.chain(
        optax.scale_by_adam(b1, b2, epsilon),
        scale_by_role(model_roles),
        optax.scale(learning_rate),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(1.0 if schedule is None else schedule),
    )
