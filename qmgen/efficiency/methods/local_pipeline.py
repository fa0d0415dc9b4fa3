"""Pieces of a network that train at the same time, each on a device of its own.

Laskin et al., 2012.03837. A device takes the activations of a minibatch from the one before, hands
its own on as soon as they are there, and makes its step by its local loss. Nothing goes back, so
that it never waits for later ones; if pieces overlap, one gradient comes back from the next device,
and from none behind that. What comes out is local training (`local_losses`) to the digit, as a
device sees each minibatch with the weights that all minibatches before have given. Gradients of
backpropagation through the same devices are here, too, for comparison.
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
def _own_gradients(
    stage: Stage, x: PyTree, labels: PyTree, loss: Loss
) -> tuple[Float[Array, ""], PyTree, PyTree]:
    """A stage's loss, and its gradients by the stage and by what the stage was handed."""

    def of_both(both: tuple[Stage, PyTree]) -> Array:
        stage, x = both
        return loss(stage.head(stage.activations(x)), labels)

    value, (by_stage, by_input) = eqx.filter_value_and_grad(of_both)((stage, x))
    return value, by_stage, by_input


@eqx.filter_jit
def _gradient_from(stage: Stage, x: PyTree, by_output: PyTree) -> PyTree:
    """The gradient by a stage of a loss whose gradient by the stage's activations is known."""
    _, pullback = eqx.filter_vjp(lambda one: one.activations(x), stage)
    (by_stage,) = pullback(by_output)
    return by_stage


@eqx.filter_jit
def _updated(
    stage: Stage, optimiser: optax.GradientTransformation, state: Any, gradients: list[PyTree]
) -> tuple[Stage, Any]:
    """A step by the sum of gradients."""
    total = jax.tree.map(lambda *parts: sum(parts), *gradients)
    updates, state = optimiser.update(total, state, eqx.filter(stage, eqx.is_inexact_array))
    return eqx.apply_updates(stage, updates), state


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
    trained, states = _started(stages, optimiser, devices)
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
        _keep_pace(losses, len(stages))
    return trained, _as_numbers(losses, len(stages))


def train_overlapping_pipeline(
    stages: Sequence[Stage],
    optimiser: optax.GradientTransformation,
    batches: Iterable[tuple[PyTree, PyTree]],
    loss: Loss,
    devices: Sequence[jax.Device],
) -> tuple[list[Stage], Float32[np.ndarray, "steps losses"]]:
    """Train each stage by the loss behind it and by that behind the next one.

    With stages of one layer these are the pieces of `local_losses.overlapping`. The first stage has
    no loss of its own. A device makes its step when the next one has sent back the gradient of its
    loss by the activations that it was handed.

    Parameters
    ----------
    optimiser, batches, devices
        As of `train_pipeline`.

    Returns
    -------
    The trained stages, and in each step the loss of each but the first.

    Raises
    ------
    InputError
        There aren't as many devices as stages, or fewer than two stages.
    """
    if len(stages) < 2:
        raise InputError("pieces that overlap are of two stages, so there are at least two")
    trained, states = _started(stages, optimiser, devices)
    losses: list[list[Array]] = []
    for x, labels in batches:
        handed = [jax.device_put(x, devices[0])]
        gradients: list[list[PyTree]] = [[] for _ in stages]
        back, values = [], []
        for number, device in enumerate(devices[1:], 1):
            before = _activations(trained[number - 1], handed[-1])
            handed.append(jax.device_put(before, device))
            known = jax.device_put(labels, device)
            value, own, by_input = _own_gradients(trained[number], handed[-1], known, loss)
            gradients[number].append(own)
            back.append(jax.device_put(by_input, devices[number - 1]))
            values.append(value)
        for number, by_output in enumerate(back):
            gradients[number].append(_gradient_from(trained[number], handed[number], by_output))
        for number, of_stage in enumerate(gradients):
            trained[number], states[number] = _updated(
                trained[number], optimiser, states[number], of_stage
            )
        losses.append(values)
        _keep_pace(losses, len(stages))
    return trained, _as_numbers(losses, len(stages) - 1)


def _started(
    stages: Sequence[Stage],
    optimiser: optax.GradientTransformation,
    devices: Sequence[jax.Device],
) -> tuple[list[Stage], list[Any]]:
    """Stages and their optimisers' states, where they stay."""
    _check_devices(stages, devices)
    pairs = list(zip(stages, devices, strict=True))
    states = [
        _placed(optimiser.init(eqx.filter(stage, eqx.is_inexact_array)), device)
        for stage, device in pairs
    ]
    return [_placed(stage, device) for stage, device in pairs], states


def _keep_pace(losses: list[list[Array]], stages: int) -> None:
    """Wait for the last stage, so that activations don't pile up before a slow one."""
    if len(losses) > stages:
        losses[-1 - stages][-1].block_until_ready()


def _as_numbers(losses: list[list[Array]], each: int) -> Float32[np.ndarray, "steps losses"]:
    values = [[float(value) for value in of_batch] for of_batch in losses]
    return np.array(values, np.float32).reshape(-1, each)


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
