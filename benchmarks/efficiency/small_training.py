"""Tasks and the loop for sweeps: a teacher's classes, scanned digits, and a random source."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from teacher import examples

from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul

VOCABULARY = 16
Loss = Callable[[Any, Any], jax.Array]


def training(
    loss: Loss,
    parameters: Any,
    optimiser: Callable[[jax.Array], optax.GradientTransformation],
    batches: Any,
    measure: Callable[[Any], Any] = lambda gradients: None,
) -> Callable[[jax.Array], tuple[tuple[Any, Any], tuple[jax.Array, Any]]]:
    """Function, to be compiled, from a learning rate to what a training gives.

    That is the last parameters with the optimiser's state, and of all steps the losses with what is
    measured.

    Parameters
    ----------
    batches
        Arrays with the steps as the first axis.
    measure
        Of the gradients.
    """

    def run(rate: jax.Array) -> tuple[tuple[Any, Any], tuple[jax.Array, Any]]:
        transformation = optimiser(rate)

        def step(carry, batch):
            value, gradients = jax.value_and_grad(loss)(carry[0], batch)
            updates, state = transformation.update(gradients, carry[1], carry[0])
            new = optax.apply_updates(carry[0], updates)
            return (new, state), (value, measure(gradients))

        return jax.lax.scan(step, (parameters, transformation.init(parameters)), batches)

    return run


def losses(
    loss: Loss,
    parameters: Any,
    optimiser: Callable[[jax.Array], optax.GradientTransformation],
    batches: Any,
    measure: Callable[[Any], Any] = lambda gradients: None,
) -> Callable[[float], tuple[np.ndarray, Any]]:
    """Function from a learning rate to the losses of a `training`, and what it measures."""
    run = jax.jit(training(loss, parameters, optimiser, batches, measure))
    return lambda rate: jax.tree.map(np.asarray, run(jnp.float32(rate))[1])


def final(curve: np.ndarray) -> float:
    """Mean of the last tenth; infinite if training diverged."""
    value = float(np.mean(curve[-max(len(curve) // 10, 1) :]))
    return value if np.isfinite(value) else np.inf


def teacher_batches(steps: int, batch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """New examples in every step."""
    x, y = examples(steps * batch, 1 + seed)
    return x.reshape(steps, batch, -1), y.reshape(steps, batch)


class Digits(NamedTuple):
    """Images of 8 x 8 pixels in rows, standardised as a whole, and which digit each is."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def digits(count: int = 1024) -> Digits:
    """Of scikit-learn's 1,797 digits so many to learn from, the others for the test."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    x = (x - x[:count].mean()) / x[:count].std()
    return Digits(x[:count], y[:count], x[count:], y[count:])


def epochs(split: Digits, batch: int, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Batches (steps, batch, ...) of whole epochs in a new order each, as many as are needed."""
    rng = np.random.default_rng(seed)
    each = len(split.x) // batch
    rows = [
        rng.permutation(len(split.x))[: each * batch].reshape(each, batch)
        for _ in range(-(-steps // each))
    ]
    chosen = np.concatenate(rows)[:steps]
    return split.x[chosen], split.y[chosen]


def dense_network(
    sizes: tuple[int, ...], seed: int, deviation: float | None = None
) -> list[dict[str, jax.Array]]:
    """Normal weights, by default as ReLU wants them, and zero biases of layers between sizes."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        {
            "weight": jax.random.normal(key, (outputs, inputs))
            * ((2 / inputs) ** 0.5 if deviation is None else deviation),
            "bias": jnp.zeros(outputs),
        }
        for key, inputs, outputs in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(network: list[dict[str, jax.Array]], x: jax.Array, activation: Any) -> jax.Array:
    for layer in network[:-1]:
        x = activation(x @ layer["weight"].T + layer["bias"])
    return x @ network[-1]["weight"].T + network[-1]["bias"]


def digit_loss(
    network: list[dict[str, jax.Array]],
    batch: tuple[jax.Array, jax.Array],
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
) -> Any:
    """Mean cross-entropy."""
    x, y = batch
    scores = logits(network, x, activation)
    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()


def digit_accuracy(
    network: list[dict[str, jax.Array]],
    split: Digits,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
) -> jax.Array:
    """Of digits that training has not seen."""
    return jnp.mean(jnp.argmax(logits(network, split.test_x, activation), -1) == split.test_y)


class Source(NamedTuple):
    """Sequences (steps, batch, length), and the least mean cross-entropy that is possible."""

    tokens: np.ndarray
    entropy: float


def source(steps: int, batch: int, length: int) -> Source:
    """The next token depends on the last two, by a table of random probabilities."""
    rng = np.random.default_rng(0)
    logits = 2.5 * rng.normal(size=(VOCABULARY,) * 3)
    table = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    cumulative = table.cumsum(-1)
    entropies = -(table * np.log(table)).sum(-1)
    count = steps * batch
    tokens = rng.integers(0, VOCABULARY, (count, length))
    seen = []
    for at in range(2, length):
        before = tokens[:, at - 2], tokens[:, at - 1]
        tokens[:, at] = (
            (rng.random((count, 1)) > cumulative[before]).sum(-1).clip(max=VOCABULARY - 1)
        )
        seen.append(entropies[before].mean())
    # The second token can't be foretold.
    entropy = (np.log(VOCABULARY) + np.sum(seen)) / (length - 1)
    return Source(tokens.reshape(steps, batch, length), float(entropy))


def standard_decoder(depth: int, width: int, key: jax.Array) -> dict[str, Any]:
    """Weights of the transformer of unit_scaled_transformer in standard parametrisation."""

    def weight(key: jax.Array, outputs: int, inputs: int) -> jax.Array:
        return jax.random.normal(key, (outputs, inputs)) * inputs**-0.5

    first, middle, last = jax.random.split(key, 3)
    shapes = {
        "into": (3 * width, width),
        "out": (width, width),
        "up": (4 * width, width),
        "gate": (4 * width, width),
        "down": (width, 4 * width),
    }
    return {
        "embedding": jax.random.normal(first, (VOCABULARY, width)),
        "layers": [
            {
                name: weight(k, *shape)
                for (name, shape), k in zip(
                    shapes.items(), jax.random.split(part, len(shapes)), strict=True
                )
            }
            for part in jax.random.split(middle, depth)
        ],
        "readout": weight(last, VOCABULARY, width),
    }


def standard_loss(
    weights: dict[str, Any], tokens: jax.Array, heads: int, formats: MatmulFormats | None
) -> jax.Array:
    """Mean cross-entropy of the next token."""

    def product(x: jax.Array, weight: jax.Array) -> jax.Array:
        return x @ weight.T if formats is None else quantised_matmul(x, weight.T, formats)

    def norm(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)

    x = weights["embedding"][tokens[:, :-1]]
    size = x.shape[-1] // heads
    turn = jax.vmap(jax.vmap(eqx.nn.RotaryPositionalEmbedding(size), 1, 1))
    for layer in weights["layers"]:
        parts = product(norm(x), layer["into"]).reshape(*x.shape[:-1], 3, heads, size)
        mixed = jax.nn.dot_product_attention(
            turn(parts[..., 0, :, :]),
            turn(parts[..., 1, :, :]),
            parts[..., 2, :, :],
            scale=size**-0.5,
            is_causal=True,
        )
        x = x + product(mixed.reshape(x.shape), layer["out"])
        inside = norm(x)
        gated = product(inside, layer["up"]) * jax.nn.silu(product(inside, layer["gate"]))
        x = x + product(gated, layer["down"])
    logits = product(norm(x), weights["readout"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
