"""A task on which formats are tried: a network learns the classes that another one gives."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from qmgen.efficiency.fp8_linear import quantise_linears
from qmgen.efficiency.loss_scaling import LossScale, keep_if, value_and_scaled_grad
from qmgen.efficiency.quantised_matmul import MatmulFormats

INPUTS, CLASSES = 32, 10


class Outcome(NamedTuple):
    """`loss` and `accuracy` are of examples that training has not seen; NaN if it diverged."""

    loss: float
    accuracy: float
    skipped_steps: int
    loss_scale: float
    model: eqx.Module


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal inputs and the teacher's classes of them."""
    weights = np.random.default_rng(0)
    first = weights.normal(size=(INPUTS, 64)) / np.sqrt(INPUTS)
    second = weights.normal(size=(64, CLASSES))
    x = np.random.default_rng(seed).normal(size=(count, INPUTS)).astype(np.float32)
    return x, np.argmax(np.tanh(x @ first) @ second, axis=1)


def apply(model: eqx.nn.MLP, x: jax.Array) -> jax.Array:
    """The network on a whole batch, so that activations are one tensor."""
    for layer in model.layers[:-1]:
        x = jax.nn.gelu(layer(x))
    return model.layers[-1](x)


def cross_entropy(model: eqx.nn.MLP, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(apply(model, x), y).mean()


def train(
    formats: MatmulFormats,
    rule: LossScale,
    steps: int,
    width: int = 128,
    every: int = 0,
    record: Callable[[int, eqx.Module, jax.Array, jax.Array], None] | None = None,
) -> Outcome:
    """Train with Adam; `record` is called every so many steps with step, model, inputs, classes."""
    model = quantise_linears(eqx.nn.MLP(INPUTS, CLASSES, width, 3, key=jax.random.key(0)), formats)
    parameters, static = eqx.partition(model, eqx.is_array)
    optimiser = optax.adam(2e-3)
    x, y = examples(16_384, 1)

    def loss(parameters: eqx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
        return cross_entropy(eqx.combine(parameters, static), x, y)

    @jax.jit
    def step(parameters, state, scaling, x, y):
        done = value_and_scaled_grad(loss, rule, scaling, parameters, x, y)
        updates, new_state = optimiser.update(done.gradients, state, parameters)
        new = optax.apply_updates(parameters, updates)
        kept = keep_if(done.finite, (new, new_state), (parameters, state))
        return *kept, done.state, done.finite

    state, scaling = optimiser.init(parameters), rule.init()
    order = np.random.default_rng(2)
    skipped = 0
    for number in range(steps):
        rows = order.integers(0, len(x), 256)
        if record is not None and number % every == 0:
            record(number, eqx.combine(parameters, static), x[rows], y[rows])
        parameters, state, scaling, finite = step(parameters, state, scaling, x[rows], y[rows])
        skipped += not bool(finite)
    model = eqx.combine(parameters, static)
    test_x, test_y = examples(4096, 3)
    logits = jax.jit(lambda p, v: apply(eqx.combine(p, static), v))(parameters, test_x)
    test = optax.softmax_cross_entropy_with_integer_labels(logits, test_y).mean()
    accuracy = jnp.mean(jnp.argmax(logits, 1) == test_y)
    return Outcome(float(test), float(accuracy), skipped, float(scaling.scale), model)
