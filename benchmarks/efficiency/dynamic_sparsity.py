"""Dietrich et al., 2108.06277: sparse weights that move against static ones and dense networks.

Digits are learnt by 64-256-256-10 networks whose two large matrices are sparse, and by a small
dense one of as many operations; prints losses, operations and how much of the matrices is explored,
and draws the losses. Run as `make benchmark-methods`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from small_training import (
    Digits,
    dense_network,
    digit_accuracy,
    digit_loss,
    digits,
    epochs,
    training,
)

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.methods.dynamic_sparsity import (
    SparsityRule,
    apply_masks,
    explored_share,
    rate_factor,
    sparse_training,
    training_flops,
)

WIDTH, BATCH = 256, 64
# Of the first weights, as in the paper, however sparse; larger ones would outlive all that begin.
DEVIATION = 0.02
Network = list[dict[str, jax.Array]]
# BERT's. Behind ReLU, whose slope at 0 is 0, blocks that begin at zero might never learn.
loss_of = partial(digit_loss, activation=jax.nn.gelu)
accuracy_of = partial(digit_accuracy, activation=jax.nn.gelu)


class Found(NamedTuple):
    """Of one way to train, means over seeds at the better one of two rates."""

    loss: float
    accuracy: float
    rate: float
    flops: int
    explored: float
    curve: np.ndarray


def sparse_layers(network: Network) -> Any:
    """The readout stays dense: its 10 rows are no blocks of 16, and its weights few."""
    return [{"weight": number < len(network) - 1, "bias": False} for number in range(len(network))]


def learn(
    network: Callable[[int], Network], rule: SparsityRule, data: Digits, steps: int, rates: Any,
    seeds: int,
) -> Found:  # fmt: skip
    """Losses, accuracies and curves, each (seeds, rates)."""
    held, right, curves = [], [], []
    for seed in range(seeds):
        weights = network(seed)

        def optimiser(rate: Any, weights: Network = weights, seed: int = seed) -> Any:
            key = jax.random.fold_in(jax.random.key(1), seed)
            return sparse_training(optax.adam(rate), rule, sparse_layers(weights), key)

        start = apply_masks(weights, optimiser(1.0).init(weights).masks)
        run = training(loss_of, start, optimiser, epochs(data, BATCH, steps, seed))
        (weights, state), (curve, _) = jax.jit(jax.vmap(run))(jnp.float32(rates))
        held.append(jax.vmap(loss_of, (0, None))(weights, (data.test_x, data.test_y)))
        right.append(jax.vmap(accuracy_of, (0, None))(weights, data))
        curves.append(np.asarray(curve))
        masks = jax.tree.map(lambda mask: mask[0], state.masks)
        for mask in jax.tree.leaves(state.masks):
            if mask.ndim > 1:
                blocks = mask[0].size
                active = mask.sum(tuple(range(1, mask.ndim)))
                assert (active == blocks - round(rule.sparsity * blocks)).all()
    losses = np.mean(held, 0)
    best = int(np.argmin(losses))
    return Found(
        float(losses[best]),
        float(np.mean(right, 0)[best]),
        float(rates[best]),
        training_flops(weights_of(weights, best), masks, BATCH),
        explored_share(jax.tree.map(lambda leaf: leaf[best], state)),
        np.mean(curves, 0)[best],
    )


def weights_of(weights: Network, place: int) -> Network:
    return jax.tree.map(lambda leaf: leaf[place], weights)


def explored(patterns: int) -> float:
    """Share of weights that were ever active at a sparsity of 0.9, with random magnitudes."""
    rule = SparsityRule(0.9, (1, 1), 1, patterns)
    optimiser = sparse_training(optax.sgd(1.0), rule, True, jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), (patterns, 128, 128))
    run = training(lambda w, g: jnp.sum(g * w), jnp.zeros((128, 128)), lambda _: optimiser, noise)
    return explored_share(jax.jit(run)(jnp.float32(0))[0][1])


def draw(results: dict[str, Found], figure: Path) -> None:
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, found in results.items():
        smooth = found.curve[: len(found.curve) // 20 * 20].reshape(-1, 20).mean(1)
        left.plot(20 * np.arange(len(smooth)), smooth, label=name)
        right.plot(found.flops / 1e6, found.loss, "o")
        right.annotate(name, (found.flops / 1e6, found.loss), fontsize=7)
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    left.legend(fontsize=7)
    right.set(xlabel="million operations a step", ylabel="test loss", xscale="log", yscale="log")
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--patterns", type=int, default=20)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seeds", type=int, default=3)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "dynamic_sparsity.png")
    arguments = parser.parse_args()
    data, sparsity = digits(), arguments.sparsity
    every = arguments.steps // arguments.patterns

    def network(width: int) -> Callable[[int], Network]:
        return lambda seed: dense_network((64, width, width, 10), seed, DEVIATION)

    # As many weights as the sparse networks have: w^2 + 74 w.
    weights = (1 - sparsity) * (64 * WIDTH + WIDTH**2) + 10 * WIDTH
    small = round(-37 + np.sqrt(37**2 + weights))
    ways: dict[str, tuple[Callable, SparsityRule]] = {
        "dense": (network(WIDTH), SparsityRule(0.0, (1, 1), every, arguments.patterns)),
        f"dense, {small} wide": (network(small), SparsityRule(0.0, (1, 1), every, 1)),
    }
    for side in arguments.blocks:
        for share, kind in ((0.0, "static"), (0.5, "dynamic")):
            rule = SparsityRule(sparsity, (side, side), every, arguments.patterns, share)
            ways[f"{side}x{side} {kind}"] = (network(WIDTH), rule)
    results: dict[str, Found] = {}

    def rows():
        for name, (start, rule) in ways.items():
            # The dense networks' rate, and that of the rule.
            rates = np.array([1e-3, 1e-3 * rate_factor(sparsity)])
            found = learn(start, rule, data, arguments.steps, rates, arguments.seeds)
            results[name] = found
            yield [
                name, f"{found.loss:.3f}", f"{100 * found.accuracy:.1f}", f"{found.rate:.1e}",
                f"{found.flops / 1e6:.2f}", f"{found.explored:.3f}",
            ]  # fmt: skip

    print(f"Digits at a sparsity of {sparsity}, {arguments.steps} steps, {arguments.seeds} seeds")
    header = ["training", "test loss", "accuracy, %", "better rate", "million operations a step"]
    table([*header, "blocks explored"], rows())
    shares = {patterns: explored(patterns) for patterns in (80, 160)}
    table(["patterns at a sparsity of 0.9", "weights explored"],
          [[str(patterns), f"{share:.3f}"] for patterns, share in shares.items()])  # fmt: skip
    draw(results, arguments.figure)
    assert shares[160] >= 0.9
    for side in arguments.blocks:
        dynamic, static = (results[f"{side}x{side} {kind}"] for kind in ("dynamic", "static"))
        assert dynamic.loss < static.loss, f"static {side}x{side} blocks are better"


if __name__ == "__main__":
    main()
