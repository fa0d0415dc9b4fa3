"""Chelombiev et al., 2106.05822: masked tokens of SMILES, a layer of GroupBERT against two of BERT.

The learning rate is swept for each model, then the best one is run with further seeds. Prints a
table and draws losses against the operations of training. Run as `make benchmark-architectures`.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from smiles_of_store import strings_and_vocabulary, trainer

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.networks.bert import (
    BertLayer,
    MaskedLanguageModel,
    masked_language_loss,
    weight_count,
)
from qmgen.efficiency.networks.flop_count import flops
from qmgen.efficiency.networks.groupbert import GroupBertLayer

WIDTH, HEADS, LENGTH, BATCH = 64, 4, 32, 32
VALIDATION_DRAWS = 4


class Run(NamedTuple):
    """Loss of validation, and of all steps."""

    loss: float
    curve: np.ndarray


def network(kind: str, vocabulary: int, key: jax.Array) -> MaskedLanguageModel:
    """As wide as each other; a layer of GroupBERT has fewer weights than two of BERT."""
    first, second, last = jax.random.split(key, 3)
    if kind == "GroupBERT":
        layers: tuple = (GroupBertLayer(WIDTH, HEADS, key=first),)
    else:
        order = "pre" if "pre" in kind else "post"
        layers = tuple(BertLayer(WIDTH, HEADS, key=k, order=order) for k in (first, second))
    return MaskedLanguageModel(vocabulary, LENGTH, WIDTH, layers, key=last)


class Experiment:
    """A model's trainings, compiled once for all rates and seeds."""

    def __init__(
        self, kind: str, train: np.ndarray, validation: np.ndarray, vocabulary: int, steps: int
    ) -> None:
        build = eqx.filter_jit(lambda key: network(kind, vocabulary, key))
        model = build(jax.random.key(0))
        parameters, static = eqx.partition(model, eqx.is_inexact_array)

        def loss(parameters, batch):
            model = eqx.combine(parameters, static)
            return masked_language_loss(model, batch[0], vocabulary, batch[1])

        self.weights = sum(weight_count(layer) for layer in model.layers)
        tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
        batch = (tokens, jax.eval_shape(lambda: jax.random.key(0)))
        self.step_flops = flops(jax.grad(loss), parameters, batch)
        self.parameters = lambda seed: eqx.filter(build(jax.random.key(seed)), eqx.is_inexact_array)
        self.trained = trainer(loss, steps)
        self.train, self.steps = train, steps
        keys = jax.random.split(jax.random.key(1), VALIDATION_DRAWS)
        self.validate = jax.jit(
            lambda p: jnp.mean(jax.lax.map(lambda key: loss(p, (validation, key)), keys))
        )

    def run(self, rate: float, seed: int) -> Run:
        """Train from the seed's own weights, on its own batches and masks."""
        rows = np.random.default_rng(seed).integers(0, len(self.train), (self.steps, BATCH))
        keys = jax.random.split(jax.random.key(100 + seed), self.steps)
        batches = (jnp.asarray(self.train[rows]), keys)
        parameters, curve = self.trained(self.parameters(seed), rate, batches)
        loss = float(self.validate(parameters))
        return Run(loss if np.isfinite(loss) else np.inf, curve)


def draw(curves: dict[str, tuple[int, np.ndarray]], figure: Path) -> None:
    """Mean over seeds and over 20 steps, against operations."""
    plt.figure(figsize=(5, 3.8))
    for kind, (step_flops, losses) in curves.items():
        smooth = np.convolve(losses.mean(0), np.ones(20) / 20, mode="valid")
        plt.plot(step_flops * np.arange(20, len(smooth) + 20) / 1e9, smooth, label=kind)
    plt.xlabel("GFLOP of training")
    plt.ylabel("loss of masked tokens")
    plt.legend()
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="dataset whose molecules have SMILES")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pre-norm", action="store_true", help="BERT with its norms in front, too")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "groupbert.png")
    arguments = parser.parse_args()
    train, held_out, vocabulary = strings_and_vocabulary(arguments.store)
    tokens = vocabulary.batch(train, LENGTH)
    validation = jnp.asarray(vocabulary.batch(held_out, LENGTH))
    print(f"{len(train)} strings, {len(held_out)} held out, {len(vocabulary)} tokens\n")
    rows, curves, means = [], {}, {}
    kinds = ["GroupBERT", "BERT", *["BERT, pre-norm"] * arguments.pre_norm]
    for kind in kinds:
        experiment = Experiment(kind, tokens, validation, len(vocabulary), arguments.steps)
        sweep = {rate: experiment.run(rate, 0) for rate in arguments.rates}
        best = min(sweep, key=lambda rate: sweep[rate].loss)
        runs = [sweep[best], *(experiment.run(best, seed) for seed in range(1, arguments.seeds))]
        losses = np.array([run.loss for run in runs])
        means[kind] = (losses.mean(), experiment.weights)
        curves[kind] = (experiment.step_flops, np.array([run.curve for run in runs]))
        rows.append(
            [
                kind,
                "1" if kind == "GroupBERT" else "2",
                f"{experiment.weights:,}",
                f"{experiment.step_flops / 1e9:.3f}",
                *(f"{run.loss:.3f}" for run in sweep.values()),
                f"{losses.mean():.3f} +- {losses.std(ddof=min(len(losses) - 1, 1)):.3f}",
            ]
        )
    rates = [f"loss at {rate:g}" for rate in arguments.rates]
    header = ["", "layers", "weights", "GFLOP a step", *rates, f"best, {arguments.seeds} seeds"]
    table(header, rows)
    (mine, weights), (other, more) = means["GroupBERT"], means["BERT"]
    said = "as expected" if mine < other and weights < more else "NOT as expected"
    print(f"Lower mean loss with fewer weights: {said}")
    draw(curves, arguments.figure)


if __name__ == "__main__":
    main()
