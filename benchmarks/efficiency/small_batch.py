"""Masters and Luschi, 1804.07612: how large batches and base rates may be at equal epochs.

SGD at base rates per sample for digits, how updates scatter, normalisation over other groups than
the batch, and (with --store) SchNet on the energies of a store by SGD and by Adam. Prints tables
and draws the sweeps. Run as `make benchmark-methods`.
"""

import argparse
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
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
from qmgen.dataset import batch_loader, open_dataset
from qmgen.efficiency.methods.ghost_batch_norm import GhostBatchNorm
from qmgen.efficiency.methods.small_batch import (
    gradient_variance,
    learning_rate,
    sgd,
    update_variance,
)
from qmgen.training import TrainConfig, fit_standardisation, select_rows
from qmgen.training.jax_schnet import build_schnet
from qmgen.training.jax_train import (
    Molecules,
    absolute_loss,
    molecule_batches,
    predicted_errors,
)

SIZES = (64, 64, 64, 10)
EXPONENTS = np.arange(-12, -2)
# From half of the rate that the trainer has by default.
ADAM_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
Sweep = dict[int, np.ndarray]


def sweep_digits(data: Digits, batches: list[int], passes: int, seeds: int) -> Sweep:
    """Test accuracy by batch and base rate."""
    found: Sweep = {}
    for batch in batches:
        steps = passes * len(data.x) // batch
        by_seed = []
        for seed in range(seeds):
            run = training(
                digit_loss,
                dense_network(SIZES, seed),
                partial(sgd, batch_size=batch),
                epochs(data, batch, steps, seed),
            )
            (trained, _), _ = jax.jit(jax.vmap(run))(jnp.exp2(jnp.float32(EXPONENTS)))
            by_seed.append(np.asarray(jax.vmap(digit_accuracy, (0, None))(trained, data)))
        found[batch] = np.mean(by_seed, 0)
    return found


def usable(accuracies: np.ndarray) -> int:
    return int((accuracies > 0.9).sum())


def report_digits(found: Sweep) -> None:
    rows = []
    for batch, accuracies in found.items():
        good = EXPONENTS[accuracies > 0.9]
        rows.append([
            str(batch), f"{100 * accuracies.max():.1f}", f"2^{EXPONENTS[accuracies.argmax()]}",
            str(usable(accuracies)), f"2^{good.max()}" if good.size else "none",
        ])  # fmt: skip
    header = ["batch", "best accuracy, %", "at base rate", "rates above 90%", "largest of them"]
    table(header, rows)


def check_digits(found: Sweep) -> None:
    """No larger batch has more usable rates, and small batches are the better ones."""
    counts = [usable(accuracies) for accuracies in found.values()]
    assert all(a >= b for a, b in itertools.pairwise(counts)), counts
    small = max(accuracies.max() for batch, accuracies in found.items() if batch <= 32)
    assert small - found[max(found)].max() >= 0.05


def report_variance(data: Digits, batches: list[int], draws: int = 400) -> None:
    """Variance of steps from the first weights, drawn against what single gradients say."""
    network, base = dense_network(SIZES, 0), 2.0**-6
    one = lambda network, sample: digit_loss(network, jax.tree.map(lambda a: a[None], sample))  # noqa: E731
    single = float(jax.jit(partial(gradient_variance, one))(network, (data.x, data.y)))

    def step(network: Any, batch: Any, size: int) -> Any:
        gradients = jax.grad(digit_loss)(network, batch)
        return -learning_rate(base, size) * ravel_pytree(gradients)[0]

    rows = []
    for size in batches:
        # A fresh order for each draw, of which the first batch counts.
        order = np.random.default_rng(size)
        places = np.stack([order.permutation(len(data.x))[:size] for _ in range(draws)])

        def one_step(rows: Any, size: int = size) -> Any:
            return step(network, (jnp.asarray(data.x)[rows], jnp.asarray(data.y)[rows]), size)

        steps = jax.jit(lambda places, of=one_step: jax.lax.map(of, places))(places)
        drawn = float(jnp.var(steps, axis=0, ddof=1).sum())
        expected = float(update_variance(single, base, size, len(data.x)))
        rows.append([str(size), f"{drawn:.2e}", f"{expected:.2e}", f"{drawn / expected:.3f}"])
        assert abs(drawn / expected - 1) < 0.2, "steps scatter otherwise than they should"
    table(["batch", f"variance of {draws} steps", "by single gradients", "ratio"], rows)


class Normalised(eqx.Module):
    """A network of digits with batch norm before each ReLU, in training and in use."""

    layers: list[dict[str, jax.Array]]
    norms: list[GhostBatchNorm]

    def __call__(self, x: jax.Array, moments: Any) -> tuple[jax.Array, Any]:  # noqa: D102
        new = []
        for layer, norm, of_layer in zip(self.layers[:-1], self.norms, moments, strict=True):
            x, after = norm(x @ layer["weight"].T, of_layer)
            new.append(after)
            x = jax.nn.relu(x)
        return x @ self.layers[-1]["weight"].T + self.layers[-1]["bias"], new

    def in_use(self, x: jax.Array, moments: Any) -> jax.Array:  # noqa: D102
        for layer, norm, of_layer in zip(self.layers[:-1], self.norms, moments, strict=True):
            x = jax.nn.relu(norm.in_use(x @ layer["weight"].T, of_layer))
        return x @ self.layers[-1]["weight"].T + self.layers[-1]["bias"]


def report_groups(data: Digits, batches: list[int], groups: list[int], passes: int) -> None:
    """Best accuracy over base rates, by batch and by group that is normalised."""
    rows = []
    for batch in batches:
        row = [str(batch)]
        for group in groups:
            if group > batch:
                row.append("")
                continue
            model = Normalised(
                dense_network(SIZES, 0), [GhostBatchNorm(64, group) for _ in SIZES[1:-1]]
            )
            start = [norm.moments() for norm in model.norms]

            def loss(model: Normalised, batch: Any, start: Any = start) -> Any:
                out, _ = model(batch[0], start)
                return optax.softmax_cross_entropy_with_integer_labels(out, batch[1]).mean()

            def accuracy(model: Normalised, start: Any = start) -> Any:
                # Running moments of the trained weights, over the training set until the first
                # ones are forgotten: 0.9^64 in groups of 128.
                moments = start
                for _ in range(8):
                    _, moments = model(data.x, moments)
                out = model.in_use(data.test_x, moments)
                return jnp.mean(jnp.argmax(out, -1) == data.test_y)

            steps = passes * len(data.x) // batch
            run = training(loss, model, partial(sgd, batch_size=batch), epochs(data, batch, steps))
            (trained, _), _ = jax.jit(jax.vmap(run))(jnp.exp2(jnp.float32(EXPONENTS)))
            row.append(f"{100 * float(jax.vmap(accuracy)(trained).max()):.1f}")
        rows.append(row)
    table(["batch", *(f"groups of {group}, %" for group in groups)], rows)


def stacked(batches: list[Molecules]) -> Molecules:
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *batches)


def sweep_schnet(
    store: Path, batches: list[int], conformers: int, passes: int, features: int
) -> dict[str, dict[int, list[float]]]:
    """Test error of the energy, meV, by optimiser, batch and rate."""
    config = TrainConfig(targets={"energy": 1.0}, n_atom_basis=features, n_interactions=2)
    dataset = open_dataset(store)
    selected = select_rows(dataset, "train", ("energy",))
    scaling = fit_standardisation(dataset, selected, ("energy",))["energy"]
    nat = max(int(block.n_atoms.max()) for block in dataset.iter_blocks(4096, columns=("z",)))
    loader = partial(batch_loader, dataset, columns=("z", "pos", "energy"), labels=("energy",))
    test = list(molecule_batches(loader(64, split="test"), "energy", scaling, nat))
    network = build_schnet(config, "energy", config.seed)
    parameters, static = eqx.partition(network, eqx.is_inexact_array)

    def loss(parameters: Any, molecules: Molecules) -> Any:
        return absolute_loss(eqx.combine(parameters, static), molecules)

    conformers = min(conformers, len(selected)) // max(batches) * max(batches)
    print(f"SchNet on {conformers} conformers' energies for {passes} epochs; test MAE, meV")
    rates: dict[str, tuple[Callable, Any]] = {
        "SGD": (lambda rate, batch: sgd(rate, batch), 2.0 ** np.arange(-14, -5, 2)),
        "Adam": (lambda rate, batch: optax.adam(rate), np.array(ADAM_RATES)),
    }
    found: dict[str, dict[int, list[float]]] = {name: {} for name in rates}

    def rows():
        for batch in batches:
            # The same conformers and number of passes for each batch.
            each: list[Molecules] = []
            for epoch in range(passes):
                these = molecule_batches(
                    loader(batch, split="train", seed=config.seed), "energy", scaling, nat, epoch
                )
                each += [molecules for molecules, _ in zip(these, range(conformers // batch),
                                                           strict=False)]  # fmt: skip
            steps = stacked(each)
            for name, (optimiser, values) in rates.items():
                run = jax.jit(training(loss, parameters, partial(optimiser, batch=batch), steps))
                errors = []
                for rate in values:
                    (trained, _), _ = run(jnp.float32(rate))
                    wrong = predicted_errors(eqx.combine(trained, static), test, scaling)
                    error = 1e3 * float(np.abs(wrong).mean())
                    errors.append(error if np.isfinite(error) else np.inf)
                found[name][batch] = errors
                best = int(np.argmin(errors))
                yield [name, str(batch), str(len(each)), f"{errors[best]:.0f}",
                       f"{values[best]:.2g}", ", ".join(f"{e:.0f}" for e in errors)]  # fmt: skip

    header = ["optimiser", "batch", "steps", "best", "its rate", "at all rates"]
    table(header, rows())
    return found


def draw(digits: Sweep, schnet: dict[str, dict[int, list[float]]], figure: Path) -> None:
    axes = plt.subplots(1, 1 + len(schnet), figsize=(4.5 * (1 + len(schnet)), 4), squeeze=False)[1]
    for batch, accuracies in digits.items():
        axes[0, 0].plot(EXPONENTS, 100 * accuracies, ".-", label=f"batch {batch}")
    axes[0, 0].set(title="digits", xlabel="log2 base rate", ylabel="accuracy, %")
    for axis, (name, by_batch) in zip(axes[0, 1:], schnet.items(), strict=True):
        for batch, errors in by_batch.items():
            x = np.arange(-14, -5, 2) if name == "SGD" else np.log2(ADAM_RATES)
            axis.plot(x, errors, ".-", label=f"batch {batch}")
        kind = "base rate" if name == "SGD" else "learning rate"
        axis.set(title=f"SchNet, {name}", xlabel=f"log2 {kind}", ylabel="test MAE, meV")
        axis.set_yscale("log")
    for axis in axes[0]:
        axis.legend(fontsize=7)
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 32, 128, 512])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="for SchNet on its energies")
    parser.add_argument("--schnet-batches", type=int, nargs="+", default=[4, 16, 32, 128])
    parser.add_argument("--schnet-epochs", type=int, default=8)
    parser.add_argument("--conformers", type=int, default=512)
    parser.add_argument("--features", type=int, default=32)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "small_batch.png")
    arguments = parser.parse_args()
    data = digits()
    print(f"SGD on {len(data.x)} digits, {arguments.epochs} epochs, {arguments.seeds} seeds")
    found = sweep_digits(data, arguments.batches, arguments.epochs, arguments.seeds)
    report_digits(found)
    report_variance(data, arguments.batches)
    print("Batch norm over groups, best accuracy")
    report_groups(data, [32, 128], [8, 32, 128], arguments.epochs)
    schnet: dict[str, dict[int, list[float]]] = {}
    if arguments.store is not None:
        schnet = sweep_schnet(
            arguments.store, arguments.schnet_batches, arguments.conformers,
            arguments.schnet_epochs, arguments.features,
        )  # fmt: skip
    draw(found, schnet, arguments.figure)
    check_digits(found)


if __name__ == "__main__":
    main()
