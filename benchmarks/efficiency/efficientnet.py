"""Masters et al., 2106.03640: what EfficientNets cost, and training at half the pixels.

    python benchmarks/efficiency/efficientnet.py qm9.zarr

Prints weights and multiply-accumulates of B0 to B7 in both variants. Then small networks of the
efficient variant learn scikit-learn's digits, and the gap of a dataset's molecules from their
structural formulas: at all pixels, and at half of them with a fine-tuning of the top layers at all,
whose learning rate is the best of three on examples of neither training nor test. Run as
`make benchmark-architectures`.
"""

import argparse
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from benchmarks.reporting import save_plot, table
from qmgen.dataset import open_dataset
from qmgen.efficiency.networks.efficientnet import (
    EFFICIENT,
    HALF_RESOLUTIONS,
    ORIGINAL,
    SCALINGS,
    Architecture,
    EfficientNet,
    Stage,
    Variant,
    efficientnet,
    top_layers,
)
from qmgen.efficiency.networks.flop_count import multiply_accumulates
from qmgen.efficiency.networks.proxy_norm import proxy_parameters
from qmgen.molecules import depicted_pixels
from qmgen.units import EV_PER_HARTREE

# Millions of weights and billions of multiply-accumulates in the paper of Tan and Le.
PUBLISHED = {
    "B0": (5.3, 0.39),
    "B1": (7.8, 0.70),
    "B2": (9.2, 1.0),
    "B3": (12, 1.8),
    "B4": (19, 4.2),
    "B5": (30, 9.9),
    "B6": (43, 19),
    "B7": (66, 37),
}
VARIANTS = {
    "depthwise, expansion 6, group norm": ORIGINAL,
    "groups of 16, expansion 4, layer norm": Variant(16, 4, 1, False),
    "the same and proxy norm": EFFICIENT,
}
BATCH = 64
# Learning rates, those to choose from for fine-tuning, and weight decay of proxies' parameters.
RATE, TUNING_RATES, DECAY = 0.004, (0.004, 0.008, 0.016), 1e-3
Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Task(NamedTuple):
    """Images at all pixels, what to learn, and how well it is learnt (more is better).

    The first are for `training`, so many after them for choices, and the others for the test.
    """

    name: str
    images: np.ndarray
    targets: np.ndarray
    training: int
    validation: int
    half: int
    outputs: int
    architecture: Architecture
    loss: Loss
    score: Callable[[np.ndarray, np.ndarray], float]
    what: str


def counts() -> None:
    """Weights and products of all networks, without making one."""
    rows = []
    for name, scaling in SCALINGS.items():
        row = [name, str(scaling.resolution)]
        for variant in (ORIGINAL, EFFICIENT):
            model = eqx.filter_eval_shape(
                lambda key, n=name, v=variant: efficientnet(n, v, key=key), jax.random.key(0)
            )
            sizes = [scaling.resolution]
            if variant is EFFICIENT and name in HALF_RESOLUTIONS:
                sizes.append(HALF_RESOLUTIONS[name])
            row.append(f"{sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e6:.2f}")
            for size in sizes:
                image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
                row.append(f"{multiply_accumulates(model, image) / 1e9:.3f}")
            if variant is ORIGINAL:
                row.extend(map(str, PUBLISHED[name]))
        rows.append([*row, *([""] * (9 - len(row)))])
    print("Millions of weights, billions of multiply-accumulates")
    header = ["", "pixels", "weights", "products", "published weights", "published products"]
    table([*header, "efficient: weights", "products", "at half the pixels"], rows)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    shape = len(images), size, size, images.shape[-1]
    return np.asarray(jax.image.resize(jnp.asarray(images), shape, "linear"))


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(outputs.argmax(-1) == targets))


def digits() -> Task:
    """16 x 16 pixels, which the digits' 8 x 8 are enlarged to, and 12 x 12."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = resized((data.images[order] / 8 - 1)[..., None].astype(np.float32), 16)
    return Task(
        "digits",
        images,
        data.target[order].astype(np.int32),
        training=1257,
        validation=180,
        half=12,
        outputs=10,
        architecture=Architecture(16, (Stage(3, 1, 16, 1, expands=False), Stage(3, 2, 24, 2)), 96),
        loss=optax.softmax_cross_entropy_with_integer_labels,
        score=accuracy,
        what="accuracy",
    )


def molecules(store: Path, size: int, limit: int) -> Task:
    """A first conformer's gap of each molecule, from the formula; a quarter isn't for training."""
    dataset = open_dataset(store)
    columns = dataset.batch(slice(0, len(dataset)), ["molecule", "smile", "gap"])
    _, rows = np.unique(columns["molecule"], return_index=True)
    rows = np.random.default_rng(0).permutation(rows)[:limit]
    gaps = np.asarray(columns["gap"])[rows] * EV_PER_HARTREE
    images = np.stack([depicted_pixels(columns["smile"][row], size) for row in rows])
    training = len(rows) * 3 // 4
    mean, deviation = gaps[:training].mean(), gaps[:training].std()
    return Task(
        "molecules",
        (1 - images / 255).astype(np.float32),
        ((gaps - mean) / deviation).astype(np.float32),
        training=training,
        validation=len(rows) // 12,
        half=round(size / 2**0.5 / 4) * 4 + size % 4,
        outputs=1,
        architecture=Architecture(
            16, (Stage(3, 1, 16, 1, expands=False), Stage(3, 2, 24, 2), Stage(3, 1, 32, 1)), 128
        ),
        loss=lambda outputs, targets: optax.huber_loss(outputs[..., 0], targets),
        score=lambda outputs, targets: -float(deviation * np.mean(abs(outputs[:, 0] - targets))),
        what="-error, eV",
    )


def network(task: Task, variant: Variant, seed: int, dense: bool | None = None) -> EfficientNet:
    """By default dense kernels on CPUs, whose gradients of convolutions in groups take longer."""
    channels = task.images.shape[-1]
    dense = jax.default_backend() == "cpu" if dense is None else dense
    return EfficientNet(
        task.architecture,
        variant,
        task.outputs,
        key=jax.random.key(seed),
        channels=channels,
        dense=dense,
    )


@eqx.filter_jit(donate="all-except-first")
def step(
    frozen: tuple[Any, jax.Array, jax.Array],
    carry: tuple[Any, Any],
    batch: jax.Array,
    optimiser: optax.GradientTransformation,
    loss: Loss,
) -> tuple[Any, Any]:
    model, images, targets = frozen

    def mean_loss(parameters: Any) -> jax.Array:
        outputs = eqx.combine(parameters, model)(images[batch])
        return jnp.mean(loss(outputs, targets[batch]))

    updates, state = optimiser.update(eqx.filter_grad(mean_loss)(carry[0]), carry[1], carry[0])
    return optax.apply_updates(carry[0], updates), state


@lru_cache
def optimiser_of(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine from the rate to nothing, and weight decay of proxies' parameters."""
    return optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(DECAY, mask=proxy_parameters),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(rate, steps)),
    )


def fit(
    task: Task,
    model: EfficientNet,
    images: np.ndarray,
    trained: Any,
    epochs: int,
    rate: float,
    seed: int,
) -> EfficientNet:
    """A loop of Python, as XLA runs convolutions in a scan on a CPU 15 times slower."""
    random = np.random.default_rng(seed)
    whole = task.training // BATCH * BATCH
    order = [random.permutation(task.training)[:whole] for _ in range(epochs)]
    batches = np.concatenate(order).reshape(-1, BATCH)
    # Steps take over the memory of what they are given, and the model is needed afterwards.
    parameters, frozen = eqx.partition(jax.tree.map(jnp.copy, model), trained)
    optimiser = optimiser_of(rate, len(batches))
    carry = parameters, optimiser.init(parameters)
    fixed = frozen, jnp.asarray(images), jnp.asarray(task.targets)
    for batch in batches:
        carry = step(fixed, carry, jnp.asarray(batch), optimiser, task.loss)
    return jax.block_until_ready(eqx.combine(carry[0], frozen))


@eqx.filter_jit
def predicted(model: EfficientNet, images: jax.Array) -> jax.Array:
    return model(images)


def score(task: Task, model: EfficientNet, images: np.ndarray, for_choice: bool = False) -> float:
    """On the test, or on the examples for choices."""
    start = task.training + task.validation
    rows = slice(task.training, start) if for_choice else slice(start, None)
    outputs = predicted(model, jnp.asarray(images[rows]))
    return task.score(np.asarray(outputs), task.targets[rows])


def compare_variants(task: Task, epochs: int, seeds: int) -> None:
    rows = []
    for name, variant in VARIANTS.items():
        counted = eqx.filter_eval_shape(lambda v=variant: network(task, v, 0, dense=False))
        products = multiply_accumulates(counted, task.images[:1])
        scores = []
        for seed in range(seeds):
            model = network(task, variant, seed)
            model = fit(task, model, task.images, eqx.is_inexact_array, epochs, RATE, seed)
            scores.append(score(task, model, task.images))
        rows.append([name, f"{products / 1e6:.2f}", f"{np.mean(scores):.4f}"])
    print(f"{task.name}: variants at all pixels, mean of {seeds} seeds")
    table(["", "million products an image", task.what], rows)


NOTHING, FULL, HALF, AT_HALF, TUNED = (
    "outputs of 0",
    "all pixels",
    "half the pixels",
    "half, tested at half",
    "half, top layers fine-tuned",
)


def trained_three_ways(
    task: Task, epochs: int, tuning: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores at all pixels (one at half) and seconds of training, of fine-tuning at one rate."""
    small = resized(task.images, task.half)
    start = network(task, EFFICIENT, seed)
    clock = [time.perf_counter()]
    full = fit(task, start, task.images, eqx.is_inexact_array, epochs, RATE, seed)
    clock.append(time.perf_counter())
    half = fit(task, start, small, eqx.is_inexact_array, epochs, RATE, seed)
    clock.append(time.perf_counter())
    candidates = [
        fit(task, half, task.images, top_layers(half), tuning, rate, seed) for rate in TUNING_RATES
    ]
    clock.append(clock[-1] + (time.perf_counter() - clock[-1]) / len(TUNING_RATES))
    tuned = max(candidates, key=lambda model: score(task, model, task.images, for_choice=True))
    zeros = np.zeros((len(task.targets), task.outputs))
    tested = task.training + task.validation
    scores = {
        NOTHING: task.score(zeros[tested:], task.targets[tested:]),
        FULL: score(task, full, task.images),
        HALF: score(task, half, task.images),
        AT_HALF: score(task, half, small),
        TUNED: score(task, tuned, task.images),
    }
    return scores, dict(zip((FULL, HALF, TUNED), np.diff(clock), strict=True))


def resolutions(task: Task, epochs: int, tuning: int, seeds: int) -> dict[str, list[float]]:
    """Prints how much of the gap between both resolutions fine-tuning recovers."""
    runs = [trained_three_ways(task, epochs, tuning, seed) for seed in range(seeds)]
    found = {name: [scores[name] for scores, _ in runs] for name in runs[0][0]}
    # The last one doesn't compile anything, if there is more than one.
    seconds = runs[-1][1]
    rows = [
        [name, f"{np.mean(values):.4f}", f"{seconds[name]:.0f}" if name in seconds else ""]
        for name, values in found.items()
    ]
    sizes = f"{task.images.shape[1]} and {task.half} pixels a side"
    print(f"{task.name}, {sizes}, {epochs} epochs and {tuning} of fine-tuning, {seeds} seeds")
    table(["", task.what, "seconds"], rows)
    nothing, full, before, after = (np.mean(found[name]) for name in (NOTHING, FULL, HALF, TUNED))
    recovered = (after - before) / (full - before)
    said = "as expected" if recovered >= 0.8 else "NOT as expected"
    if abs(full - nothing) < 0.2 * abs(nothing):
        said = "undecided, as hardly anything is learnt at all pixels"
    print(f"Fine-tuning recovers {100 * recovered:.0f} % of the gap; at least 80 %: {said}\n")
    return found


def draw(results: dict[str, tuple[Task, dict[str, list[float]]]], figure: Path) -> None:
    _, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 3), squeeze=False)
    for axis, (task, found) in zip(axes[0], results.values(), strict=True):
        shown = [name for name in found if name not in (NOTHING, AT_HALF)]
        axis.bar(shown, [abs(np.mean(found[name])) for name in shown], color="tab:blue")
        for place, name in enumerate(shown):
            axis.plot([place] * len(found[name]), np.abs(found[name]), "k.")
        axis.set_title(f"{task.name}: {task.what.lstrip('-')} at all pixels")
        axis.tick_params(axis="x", labelsize=7)
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, nargs="?", help="dataset with gaps, such as QM9")
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=[8, 20], help="of digits and of molecules"
    )
    parser.add_argument("--fine-tuning-epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs=2, default=[2, 1], help="likewise")
    parser.add_argument("--size", type=int, default=28, help="pixels a side of formulas")
    parser.add_argument("--molecules", type=int, default=2000)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "efficientnet.png")
    a = parser.parse_args()
    counts()
    tasks = [(digits(), a.epochs[0], a.seeds[0])]
    if a.store:
        tasks.append((molecules(a.store, a.size, a.molecules), a.epochs[1], a.seeds[1]))
    compare_variants(*tasks[0])
    results = {}
    for task, epochs, seeds in tasks:
        found = resolutions(task, epochs, a.fine_tuning_epochs, seeds)
        results[task.name] = task, found
    draw(results, a.figure)


if __name__ == "__main__":
    main()
