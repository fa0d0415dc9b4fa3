"""Pieces of a network that train at the same time, each on a device of its own.

Laskin et al., 2012.03837. A device takes the activations of a minibatch from the one before, hands
its own on as soon as they are there, and makes its step by its local loss. Nothing goes back, so
that it never waits for later ones. What comes out is local training (`local_losses`) to the digit,
as a device sees each minibatch with the weights that all minibatches before have given. Gradients
of backpropagation through the same devices are here, too, for comparison.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, PyTree

from qmgen.errors import InputError

Loss = Callable[[Any, Any], Float[Array, ""]]
"""Mean over a minibatch, of the predictions and what they should be."""


class Stage(eqx.Module):
    """A piece of a network.

    Attributes
    ----------
    layers
        Each takes what the one before gives.
    head
        Makes a prediction of what the last layer gives; of backpropagation only the last stage's
        counts.
    """

    layers: tuple[Callable, ...]
    head: Callable

    def activations(self, x: PyTree) -> PyTree:
        """What goes to the next stage."""
        for layer in self.layers:
            x = layer(x)
        return x


@eqx.filter_jit
def local_step(
    stage: Stage,
    optimiser: optax.GradientTransformation,
    state: Any,
    x: PyTree,
    labels: PyTree,
    loss: Loss,
) -> tuple[Stage, Any, PyTree, Float[Array, ""]]:
    """A stage's step on activations of the stage before, where the stage's weights are.

    Returns
    -------
    The stage and the optimiser's state after it; the activations and the loss of before.
    """

    def of_stage(stage: Stage) -> tuple[Array, PyTree]:
        activations = stage.activations(x)
        return loss(stage.head(activations), labels), activations

    (value, activations), gradients = eqx.filter_value_and_grad(of_stage, has_aux=True)(stage)
    learnt = eqx.filter(stage, eqx.is_inexact_array)
    updates, state = optimiser.update(gradients, state, learnt)
    return eqx.apply_updates(stage, updates), state, activations, value


@eqx.filter_jit
def _activations(stage: Stage, x: PyTree) -> PyTree:
    return stage.activations(x)


@eqx.filter_jit
def _loss_of_head(stage: Stage, x: PyTree, labels: PyTree, loss: Loss) -> Float[Array, ""]:
    return loss(stage.head(x), labels)


def _placed(tree: PyTree, device: jax.Device) -> PyTree:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, device), rest)


def _check_devices(stages: Sequence[Stage], devices: Sequence[jax.Device]) -> None:
    if not stages or len(devices) != len(stages):
        raise InputError(
            f"{len(stages)} stages need as many devices, not {len(devices)}; on a processor "
            "XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of it"
        )


def train_pipeline(
    stages: Sequence[Stage],
    optimiser: optax.GradientTransformation,
    batches: Iterable[tuple[PyTree, PyTree]],
    loss: Loss,
    devices: Sequence[jax.Device],
) -> tuple[list[Stage], Float32[np.ndarray, "steps stages"]]:
    """Train all stages at the same time, each by its own loss.

    Parameters
    ----------
    optimiser
        Of each stage by itself.
    batches
        Inputs of the first stage, and labels.
    devices
        One for each stage, where its weights and moments stay.

    Returns
    -------
    The trained stages, and each one's loss in each step.

    Raises
    ------
    InputError
        There aren't as many devices as stages.
    """
    _check_devices(stages, devices)
    pairs = list(zip(stages, devices, strict=True))
    trained = [_placed(stage, device) for stage, device in pairs]
    states = [
        _placed(optimiser.init(eqx.filter(stage, eqx.is_inexact_array)), device)
        for stage, device in pairs
    ]
    losses: list[list[Array]] = []
    for x, labels in batches:
        of_batch = []
        for number, device in enumerate(devices):
            # None of these lines waits: arrays are promises that a device will keep in its turn.
            handed, known = jax.device_put((x, labels), device)
            trained[number], states[number], x, value = local_step(
                trained[number], optimiser, states[number], handed, known, loss
            )
            of_batch.append(value)
        losses.append(of_batch)
        if len(losses) > len(stages):
            # So that activations don't pile up before a slow stage.
            losses[-1 - len(stages)][-1].block_until_ready()
    values = [[float(value) for value in of_batch] for of_batch in losses]
    return trained, np.array(values, np.float32).reshape(-1, len(stages))


def pipelined_gradients(
    stages: Sequence[Stage],
    micro_batches: Sequence[tuple[PyTree, PyTree]],
    loss: Loss,
    devices: Sequence[jax.Device],
) -> tuple[Float[Array, ""], list[PyTree]]:
    """Backpropagation through stages on devices, by micro-batches of equal size in a row.

    Huang et al., 1811.06965 (GPipe): a device works on one micro-batch while the next one has
    another; before the weights change, all of them have to come back.

    Returns
    -------
    The last head's mean loss, and its gradients by each stage's parameters, where these are.

    Raises
    ------
    InputError
        There aren't as many devices as stages, or there is no micro-batch.
    """
    _check_devices(stages, devices)
    if not micro_batches:
        raise InputError("a step has at least one micro-batch")
    placed = [_placed(stage, device) for stage, device in zip(stages, devices, strict=True)]

    def mean_loss(stages: list[Stage]) -> Array:
        losses = []
        for x, labels in micro_batches:
            for stage, device in zip(stages, devices, strict=True):
                x = _activations(stage, jax.device_put(x, device))
            known = jax.device_put(labels, devices[-1])
            losses.append(_loss_of_head(stages[-1], x, known, loss))
        return jnp.mean(jnp.stack(losses))

    value, gradients = eqx.filter_value_and_grad(mean_loss)(placed)
    # Zeros of heads that aren't in use are elsewhere.
    return value, [_placed(g, device) for g, device in zip(gradients, devices, strict=True)]
