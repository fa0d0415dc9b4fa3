"""What needs several devices, in a process that has them; prints its figures as JSON."""

import json
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from qmgen.efficiency.methods.local_losses import chunked, local_losses, overlapping
from qmgen.efficiency.methods.local_pipeline import (
    Stage,
    pipelined_gradients,
    train_overlapping_pipeline,
    train_pipeline,
)
from qmgen.efficiency.methods.random_bases import directions, random_bases

WIDTH, ROWS, STEPS = 6, 8, 5
RNG = np.random.default_rng(0)


class Layer(eqx.Module):
    weight: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ self.weight.T)


class Head(eqx.Module):
    weight: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.weight.T


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def error(predicted: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean((predicted - labels) ** 2)


def difference(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def pipelines() -> dict[str, Any]:
    devices = jax.devices()[:3]
    stages = [
        Stage((Layer(draw(WIDTH, WIDTH)), Layer(draw(WIDTH, WIDTH))), Head(draw(2, WIDTH)))
        for _ in devices
    ]
    batches = [(draw(ROWS, WIDTH), draw(ROWS, 2)) for _ in range(STEPS)]
    optimiser = optax.adam(0.01)
    trained, losses = train_pipeline(stages, optimiser, batches, error, devices)
    places = [next(iter(stage.head.weight.devices())).id for stage in trained]

    # The same in one place.
    def apart(stages: list[Stage], x: jax.Array, labels: jax.Array) -> jax.Array:
        layers = [layer for stage in stages for layer in stage.layers]
        heads = [stage.head for stage in stages]
        return local_losses(layers, heads, chunked(6, 2), x, lambda p: error(p, labels))

    def overlaid(stages: list[Stage], x: jax.Array, labels: jax.Array) -> jax.Array:
        layers = [stage.activations for stage in stages]
        heads = [stage.head for stage in stages[1:]]
        return local_losses(layers, heads, overlapping(3), x, lambda p: error(p, labels))

    def in_one_place(losses: Callable[..., jax.Array]) -> tuple[list[Stage], np.ndarray]:
        def total(stages: list[Stage], x: jax.Array, labels: jax.Array) -> Any:
            found = losses(stages, x, labels)
            return found.sum(), found

        @jax.jit
        def step(stages: list[Stage], state: Any, x: jax.Array, labels: jax.Array) -> Any:
            gradients, found = jax.grad(total, has_aux=True)(stages, x, labels)
            updates, state = optimiser.update(gradients, state, stages)
            return optax.apply_updates(stages, updates), state, found

        plain, state, expected = stages, optimiser.init(stages), []
        for x, labels in batches:
            plain, state, found = step(plain, state, x, labels)
            expected.append(found)
        return plain, np.asarray(expected)

    plain, expected = in_one_place(apart)
    overlapped, their_losses = train_overlapping_pipeline(
        stages, optimiser, batches, error, devices
    )
    plainly_overlapped, expected_overlapped = in_one_place(overlaid)

    def whole(stages: list[Stage]) -> jax.Array:
        def through(x: jax.Array) -> jax.Array:
            for stage in stages:
                x = stage.activations(x)
            return stages[-1].head(x)

        return jnp.mean(jnp.stack([error(through(x), y) for x, y in batches]))

    value, gradients = pipelined_gradients(stages, batches, error, devices)
    plain_value, plain_gradients = jax.jit(jax.value_and_grad(whole))(stages)
    return {
        "places": places,
        "weights": difference(trained, plain),
        "losses": difference(losses, expected),
        "overlapping places": [next(iter(s.head.weight.devices())).id for s in overlapped],
        "overlapping weights": difference(overlapped, plainly_overlapped),
        "overlapping losses": difference(their_losses, expected_overlapped),
        "overlapping or apart": difference(overlapped, trained),
        "pipelined loss": difference(value, plain_value),
        "pipelined gradients": difference(gradients, plain_gradients),
        "gradient places": [next(iter(g.head.weight.devices())).id for g in gradients],
    }


def workers() -> dict[str, Any]:
    mesh = Mesh(np.array(jax.devices()[:2]), ("workers",))
    count, rate = 4, 0.1
    weights = {"w": draw(5, 30), "b": draw(5)}
    x, y = draw(2, ROWS, 30), draw(2, ROWS, 5)
    key = jax.random.key(3)

    def loss(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return error(x @ weights["w"].T + weights["b"], y)

    def train(optimiser: optax.GradientTransformation, steps: int, weights: Any, x: Any, y: Any):
        state = optimiser.init(weights)
        for _ in range(steps):
            updates, state = optimiser.update(jax.grad(loss)(weights, x, y), state)
            weights = optax.apply_updates(weights, updates)
        return weights

    def descent(directions: int, workers: str | None) -> optax.GradientTransformation:
        bases = random_bases(directions, key, compartments=2, workers=workers)
        return optax.chain(bases, optax.scale_by_learning_rate(rate))

    def of_worker(steps: int, weights: Any, x: jax.Array, y: jax.Array) -> Any:
        # Without this, JAX adds up the gradients of weights that all workers share.
        own = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "workers", to="varying"), weights)
        new = train(descent(count, "workers"), steps, own, x[0], y[0])
        return jax.tree.map(lambda leaf: leaf[None], new)

    def run(steps: int, x: jax.Array, y: jax.Array) -> tuple[Any, str]:
        each = PartitionSpec("workers")
        spread = jax.jit(
            jax.shard_map(
                lambda *a: of_worker(steps, *a), mesh=mesh,
                in_specs=(PartitionSpec(), each, each), out_specs=each,
            )
        ).lower(weights, x, y).compile()  # fmt: skip
        return spread(weights, x, y), spread.as_text()

    same, _ = run(3, jnp.stack([x[0], x[0]]), jnp.stack([y[0], y[0]]))
    alone = jax.jit(lambda w: train(descent(2 * count, None), 3, w, x[0], y[0]))(weights)
    two, text = run(1, x, y)
    # Each worker's gradient on its own directions, written out.
    flat, restore = ravel_pytree(weights)
    step_key = jax.random.fold_in(key, 0)
    gradients = [ravel_pytree(jax.grad(loss)(weights, x[k], y[k]))[0] for k in range(2)]
    parts = []
    for half, place in enumerate(np.array_split(np.arange(flat.size), 2)):
        basis = directions(jax.random.fold_in(step_key, half), jnp.arange(2 * count), len(place))
        own = [basis[:count], basis[count:]]
        parts.append(sum(p.T @ (p @ g[place]) for p, g in zip(own, gradients, strict=True)))
    by_hand = restore(flat - rate * jnp.concatenate(parts))
    exchanges = re.findall(r" = (.*?) (?:all-|collective-|reduce-scatter)\S*\(", text)
    shapes = [shape for line in exchanges for shape in re.findall(r"\w+\[([\d,]*)\]", line)]
    first, second = (jax.tree.map(lambda leaf, k=k: leaf[k], two) for k in range(2))
    one, other = (jax.tree.map(lambda leaf, k=k: leaf[k], same) for k in range(2))
    return {
        "same minibatch": max(difference(one, alone), difference(other, alone)),
        "own minibatches": difference(first, by_hand),
        "workers differ": difference(first, second),
        "numbers sent": sum(int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes),
        "moved": difference(first, weights),
    }


if __name__ == "__main__":
    print(json.dumps({"pipelines": pipelines(), "workers": workers()}))
