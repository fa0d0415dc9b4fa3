"""Blake et al., 2407.17465: how the best learning rate moves with width and depth.

Standard parametrisation, muP and u-muP by width, for a network of four layers with ReLU that learns
a teacher's classes; standard and u-muP by depth, for a transformer. Prints tables and draws all
sweeps. Run as `make benchmark-efficiency`.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from small_training import (
    VOCABULARY,
    final,
    losses,
    source,
    standard_decoder,
    standard_loss,
    teacher_batches,
)
from teacher import CLASSES, INPUTS

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.umup import adam, roles
from qmgen.efficiency.unit_scaled_layers import MLP
from qmgen.efficiency.unit_scaled_transformer import Decoder
from qmgen.efficiency.unit_scaling import cross_entropy

# muP is the standard parametrisation at this width.
BASE = 32
# Of the transformer.
HEADS, WIDTH, BATCH, LENGTH = 2, 32, 8, 33
# Exponents of learning rates, 2^k.
RATES = {
    "width": {"standard": range(-12, -6), "muP": range(-11, -5), "u-muP": range(-6, 0)},
    "depth": {"standard": range(-10, -5), "u-muP": range(-3, 3)},
}
# Size, parametrisation, and the loss at each learning rate.
Sweep = dict[str, dict[int, np.ndarray]]
# Loss, parameters, and optimiser by learning rate.
Problem = tuple[Callable, Any, Callable]


def plain_network(width: int, mup: bool, seed: int) -> Problem:
    """A network without unit scaling.

    By muP learning rates of hidden weights are times BASE / width, and so are outputs, with the
    readout's weights as large as at the base width.
    """
    ratio = BASE / width if mup else 1.0
    sizes = [(width, INPUTS), (width, width), (width, width), (CLASSES, width)]
    keys = jax.random.split(jax.random.key(seed), 4)
    weights = [jax.random.normal(k, s) * s[1] ** -0.5 for k, s in zip(keys, sizes, strict=True)]
    weights[-1] *= ratio**-0.5
    factors = [1.0, ratio, ratio, 1.0]

    def loss(weights: list[jax.Array], batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight.T)
        logits = ratio * x @ weights[-1].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def optimiser(rate: jax.Array) -> optax.GradientTransformation:
        by_layer = optax.stateless(
            lambda updates, _: [f * u for f, u in zip(factors, updates, strict=True)]
        )
        return optax.chain(optax.scale_by_adam(), by_layer, optax.scale_by_learning_rate(rate))

    return loss, weights, optimiser


def unit_scaled(model: eqx.Module, loss: Callable) -> Problem:
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    of_parameters = lambda p, batch: loss(eqx.combine(p, static), batch)  # noqa: E731
    return of_parameters, parameters, partial(adam, model_roles=roles(model))


def network(kind: str, width: int, seed: int) -> Problem:
    if kind != "u-muP":
        return plain_network(width, kind == "muP", seed)
    model = MLP(INPUTS, CLASSES, width, 3, key=jax.random.key(seed))
    return unit_scaled(model, lambda m, batch: cross_entropy(m(batch[0]), batch[1]))


def transformer(kind: str, depth: int, seed: int) -> Problem:
    key = jax.random.key(seed)
    if kind == "standard":
        weights = standard_decoder(depth, WIDTH, key)
        return partial(standard_loss, heads=HEADS, formats=None), weights, optax.adam
    model = Decoder(VOCABULARY, depth, WIDTH, HEADS, key=key)
    return unit_scaled(model, lambda m, tokens: m.loss(tokens))


def sweep(
    problem: Callable[[str, int, int], Problem],
    what: str,
    sizes: list[int],
    batches: Sequence[Any],
) -> Sweep:
    """Mean of the last losses over seeds, each with initial weights and batches of its own."""
    results: Sweep = {}
    for kind, exponents in RATES[what].items():
        for size in sizes:
            of_seeds = []
            for seed, seen in enumerate(batches):
                run = losses(*problem(kind, size, seed), seen)
                of_seeds.append([final(run(2.0**k)[0]) for k in exponents])
            results.setdefault(kind, {})[size] = np.mean(of_seeds, axis=0)
    return results


def report(results: Sweep, what: str) -> None:
    """Best rate and loss at each size, and the loss with the rate that is best at the smallest."""
    rows = []
    for kind, by_size in results.items():
        exponents = list(RATES[what][kind])
        best = [int(np.argmin(found)) for found in by_size.values()]
        shift = 2 ** (max(best) - min(best))
        rows.append([kind, "best rate", *(f"2^{exponents[i]}" for i in best), f"{shift}x"])
        found = list(by_size.values())
        rows.append(
            ["", "its loss", *(f"{f[i]:.3f}" for f, i in zip(found, best, strict=True)), ""]
        )
        rows.append(["", "loss at the first one's rate", *(f"{f[best[0]]:.3f}" for f in found), ""])
    table(["", "", *(f"{what} {size}" for size in next(iter(results.values()))), "shift"], rows)


def verdict(results: Sweep) -> None:
    """Whether rates move by as much as they should, by at least 4x and at most 2x."""
    for kind, expected, holds in (
        ("standard", "at least 4x", lambda shift: shift >= 4),
        ("u-muP", "at most 2x", lambda shift: shift <= 2),
    ):
        best = [int(np.argmin(found)) for found in results[kind].values()]
        shift = 2 ** (max(best) - min(best))
        said = "as expected" if holds(shift) else "NOT as expected"
        print(f"{kind}: the best learning rate moves by {shift}x; {expected}: {said}")
    print()


def draw(by_width: Sweep, by_depth: Sweep, figure: Path) -> None:
    panels = [("width", kind, found) for kind, found in by_width.items()]
    panels += [("depth", kind, found) for kind, found in by_depth.items()]
    _, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.2))
    for axis, (what, kind, by_size) in zip(axes, panels, strict=True):
        for size, found in by_size.items():
            axis.plot(list(RATES[what][kind]), found, ".-", label=f"{what} {size}")
        lowest = min(found.min() for found in by_size.values())
        start = np.log(CLASSES if what == "width" else VOCABULARY)
        # A quarter of what there is to learn: the minima, where they differ.
        axis.set_ylim(lowest - 0.01 * (start - lowest), lowest + 0.25 * (start - lowest))
        axis.set_title(f"{kind}, {what}")
        axis.set_xlabel("log2 learning rate")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("loss")
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128, 256, 512])
    parser.add_argument("--batch", type=int, default=256, help="of the sweep over widths")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 8])
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "umup.png")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    examples = [
        jax.tree.map(jnp.asarray, teacher_batches(arguments.steps, arguments.batch, seed))
        for seed in seeds
    ]
    by_width = sweep(network, "width", arguments.widths, examples)
    report(by_width, "width")
    verdict(by_width)
    # One source, of which each seed sees other sequences.
    data = source(arguments.steps * arguments.seeds, BATCH, LENGTH)
    tokens = np.split(data.tokens, arguments.seeds)
    by_depth = sweep(transformer, "depth", arguments.depths, tokens)
    report(by_depth, "depth")
    print(f"Entropy of the source: {data.entropy:.3f}")
    draw(by_width, by_depth, arguments.figure)


if __name__ == "__main__":
    main()
