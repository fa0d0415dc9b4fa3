"""Hu et al., 2509.17791: switches of FP4 training, what they gain against what they cost.

A network learns the classes of a teacher (`teacher.py`) with each recipe, from several random
weights at once. Prints all recipes, those that no other one beats in loss and overhead together,
and draws both. Run as `make benchmark-efficiency`.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from teacher import CLASSES, INPUTS, examples

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.fp4_overhead import PLAIN_CAST, LayerShape, overhead_per_number, switches
from qmgen.efficiency.fp4_training import (
    MXFP4_BEST,
    MXFP4_RECIPE,
    NVFP4_BEST,
    NVFP4_RECIPE,
    UE5M3_BEST,
    UE5M3_RECIPE,
    FP4Recipe,
    train_in_fp4,
)
from qmgen.efficiency.fp8_linear import apply_linear, with_keys
from qmgen.efficiency.gradient_approximations import CastGradient
from qmgen.efficiency.loss_scaling import ConstantLossScale, keep_if, value_and_scaled_grad
from qmgen.efficiency.stable_spam import recipe_optimiser

WIDTH, BATCH, RATE = 64, 256, 4e-3
SHAPES = tuple(
    LayerShape(BATCH, *sizes) for sizes in ((INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES))
)


class Outcome(NamedTuple):
    """Mean test loss over the seeds, its standard error, and processor time of a step."""

    loss: float
    error: float
    milliseconds: float


def apply(model: eqx.nn.MLP, x: jax.Array) -> jax.Array:
    for layer in model.layers[:-1]:
        x = jax.nn.gelu(apply_linear(layer, x))
    return apply_linear(model.layers[-1], x)


def train(recipe: FP4Recipe | None, steps: int, seeds: int) -> Outcome:
    """Train and test; None is float32."""
    x, y = map(jnp.asarray, examples(16_384, 1))
    test_x, test_y = map(jnp.asarray, examples(4096, 3))
    optimiser = optax.adam(RATE) if recipe is None else recipe_optimiser(recipe, RATE)
    rule = ConstantLossScale() if recipe is None else recipe.loss_scale()

    def loss(model: eqx.nn.MLP, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        logits = apply(with_keys(model, key), x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def run(seed: jax.Array) -> jax.Array:
        start, key = jax.random.split(jax.random.key(seed))
        # Random bits of casts from XLA's own generator, which compiles faster.
        casts = jax.random.key(seed, impl="rbg")
        model = eqx.nn.MLP(INPUTS, CLASSES, WIDTH, 2, key=start)
        if recipe is not None:
            model = train_in_fp4(model, recipe)
        parameters, static = eqx.partition(model, eqx.is_inexact_array)

        def of_parameters(parameters, x, y, key):
            return loss(eqx.combine(parameters, static), x, y, key)

        def step(carry, number):
            parameters, state, scaling = carry
            rows = jax.random.randint(jax.random.fold_in(key, number), (BATCH,), 0, len(x))
            of_casts = jax.random.fold_in(casts, number)
            done = value_and_scaled_grad(
                of_parameters, rule, scaling, parameters, x[rows], y[rows], of_casts
            )
            updates, new_state = optimiser.update(done.gradients, state, parameters)
            new = optax.apply_updates(parameters, updates)
            kept = keep_if(done.finite, (new, new_state), (parameters, state))
            return (*kept, done.state), None

        carry = (parameters, optimiser.init(parameters), rule.init())
        (parameters, _, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
        return of_parameters(parameters, test_x, test_y, casts)

    compiled = jax.jit(jax.vmap(run)).lower(jnp.arange(seeds)).compile()
    began = time.process_time()
    losses = np.asarray(compiled(jnp.arange(seeds)))
    took = time.process_time() - began
    error = losses.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else 0.0
    return Outcome(float(losses.mean()), float(error), 1e3 * took / steps / seeds)


def single_switches() -> dict[str, FP4Recipe]:
    """Formats as they are, and each switch by itself on UE5M3 scales."""
    plain = UE5M3_RECIPE
    recipes = {
        "E8M0/32 (MXFP4)": MXFP4_RECIPE,
        "E8M0/32, scales up": replace(MXFP4_RECIPE, scale_rounding="up"),
        "E4M3/16": FP4Recipe("E4M3"),
        "E4M3/16, loss scaling": FP4Recipe("E4M3", loss_scaling=True),
        "E4M3/16, tensor scale (NVFP4)": NVFP4_RECIPE,
        "UE5M3/16": plain,
    }
    changes: dict[str, dict[str, object]] = {
        "blocks of 32": {"block": 32},
        "scales up": {"scale_rounding": "up"},
        "tensor scale": {"tensor_scale": True},
        "weights in tiles": {"weight_tiles": True},
        "loss scaling": {"loss_scaling": True},
        "StableSPAM": {"optimiser": "stable_spam"},
    }
    for name in ("gradients", "backward", "all"):
        changes[f"stochastic, {name}"] = {"stochastic": name}
    for name in ("forward", "backward", "all"):
        changes[f"rotated, {name}"] = {"rotation": name}
    for name in ("power", "sigmoid", "spline"):
        changes[f"step: {name}"] = {"cast_gradient": CastGradient(name)}
    for name in ("absmax", "softmax"):
        changes[f"scale's gradient: {name}"] = {"cast_gradient": CastGradient(scale=name)}
    rounded = CastGradient(scale="absmax", scale_step="spline")
    changes["scale's gradient: absmax, its rounding: spline"] = {"cast_gradient": rounded}
    for name, change in changes.items():
        recipes[f"UE5M3/16, {name}"] = replace(plain, **change)
    recipes["MXFP4, rotated, stochastic backward"] = MXFP4_BEST
    recipes["NVFP4, rotated, stochastic backward"] = NVFP4_BEST
    recipes["UE5M3/16, tiles, tensor scale, stochastic gradients"] = UE5M3_BEST
    return recipes


def random_recipes(count: int) -> dict[str, FP4Recipe]:
    """Points of the whole product of the switches, always the same ones."""
    rng = np.random.default_rng(0)

    def one(choices: tuple) -> object:
        return choices[rng.integers(len(choices))]

    recipes: dict[str, FP4Recipe] = {}
    while len(recipes) < count:
        scale = one(("E8M0", "E4M3", "UE5M3"))
        of_scale = one(("none", "absmax", "softmax"))
        steps = ("straight_through", "power", "sigmoid", "spline")
        of_rounding = one(steps) if of_scale != "none" else "straight_through"
        recipe = FP4Recipe(
            scale=scale,
            block=one((16, 32)),
            scale_rounding=one(("nearest_even", "up")),
            tensor_scale=scale != "E8M0" and one((False, True)),
            weight_tiles=one((False, True)),
            stochastic=one(("none", "gradients", "backward", "all")),
            rotation=one(("none", "forward", "backward", "all")),
            cast_gradient=CastGradient(one(steps), of_scale, of_rounding),
            loss_scaling=one((False, True)),
            optimiser=one(("adam", "stable_spam")),
        )
        recipes[described(recipe)] = recipe
    return recipes


def described(recipe: FP4Recipe) -> str:
    gradient = recipe.cast_gradient
    words = [f"{recipe.scale}/{recipe.block}"]
    words += ["scales up"] * (recipe.scale_rounding == "up")
    words += ["tensor scale"] * recipe.tensor_scale
    words += ["tiles"] * recipe.weight_tiles
    words += [f"stochastic {recipe.stochastic}"] * (recipe.stochastic != "none")
    words += [f"rotated {recipe.rotation}"] * (recipe.rotation != "none")
    words += [gradient.step] * (gradient.step != "straight_through")
    words += [f"scale {gradient.scale}"] * (gradient.scale != "none")
    words += [f"its rounding {gradient.scale_step}"] * (gradient.scale_step != "straight_through")
    words += ["loss scaling"] * recipe.loss_scaling
    words += ["StableSPAM"] * (recipe.optimiser == "stable_spam")
    return ", ".join(words)


def pareto_front(points: list[tuple[float, float]]) -> list[int]:
    """Places of the points that none other is below or equal to in both, by the first of them."""
    front, best = [], np.inf
    for place in sorted(range(len(points)), key=points.__getitem__):
        if points[place][1] < best:
            front.append(place)
            best = points[place][1]
    return front


def draw(
    names: list[str],
    points: list[tuple[float, float]],
    front: list[int],
    reference: float,
    figure: Path,
) -> None:
    _, axis = plt.subplots(figsize=(8, 5))
    # Up to three times the median recipe's excess over float32, with arrows to what is above.
    top = reference + 3 * (float(np.median([loss for _, loss in points])) - reference)
    shown = [point for point in points if point[1] <= top]
    axis.scatter(*zip(*shown, strict=True), s=18, color="tab:grey")
    for operations, loss in points:
        if loss > top:
            axis.annotate(
                f"{loss:.2f}",
                (operations, top),
                xytext=(operations, top - 0.1 * (top - reference)),
                arrowprops={"arrowstyle": "->", "color": "tab:red"},
                color="tab:red",
                fontsize=8,
                ha="center",
            )
    axis.set_ylim(reference - 0.05 * (top - reference), top)
    most = max(operations for operations, _ in points)
    axis.set_xlim(-0.05 * most, 1.05 * most)
    axis.step(
        [points[place][0] for place in front],
        [points[place][1] for place in front],
        where="post",
        color="tab:blue",
        marker="o",
    )
    for place in front:
        axis.annotate(
            names[place], points[place], xytext=(4, 4), textcoords="offset points", fontsize=7
        )
    axis.axhline(reference, color="black", linestyle=":", label="float32")
    axis.set_xlabel(f"operations for each number cast, beside the plainest cast's {PLAIN_CAST}")
    axis.set_ylabel("test loss")
    axis.legend()
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--random", type=int, default=12, help="recipes drawn of all combinations")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "fp4_design_space.png")
    arguments = parser.parse_args()
    wide = train(None, arguments.steps, arguments.seeds)
    recipes = single_switches() | random_recipes(arguments.random)
    costs = [overhead_per_number(recipe, SHAPES) for recipe in recipes.values()]
    losses: list[float] = []

    def rows() -> Iterator[list[str]]:
        yield ["float32", "", "", "", f"{wide.loss:.3f} ± {wide.error:.3f}", "1.0"]
        for (name, recipe), cost in zip(recipes.items(), costs, strict=True):
            outcome = train(recipe, arguments.steps, arguments.seeds)
            losses.append(outcome.loss)
            yield [
                name,
                f"{cost.operations:.1f}",
                f"{cost.bytes:.1f}",
                str(switches(recipe)),
                f"{outcome.loss:.3f} ± {outcome.error:.3f}",
                f"{outcome.milliseconds / wide.milliseconds:.1f}",
            ]

    header = ["recipe", "operations a number", "bytes a number", "switches", "test loss"]
    table([*header, "processor time / float32"], rows())
    # NaN compares false: a recipe that diverged is never below another one.
    points = [(cost.operations, loss) for cost, loss in zip(costs, losses, strict=True)]
    front, names = pareto_front(points), list(recipes)
    best = [[names[i], f"{points[i][0]:.1f}", f"{points[i][1]:.3f}"] for i in front]
    table(["no other is better at less", "operations a number", "test loss"], best)
    draw(names, points, front, wide.loss, arguments.figure)


if __name__ == "__main__":
    main()
