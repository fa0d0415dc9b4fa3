"""Gressmann et al., 2011.04720: gradients in random bases, fixed or drawn anew in each step.

A network of 9,610 parameters learns digits from as few as 10 numbers of its gradient a step; prints
accuracies and draws the losses. Two workers with directions of their own are compared with one that
has all of them. Run as `make benchmark-methods`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from small_training import dense_network, digit_accuracy, digit_loss, digits, epochs, training

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.methods.random_bases import layer_compartments, random_bases

BATCH, RATES = 32, (1.0, 4.0, 16.0)
# Gradients themselves are larger than what a basis leaves of them.
SGD_RATES = (0.03, 0.1, 0.3)
WORKERS = "workers"


def descent(count: int, workers: str | None = None, **options: Any) -> Callable:
    """Optimiser by rate."""
    bases = random_bases(count, jax.random.key(5), workers=workers, **options)
    return lambda rate: optax.chain(bases, optax.scale_by_learning_rate(rate))


def worker_difference(weights: Any, batches: Any, count: int, steps: int = 20) -> float:
    """Largest difference of weights after steps of two workers that see the same minibatches.

    One has the directions of both instead.
    """
    few = jax.tree.map(lambda leaf: leaf[:steps], batches)
    rate = jnp.float32(RATES[1])
    alone = training(digit_loss, weights, descent(2 * count), few)
    both = training(digit_loss, weights, descent(count, WORKERS), few)
    (one, _), _ = jax.jit(alone)(rate)
    (two, _), _ = jax.jit(
        lambda: jax.vmap(both, axis_name=WORKERS, axis_size=2, in_axes=None)(rate)
    )()
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--directions", type=int, nargs="+", default=[10, 50])
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "random_bases.png")
    arguments = parser.parse_args()
    data = digits()
    weights = dense_network((64, 128, 10), 0)
    size = sum(leaf.size for leaf in jax.tree.leaves(weights))
    batches = epochs(data, BATCH, arguments.steps)
    ways: dict[str, tuple[Callable, tuple[float, ...]]] = {"SGD": (optax.sgd, SGD_RATES)}
    for count in arguments.directions:
        ways[f"fixed basis, d={count}"] = (descent(count, fresh=False), RATES)
        ways[f"fresh bases, d={count}"] = (descent(count), RATES)
        by_layer = descent(count // 2, compartments=layer_compartments(weights))
        ways[f"fresh bases, 2 layers of d={count // 2}"] = (by_layer, RATES)
    accuracy, curves = {}, {}

    def rows():
        for name, (optimiser, rates) in ways.items():
            # Trainings at all rates share the directions of a step.
            run = training(digit_loss, weights, optimiser, batches)
            (trained, _), (losses, _) = jax.jit(jax.vmap(run))(jnp.float32(rates))
            found = np.asarray(jax.vmap(digit_accuracy, (0, None))(trained, data))
            best = int(np.argmax(found))
            accuracy[name], curves[name] = float(found[best]), np.asarray(losses[best])
            yield [name, *(f"{100 * value:.1f}" for value in found), f"{rates[best]:g}"]

    print(f"Accuracy on digits, %, of {size:,} parameters after {arguments.steps} steps")
    table(["gradient", "lowest rate", "middle", "highest", "best rate"], rows())
    apart = worker_difference(weights, batches, arguments.directions[-1] // 2)
    print(f"Two workers differ from one with the directions of both by {apart:.1e} at most")
    for name, curve in curves.items():
        smooth = curve[: len(curve) // 25 * 25].reshape(-1, 25).mean(1)
        plt.plot(25 * np.arange(len(smooth)), smooth, label=name)
    plt.xlabel("step")
    plt.ylabel("training loss")
    plt.yscale("log")
    plt.legend(fontsize=7)
    save_plot(arguments.figure)
    assert apart < 1e-5
    if 50 in arguments.directions:
        assert accuracy["fresh bases, d=50"] - accuracy["fixed basis, d=50"] >= 0.15


if __name__ == "__main__":
    main()
