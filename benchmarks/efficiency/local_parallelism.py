"""Laskin et al., 2012.03837: layers with losses of their own against backpropagation.

An eight-layer network on digits and (with --store) a SchNet of six interactions with a head after
each on energies; memory of a step; use of devices by schedules of a pipeline, and as measured on
devices that the processor is made to look like. Prints tables and draws losses. Run as
`make benchmark-methods`.
"""

import argparse
import time
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
from small_training import Digits, digits, epochs, training

from benchmarks.reporting import save_plot, table
from qmgen.dataset import batch_loader, open_dataset
from qmgen.efficiency.fp8_linear import apply_linear
from qmgen.efficiency.methods import pipeline_schedule
from qmgen.efficiency.methods.local_losses import chunked, greedy, local_losses, overlapping
from qmgen.efficiency.methods.local_pipeline import (
    Stage,
    local_step,
    pipelined_gradients,
    train_overlapping_pipeline,
    train_pipeline,
)
from qmgen.efficiency.methods.pipeline_schedule import ScheduleCost, StageCost
from qmgen.training import TrainConfig, fit_standardisation, select_rows
from qmgen.training.jax_schnet import (
    Interaction,
    build_schnet,
    cosine_cutoff,
    gaussian_basis,
    pair_distances,
)
from qmgen.training.jax_train import Molecules, molecule_batches

DEPTH, BATCH = 8, 64
SGD = optax.sgd(1e-3)
Pieces = tuple[range, ...]


class Layer(eqx.Module):
    """A linear layer and ReLU, of rows."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, inputs: int, outputs: int, key: jax.Array) -> None:
        self.weight = jax.random.normal(key, (outputs, inputs)) * (2 / inputs) ** 0.5
        self.bias = jnp.zeros(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:  # noqa: D102
        return jax.nn.relu(x @ self.weight.T + self.bias)


class Head(eqx.Module):
    """Class scores of rows."""

    weight: jax.Array

    def __init__(self, inputs: int, key: jax.Array) -> None:
        self.weight = jax.random.normal(key, (10, inputs)) * inputs**-0.5

    def __call__(self, x: jax.Array) -> jax.Array:  # noqa: D102
        return x @ self.weight.T


def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def schemes(depth: int) -> dict[str, Pieces]:
    return {
        "backpropagation": chunked(depth, depth),
        "chunks of half": chunked(depth, depth // 2),
        "chunks of 2": chunked(depth, 2),
        "overlapping": overlapping(depth),
        "greedy": greedy(depth),
    }


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def network_of(heads: int, width: int, seed: int) -> tuple[list[Layer], list[Head]]:
    """Layers, and as many heads."""
    keys = jax.random.split(jax.random.key(seed), 2 * DEPTH)
    sizes = [64] + [width] * DEPTH
    layers = [Layer(sizes[i], sizes[i + 1], keys[i]) for i in range(DEPTH)]
    return layers, [Head(width, keys[DEPTH + i]) for i in range(heads)]


def on_digits(data: Digits, width: int, steps: int, seeds: int) -> tuple[dict, dict]:
    """Curves of the mean of all losses, and accuracies; prints these."""
    curves, accuracies = {}, {}

    def rows():
        for name, pieces in schemes(DEPTH).items():

            def loss(network: Any, batch: Any, pieces: Pieces = pieces) -> jax.Array:
                of_pieces = local_losses(
                    *network, pieces, batch[0], partial(cross_entropy, labels=batch[1])
                )
                return of_pieces.sum()

            def right(network: Any) -> jax.Array:
                x = data.test_x
                for layer in network[0]:
                    x = layer(x)
                return jnp.mean(jnp.argmax(network[1][-1](x), -1) == data.test_y)

            def run(network: Any, batches: Any, loss: Any = loss, right: Any = right) -> Any:
                rate = jnp.float32(1e-3)
                (trained, _), (values, _) = training(loss, network, optax.adam, batches)(rate)
                return right(trained), values

            networks = [network_of(len(pieces), width, seed) for seed in range(seeds)]
            batches = [epochs(data, BATCH, steps, seed) for seed in range(seeds)]
            found, values = jax.jit(jax.vmap(run))(*map(stacked, (networks, batches)))
            accuracies[name] = float(found.mean())
            curves[name] = np.asarray(values.mean(0)) / len(pieces)
            spread = f"{100 * float(found.min()):.1f} to {100 * float(found.max()):.1f}"
            yield [name, str(len(pieces)), f"{100 * accuracies[name]:.1f}", spread]

    print(f"Digits, {DEPTH} layers of {width}, {steps} steps, {seeds} seeds")
    table(["training", "losses", "accuracy, %", "by seed"], rows())
    return curves, accuracies


def in_schnet(
    store: Path, steps: int, interactions: int, features: int, batch: int, seeds: int
) -> dict[str, np.ndarray]:
    """The same for energies, with a readout after each piece; prints test errors."""
    config = TrainConfig(
        targets={"energy": 1.0}, n_atom_basis=features, n_interactions=interactions, n_rbf=16
    )
    dataset = open_dataset(store)
    selected = select_rows(dataset, "train", ("energy",))
    scaling = fit_standardisation(dataset, selected, ("energy",))["energy"]
    nat = max(int(block.n_atoms.max()) for block in dataset.iter_blocks(4096, columns=("z",)))
    loader = partial(
        batch_loader, dataset, batch, columns=("z", "pos", "energy"), labels=("energy",)
    )
    each: list[Molecules] = []
    while len(each) < steps:
        each += molecule_batches(
            loader(split="train", seed=0), "energy", scaling, nat, len(each) and 1 + len(each)
        )
    full = [molecules for molecules in each if len(molecules.label) == batch][:steps]
    batches = stacked(full)
    test = list(molecule_batches(loader(split="test"), "energy", scaling, nat))

    def pieces_of(network: Any, molecules: Molecules, pieces: Pieces) -> jax.Array:
        """Errors of standardised energies."""
        embedding, layers, readouts = network
        distances, pairs = pair_distances(molecules.positions_angstrom, molecules.atom_mask)
        basis = gaussian_basis(distances, config.cutoff_angstrom, config.n_rbf)
        basis = jnp.where(pairs[..., None], basis, 0.0)
        reach = jnp.where(pairs, cosine_cutoff(distances, config.cutoff_angstrom), 0.0)
        atoms = jnp.where(molecules.atom_mask[..., None], embedding[molecules.z], 0.0)

        def add(layer: Interaction, atoms: jax.Array) -> jax.Array:
            return atoms + layer(atoms, basis, reach)

        def energy(readout: Any, atoms: jax.Array) -> jax.Array:
            hidden = jax.nn.silu(apply_linear(readout[0], atoms))
            values = apply_linear(readout[1], hidden)[..., 0]
            return jnp.where(molecules.atom_mask, values, 0.0).sum(-1)

        def error(predicted: jax.Array) -> jax.Array:
            wrong = jnp.abs(predicted - molecules.label) * molecules.weight
            return wrong.sum() / jnp.maximum(molecules.weight.sum(), 1)

        return local_losses(
            [partial(add, layer) for layer in layers],
            [partial(energy, readout) for readout in readouts],
            pieces, atoms, error,
        )  # fmt: skip

    curves = {}

    def rows():
        for name, pieces in schemes(interactions).items():
            found, losses = [], []
            for seed in range(seeds):
                model = build_schnet(config, "energy", seed)
                readouts = [
                    build_schnet(config, "energy", 100 * (seed + 1) + number).readout
                    for number in range(len(pieces))
                ]
                network = (model.embedding, model.interactions, readouts)
                loss = lambda network, m, pieces=pieces: pieces_of(network, m, pieces).sum()  # noqa: E731
                run = training(loss, network, optax.adam, batches)
                (trained, _), (values, _) = jax.jit(run)(jnp.float32(2e-3))
                last = jax.jit(lambda m, pieces=pieces, t=trained: pieces_of(t, m, pieces)[-1])
                weights = [float(molecules.weight.sum()) for molecules in test]
                errors = [float(last(molecules)) for molecules in test]
                found.append(1e3 * scaling.scale * np.average(errors, weights=weights))
                losses.append(np.asarray(values) / len(pieces))
            curves[name] = np.mean(losses, 0)
            yield [name, str(len(pieces)), f"{np.mean(found):.0f}",
                   ", ".join(f"{error:.0f}" for error in found)]  # fmt: skip

    print(f"SchNet, {interactions} interactions of {features}, {steps} steps of {batch}")
    table(["training", "losses", "test MAE of the energy, meV", "by seed"], rows())
    return curves


def make_stages(count: int, width: int, inputs: int) -> list[Stage]:
    """The network in stages of equal depth."""
    keys = jax.random.split(jax.random.key(0), DEPTH + count)
    sizes = [inputs] + [width] * DEPTH
    layers = [Layer(sizes[i], sizes[i + 1], keys[i]) for i in range(DEPTH)]
    size = DEPTH // count
    return [
        Stage(tuple(layers[size * i : size * (i + 1)]), Head(width, keys[DEPTH + i]))
        for i in range(count)
    ]


def compiled_local(stage: Stage, x: jax.Array, labels: jax.Array) -> Any:
    state = SGD.init(eqx.filter(stage, eqx.is_inexact_array))
    return local_step.lower(stage, SGD, state, x, labels, cross_entropy).compile().compiled


def memory(width: int, rows_at_once: int) -> None:
    """Memory of a step's activations, of all layers at once and of stages by themselves."""
    x, labels = jnp.zeros((rows_at_once, width)), jnp.zeros(rows_at_once, int)
    table_rows = []
    for count in (1, 2, 4, 8):
        sizes = [
            compiled_local(stage, x, labels).memory_analysis().temp_size_in_bytes
            for stage in make_stages(count, width, width)
        ]
        table_rows.append([str(count), str(DEPTH // count), f"{max(sizes) / 2**20:.1f}"])
    print(f"Memory of a step beside weights, {DEPTH} layers of {width}, {rows_at_once} rows")
    table(["stages", "layers of each", "largest one's MiB"], table_rows)


def seconds(run: Callable[[], Any], repeats: int = 5) -> float:
    """Shortest time of several."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - began)
    return min(found)


def devices_in_use(count: int, width: int, rows_at_once: int, steps: int) -> None:
    """Shares of devices' time in which they work: by schedule, and as measured."""
    stages, devices = make_stages(count, width, width), jax.devices()[:count]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(rows_at_once, width)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, rows_at_once))
    costs, handed = [], x
    forward = eqx.filter_jit(Stage.activations)
    for stage in stages:
        state = SGD.init(eqx.filter(stage, eqx.is_inexact_array))
        both = seconds(
            lambda stage=stage, state=state, x=handed: local_step(
                stage, SGD, state, x, labels, cross_entropy
            )[2:]
        )
        ahead = seconds(lambda stage=stage, x=handed: forward(stage, x))
        size = compiled_local(stage, handed, labels).memory_analysis().temp_size_in_bytes
        costs.append(StageCost(ahead, max(both - ahead, 0.0), float(size)))
        handed = forward(stage, handed)
    work = sum(cost.forward + cost.backward for cost in costs)

    def local(train: Callable[..., Any]) -> Any:
        batches = ((x, labels) for _ in range(steps))
        return train(stages, SGD, batches, cross_entropy, devices)[1]

    def pipelined(parts: int) -> Any:
        split = list(zip(jnp.split(x, parts), jnp.split(labels, parts), strict=True))
        gradients = pipelined_gradients(stages, split, cross_entropy, devices)[1]
        return eqx.filter(gradients, eqx.is_array)

    # Compilation is no part of it, which is measured from the second time on.
    took = {
        "local": seconds(partial(local, train_pipeline), 3) / steps,
        "local, overlapping": seconds(partial(local, train_overlapping_pipeline), 3) / steps,
        "backpropagation": seconds(partial(pipelined, 1), 4),
        f"backpropagation, {count} micro-batches": seconds(partial(pipelined, count), 4),
    }
    by_schedule: dict[str, ScheduleCost] = {
        "backpropagation": pipeline_schedule.backpropagation(costs),
        f"backpropagation, {count} micro-batches": pipeline_schedule.backpropagation(costs, count),
        "backpropagation, stale weights": pipeline_schedule.without_waiting(costs, steps),
        "local": pipeline_schedule.local(costs, steps),
        "local, overlapping": pipeline_schedule.local_overlapping(costs, steps),
    }
    rows = []
    for name, cost in by_schedule.items():
        # Schedules of local losses are of all steps, those of backpropagation of the one timed.
        a_step = cost.time / (steps if name.startswith("local") else 1)
        measured = f"{100 * cost.utilisation * a_step / took[name]:.0f}" if name in took else ""
        milliseconds = f"{1e3 * took[name]:.1f}" if name in took else ""
        rows.append([name, f"{100 * cost.utilisation:.0f}", measured, milliseconds,
                     f"{max(cost.activation_bytes) / 2**20:.1f}"])  # fmt: skip
    print(
        f"{count} devices, {DEPTH} layers of {width}, {rows_at_once} rows, {steps} steps; ", end=""
    )
    print(f"the work of a step takes {1e3 * work:.1f} ms")
    header = ["training", "in use by schedule, %", "measured, %", "measured ms a step"]
    table([*header, "largest MiB on a device"], rows)
    use = {name: cost.utilisation for name, cost in by_schedule.items()}
    assert use["local"] > use[f"backpropagation, {count} micro-batches"] > use["backpropagation"]


def draw(panels: dict[str, dict[str, np.ndarray]], figure: Path) -> None:
    axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), squeeze=False)[1]
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, curve in curves.items():
            smooth = curve[: len(curve) // 10 * 10].reshape(-1, 10).mean(1)
            axis.plot(10 * np.arange(len(smooth)), smooth, label=name)
        axis.set(title=title, xlabel="step", ylabel="mean of training losses", yscale="log")
        axis.legend(fontsize=7)
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--wide", type=int, default=512, help="width where devices are measured")
    parser.add_argument("--store", type=Path, help="for SchNet on its energies")
    parser.add_argument("--schnet-steps", type=int, default=300)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--schnet-seeds", type=int, default=1)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "local_parallelism.png")
    arguments = parser.parse_args()
    # Before the first use of a device.
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    curves, accuracies = on_digits(digits(), arguments.width, arguments.steps, arguments.seeds)
    panels = {"digits": curves}
    memory(arguments.wide, 256)
    for count in arguments.devices:
        devices_in_use(count, arguments.wide, 256, 20)
    if arguments.store is not None:
        panels["SchNet"] = in_schnet(
            arguments.store, arguments.schnet_steps, 6, arguments.features, 16,
            arguments.schnet_seeds,
        )  # fmt: skip
    draw(panels, arguments.figure)
    best = accuracies["backpropagation"]
    for name, accuracy in accuracies.items():
        assert accuracy > best - 0.03, f"{name} is {100 * (best - accuracy):.1f} points worse"


if __name__ == "__main__":
    main()
