"""Short versions of the papers' experiments on scikit-learn's digits; all of them are slow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from qmgen.efficiency.methods.random_bases import random_bases
from qmgen.efficiency.methods.small_batch import sgd

pytestmark = pytest.mark.slow
TRAINING = 1024


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return ((x - x.mean()) / x.std()).astype(np.float32)[order], y[order]


def network(sizes: tuple[int, ...]) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    return [
        jax.random.normal(key, (outputs, inputs)) * (2 / inputs) ** 0.5
        for key, inputs, outputs in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def scores(weights: list[jax.Array], x: Any) -> jax.Array:
    for weight in weights[:-1]:
        x = jax.nn.relu(x @ weight.T)
    return x @ weights[-1].T


def accuracies(
    data: Any, sizes: tuple[int, ...], optimiser: Callable, rates: list[float], batch: int,
    steps: int,
) -> np.ndarray:  # fmt: skip
    """Of digits that training has not seen, by rate."""
    x, y = data
    rng = np.random.default_rng(1)
    orders = [rng.permutation(TRAINING) for _ in range(-(-steps * batch // TRAINING))]
    rows = np.concatenate(orders)[: steps * batch].reshape(steps, batch)

    def run(rate: jax.Array) -> jax.Array:
        transformation = optimiser(rate)

        def loss(weights: Any, batch: Any) -> jax.Array:
            found = scores(weights, batch[0])
            return optax.softmax_cross_entropy_with_integer_labels(found, batch[1]).mean()

        def step(carry: Any, batch: Any) -> Any:
            updates, state = transformation.update(jax.grad(loss)(carry[0], batch), carry[1])
            return (optax.apply_updates(carry[0], updates), state), None

        start = network(sizes)
        (weights, _), _ = jax.lax.scan(
            step, (start, transformation.init(start)), (x[rows], y[rows])
        )
        return jnp.mean(jnp.argmax(scores(weights, x[TRAINING:]), -1) == y[TRAINING:])

    return np.asarray(jax.jit(jax.vmap(run))(jnp.float32(rates)))


def test_fresh_bases_learn_more_than_a_fixed_one(data: Any) -> None:
    def best(fresh: bool) -> float:
        bases = random_bases(50, jax.random.key(5), fresh=fresh)

        def optimiser(rate: jax.Array) -> optax.GradientTransformation:
            return optax.chain(bases, optax.scale_by_learning_rate(rate))

        return float(accuracies(data, (64, 128, 10), optimiser, [4.0, 16.0], 32, 100).max())

    assert best(True) - best(False) >= 0.15


def test_larger_batches_want_smaller_rates_and_learn_less(data: Any) -> None:
    rates = [2.0**k for k in range(-12, -2)]
    found = []
    for batch in (8, 32, 512):

        def optimiser(rate: jax.Array, batch: int = batch) -> optax.GradientTransformation:
            return sgd(rate, batch)

        steps = 5 * TRAINING // batch
        found.append(accuracies(data, (64, 64, 64, 10), optimiser, rates, batch, steps))
    usable = [int((accuracy > 0.9).sum()) for accuracy in found]
    assert usable == sorted(usable, reverse=True)
    assert usable[0] > usable[-1]
    assert max(found[0].max(), found[1].max()) - found[2].max() >= 0.05
