"""SchNet on a store, trained with the same settings and data in each number format.

Prints the test error, and how much of the weights, activations and gradients each format's range
has no room for, and draws both. The three products of each linear layer in the interactions are in
the format; embedding, readout, sums over atoms, master weights and optimiser stay float32. 16-bit
types are those of all that the interactions compute. Run as `make benchmark-few-bits`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from schnet_with_scales import in_scaled_half, scalified_grad, unit_scaled, unit_scaled_factors

from benchmarks.reporting import save_plot, table
from qmgen.dataset import Dataset, batch_loader, open_dataset
from qmgen.efficiency.element import BFLOAT16, FLOAT16
from qmgen.efficiency.formats import FP8_E4M3, FP8_E5M2, Format
from qmgen.efficiency.fp4_training import (
    MXFP4_BEST,
    MXFP4_RECIPE,
    NVFP4_BEST,
    NVFP4_RECIPE,
    UE5M3_BEST,
    UE5M3_RECIPE,
    FP4Recipe,
)
from qmgen.efficiency.fp8_linear import FP8_AMAX, quantise_linears, with_keys
from qmgen.efficiency.loss_scaling import (
    BackoffLossScale,
    ConstantLossScale,
    LossScale,
    ScaledStep,
    value_and_scaled_grad,
)
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.scalify.fp8 import fp8_matmul
from qmgen.efficiency.tensor_statistics import layer_tensors, range_shares
from qmgen.efficiency.unit_scaled_layers import Linear
from qmgen.errors import QmgenError
from qmgen.training import Scaling, TrainConfig, fit_standardisation, select_rows
from qmgen.training.jax_schnet import SchNet, build_schnet
from qmgen.training.jax_train import (
    Molecules,
    Trained,
    absolute_loss,
    molecule_batches,
    predicted_errors,
    train_network,
)
from qmgen.training.targets import Target

KINDS = ("weights", "activations", "gradients")


def unchanged(model: SchNet) -> SchNet:
    return model


def as_it_is(model: SchNet, key: jax.Array) -> SchNet:
    return model


def in_half(dtype: jnp.dtype, model: SchNet, key: jax.Array) -> SchNet:
    """Interactions in a 16-bit type."""
    halves = jax.tree.map(lambda w: w.astype(dtype), model.interactions)
    return eqx.tree_at(lambda m: m.interactions, model, halves)


def in_formats(formats: MatmulFormats, model: SchNet, key: jax.Array) -> SchNet:
    """Interactions whose products are rounded."""
    layers = with_keys(quantise_linears(model.interactions, formats), key)
    return eqx.tree_at(lambda m: m.interactions, model, layers)


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes
    ----------
    in_use
        Makes of the float32 network what a step calls.
    formats
        Of what is multiplied, to see what they have no room for; None where that isn't asked.
    prepare
        Makes of the untrained network the one to train, such as one of other layers.
    factors
        Of the optimiser's steps, for each array of the network.
    differentiate
        In the place of `value_and_scaled_grad`.
    """

    in_use: Callable[[SchNet, jax.Array], SchNet] = as_it_is
    formats: MatmulFormats | None = None
    loss_scale: LossScale = field(default_factory=ConstantLossScale)
    prepare: Callable[[SchNet], SchNet] = unchanged
    factors: Callable[[SchNet], SchNet] | None = None
    differentiate: Callable[..., ScaledStep] = value_and_scaled_grad


def of_formats(formats: MatmulFormats) -> Variant:
    return Variant(partial(in_formats, formats), formats)


def of_recipe(recipe: FP4Recipe) -> Variant:
    return of_formats(recipe.formats())


def of_half(dtype: jnp.dtype, loss_scale: LossScale) -> Variant:
    element = Format(FLOAT16 if dtype == jnp.float16 else BFLOAT16)
    return Variant(partial(in_half, dtype), MatmulFormats(element, element, element), loss_scale)


def by_scales(product: Callable[..., jax.Array]) -> Variant:
    return Variant(partial(in_scaled_half, product), differentiate=scalified_grad)


FP8_BARE = MatmulFormats(FP8_E4M3, FP8_E4M3, FP8_E5M2)
# Another line is another way.
VARIANTS = {
    "float32": Variant(),
    "bfloat16": of_half(jnp.bfloat16, ConstantLossScale()),
    "float16": of_half(jnp.float16, ConstantLossScale()),
    "float16, loss scaling": of_half(jnp.float16, BackoffLossScale(patience=100)),
    "float16, scalified": by_scales(jnp.matmul),
    "FP8, bare casts": of_formats(FP8_BARE),
    # Gradients of the mean over batch and atoms become of order 1.
    "FP8, bare casts, unit-scaled": Variant(
        formats=FP8_BARE,
        loss_scale=ConstantLossScale(2.0**8),
        prepare=partial(unit_scaled, FP8_BARE),
        factors=unit_scaled_factors,
    ),
    "FP8, bare casts, float16 scalified": by_scales(fp8_matmul),
    "FP8-AMAX": of_formats(FP8_AMAX),
    "MXFP4": of_recipe(MXFP4_RECIPE),
    "NVFP4": of_recipe(NVFP4_RECIPE),
    "FP4, UE5M3 scales": of_recipe(UE5M3_RECIPE),
    "MXFP4, rotated, stochastic": of_recipe(MXFP4_BEST),
    "NVFP4, rotated, stochastic": of_recipe(NVFP4_BEST),
    "UE5M3, tiles, stochastic gradients": of_recipe(UE5M3_BEST),
}


@dataclass(frozen=True)
class Task:
    """What all variants have in common."""

    model: SchNet
    training: list[Molecules]
    test: list[Molecules]
    scaling: Scaling
    rate: float


def make_task(dataset: Dataset, target: Target, steps: int, config: TrainConfig) -> Task:
    selected = select_rows(dataset, "train", (target,))
    scaling = fit_standardisation(dataset, selected, (target,))[target]
    nat = max(int(block.n_atoms.max()) for block in dataset.iter_blocks(4096, columns=("z",)))
    loader = partial(
        batch_loader, dataset, config.batch_size, columns=("z", "pos", target), labels=(target,)
    )
    training: list[Molecules] = []
    epoch = 0
    while len(training) < steps:
        batches = loader(split="train", seed=config.seed)
        training += molecule_batches(batches, target, scaling, nat, epoch)
        epoch += 1
    print(f"{len(selected)} conformers to learn from, up to {nat} atoms; {steps} steps of ", end="")
    print(f"{config.batch_size}, {steps * config.batch_size / len(selected):.1f} epochs\n")
    test = list(molecule_batches(loader(split="test"), target, scaling, nat))
    model = build_schnet(config, target, config.seed)
    return Task(model, training[:steps], test, scaling, config.learning_rate)


def run(variant: Variant, task: Task) -> tuple[Trained, float, float]:
    """The training, mean absolute test error in the target's unit, processor seconds a step."""
    schedule = optax.cosine_decay_schedule(task.rate, len(task.training))
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
    model = variant.prepare(task.model)
    if variant.factors is not None:
        factors = eqx.filter(variant.factors(model), lambda v: isinstance(v, float))
        larger = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, factors, updates))
        optimiser = optax.chain(optimiser, larger)
    # XLA's own generator compiles faster.
    key = jax.random.key(1, impl="rbg")
    began = time.process_time()
    trained = train_network(
        model, task.training, optimiser, variant.loss_scale, key, variant.in_use,
        variant.differentiate,
    )  # fmt: skip
    took = (time.process_time() - began) / len(task.training)
    used = variant.in_use(trained.model, jax.random.key(2, impl="rbg"))
    errors = predicted_errors(used, task.test, task.scaling)
    return trained, float(np.abs(errors).mean()), took


def shares(variant: Variant, trained: Trained, task: Task) -> list[list[float]]:
    """Parts that become 0, then parts too large; each of weights, activations, gradients.

    NaN where there are no formats, and so nothing that is looked at.

    The tensors are those of the trained float32 weights, before any cast or rotation.
    """
    if variant.formats is None:
        return [[np.nan] * 3, [np.nan] * 3]
    scale, molecules = trained.loss_scale, jax.tree.map(jnp.asarray, task.training[-1])
    tensors = layer_tensors(
        lambda layers: (
            scale
            * absolute_loss(eqx.tree_at(lambda m: m.interactions, trained.model, layers), molecules)
        ),
        trained.model.interactions,
        (Linear,),
    )
    found = [range_shares(getattr(tensors, kind), getattr(variant.formats, kind)) for kind in KINDS]
    return [[s.underflow for s in found], [s.overflow for s in found]]


def draw(names: list[str], errors: list[float], lost: list[list[list[float]]], unit: str,
         figure: Path) -> None:  # fmt: skip
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    places = np.arange(len(names))
    left.barh(places, errors)
    left.set_yticks(places, names, fontsize=8)
    left.invert_yaxis()
    left.set_xlabel(f"mean absolute test error, {unit}")
    for offset, kind in enumerate(KINDS):
        values = [100 * (under[offset] + over[offset]) for under, over in lost]
        right.barh(places + 0.27 * (offset - 1), values, height=0.27, label=kind)
    right.set_xlabel("numbers lost to under- and overflow, %")
    right.legend()
    save_plot(figure)


def percent(values: list[float]) -> str:
    return "" if np.isnan(values).all() else " / ".join(f"{100 * v:.1f}" for v in values)


def compare(arguments: argparse.Namespace) -> None:
    config = TrainConfig(
        targets={arguments.target: 1.0},
        n_atom_basis=arguments.features,
        n_interactions=arguments.interactions,
        batch_size=arguments.batch_size,
        learning_rate=2e-3,
    )
    task = make_task(open_dataset(arguments.store), arguments.target, arguments.steps, config)
    labels = np.concatenate([batch.label[batch.weight > 0] for batch in task.test])
    constant = 1e3 * np.abs(labels).mean() * task.scaling.scale
    errors, lost = [], []

    def rows() -> Iterator[list[str]]:
        yield ["no network", f"{constant:.0f}", "", "", "", ""]
        for name, variant in VARIANTS.items():
            trained, error, seconds = run(variant, task)
            errors.append(1e3 * error)
            lost.append(shares(variant, trained, task))
            skipped, took = str(trained.skipped_steps), f"{1e3 * seconds:.0f}"
            yield [name, f"{1e3 * error:.0f}", skipped, *map(percent, lost[-1]), took]

    each = " / ".join(KINDS)
    header = ["training", f"test MAE of the {arguments.target}, meV", "steps left out"]
    header += [f"become 0, %: {each}", f"too large, %: {each}", "ms a step, compiling included"]
    table(header, rows())
    draw(list(VARIANTS), errors, lost, "meV", arguments.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--target", default="gap", choices=("energy", "gap", "homo", "lumo"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--interactions", type=int, default=2)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "schnet_few_bits.png")
    try:
        compare(parser.parse_args())
    except QmgenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
