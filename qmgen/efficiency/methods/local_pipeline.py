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


def split_stage(stage: Stage) -> tuple[PyTree, PyTree]:
    """What is learnt, and the rest."""
    return eqx.partition(stage, eqx.is_inexact_array)


def local_step(static: PyTree, optimiser: optax.GradientTransformation, loss: Loss) -> Callable:
    """A stage's step, to be compiled.

    It is a function of parameters, the optimiser's state, activations of the stage before and
    labels; it gives the first two anew, its activations and its loss.
    """

    def step(parameters: PyTree, state: Any, x: PyTree, labels: PyTree) -> tuple:
        def of_parameters(parameters: PyTree) -> tuple[Array, PyTree]:
            stage = eqx.combine(parameters, static)
            activations = stage.activations(x)
            return loss(stage.head(activations), labels), activations

        (value, activations), gradients = jax.value_and_grad(of_parameters, has_aux=True)(
            parameters
        )
        updates, state = optimiser.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, activations, value

    return step


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
    parameters, states, steps, statics = [], [], [], []
    for stage, device in zip(stages, devices, strict=True):
        learnt, static = split_stage(stage)
        parameters.append(jax.device_put(learnt, device))
        states.append(jax.device_put(optimiser.init(learnt), device))
        steps.append(jax.jit(local_step(static, optimiser, loss)))
        statics.append(static)
    losses: list[list[Array]] = []
    for x, labels in batches:
        of_batch = []
        for number, device in enumerate(devices):
            # None of these lines waits: arrays are promises that a device will keep in its turn.
            handed, known = jax.device_put((x, labels), device)
            parameters[number], states[number], x, value = steps[number](
                parameters[number], states[number], handed, known
            )
            of_batch.append(value)
        losses.append(of_batch)
        if len(losses) > len(stages):
            # So that activations don't pile up before a slow stage.
            losses[-1 - len(stages)][-1].block_until_ready()
    trained = [eqx.combine(p, static) for p, static in zip(parameters, statics, strict=True)]
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
    split = [split_stage(stage) for stage in stages]
    parameters = [
        jax.device_put(learnt, device) for (learnt, _), device in zip(split, devices, strict=True)
    ]

    def forward(static: PyTree) -> Callable:
        return jax.jit(lambda learnt, x: eqx.combine(learnt, static).activations(x))

    passes = [forward(static) for _, static in split]
    finish = jax.jit(lambda learnt, x, y: loss(eqx.combine(learnt, split[-1][1]).head(x), y))

    def mean_loss(parameters: list[PyTree]) -> Array:
        losses = []
        for x, labels in micro_batches:
            for learnt, through, device in zip(parameters, passes, devices, strict=True):
                x = through(learnt, jax.device_put(x, device))
            losses.append(finish(parameters[-1], x, jax.device_put(labels, devices[-1])))
        return jnp.mean(jnp.stack(losses))

    value, gradients = jax.value_and_grad(mean_loss)(parameters)
    # Zeros of heads that aren't in use are elsewhere.
    return value, [jax.device_put(g, d) for g, d in zip(gradients, devices, strict=True)]
