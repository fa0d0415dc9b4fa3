"""Blake et al., 2303.11257: scales of unit-scaled operations, and training by bare casts.

Prints tables and draws gradients of both parametrisations and their training in FP8. Run as
`make benchmark-efficiency`.
"""

import argparse
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
from small_training import (
    VOCABULARY,
    final,
    losses,
    source,
    standard_decoder,
    standard_loss,
)

from benchmarks.reporting import save_plot, table
from qmgen.efficiency import unit_scaled_nonlinear as nonlinear
from qmgen.efficiency import unit_scaling as unit
from qmgen.efficiency.element import FLOAT16
from qmgen.efficiency.formats import FP8_E4M3, FP8_E5M2, Format
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.umup import adam, roles
from qmgen.efficiency.unit_scaled_layers import Linear
from qmgen.efficiency.unit_scaled_transformer import Decoder

DEPTH, WIDTH, HEADS, BATCH, LENGTH = 2, 64, 4, 16, 33
HALF = Format(FLOAT16)
FORMATS = {
    "float32": None,
    "FP16": MatmulFormats(HALF, HALF, HALF),
    "FP8, gradients E5M2": MatmulFormats(FP8_E4M3, FP8_E4M3, FP8_E5M2),
    "FP8, all E4M3": MatmulFormats(FP8_E4M3, FP8_E4M3, FP8_E4M3),
}
# 2^k from which the best rate in float32 is taken.
RATES = {"standard": (-9, -8, -7), "unit-scaled": (-2, -1, 0)}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def cases(width: int) -> dict[str, tuple[Callable[..., jax.Array], list[np.ndarray]]]:
    """Operations with 1024 rows of `width`; attention over as many positions, heads of 64."""
    x, gate = normal(1024, width), normal(1024, width, seed=1)
    heads = [normal(4, width, 1, 64, seed=seed) for seed in range(3)]
    tokens = np.random.default_rng(0).integers(0, 256, 1024)
    labels = np.random.default_rng(0).integers(0, width, 1024)
    free = {"constraint": None}
    return {
        "linear, width to twice": (partial(unit.linear, **free), [x, normal(2 * width, width)]),
        "readout": (unit.linear_readout, [x, normal(32, width)]),
        "GELU": (partial(nonlinear.gelu, **free), [x]),
        "ReLU": (partial(nonlinear.relu, **free), [x]),
        "SiLU": (partial(nonlinear.silu, **free), [x]),
        "tanh": (partial(nonlinear.tanh, **free), [x]),
        "sigmoid": (partial(nonlinear.sigmoid, **free), [x]),
        "gated SiLU": (nonlinear.gated_silu, [x, gate]),
        "softmax": (partial(nonlinear.softmax, **free), [x]),
        "attention": (nonlinear.attention, heads),
        "causal attention": (partial(nonlinear.attention, causal=True), heads),
        "layer norm, gain": (unit.layer_norm, [x, np.ones(width, np.float32)]),
        "RMS norm, gain": (unit.rms_norm, [x, np.ones(width, np.float32)]),
        "residual of a linear layer": (
            lambda x, w: unit.residual(lambda v: unit.linear(v, w), x, 0.5),
            [x, normal(width, width)],
        ),
        "embedding": (lambda t: unit.embedding(tokens, t), [normal(256, width)]),
        "dropout": (lambda x: unit.dropout(x, 0.1, jax.random.key(1)), [x]),
        "cross-entropy": (lambda z: unit.cross_entropy(z, labels), [0.1 * x]),
        "mean squared error": (unit.mean_squared_error, [x, gate]),
    }


def operations(widths: tuple[int, ...]) -> None:
    def deviations(width: int) -> dict[str, list[float]]:
        chosen = cases(width)

        def of_all(arguments: dict[str, list[jax.Array]]) -> dict[str, list[jax.Array]]:
            measured = {}
            for name, given in arguments.items():
                value, pullback = jax.vjp(chosen[name][0], *given)
                key = jax.random.key(0)
                back = pullback(jax.random.normal(key, value.shape) if value.ndim else 1.0)
                measured[name] = [value.std(), *(g.std() for g in back)]
            return measured

        return jax.tree.map(float, jax.jit(of_all)({n: case[1] for n, case in chosen.items()}))

    measured = {width: deviations(width) for width in widths}
    rows = []
    for name in cases(widths[0]):
        cells = []
        for width in widths:
            value, *back = measured[width][name]
            # A loss is a number and has no deviation.
            first = "" if value == 0 else f"{value:.2f}"
            cells.append("; ".join([first, ", ".join(f"{g:.2f}" for g in back)]))
        rows.append([name, *cells])
    table(["std of the value; of gradients", *(f"width {w}" for w in widths)], rows)


def networks(widths: tuple[int, ...]) -> None:
    """Three blocks of linear, GELU, linear; normal gradients of 128 outputs, or those of a mean."""
    rows = []
    for width in widths:
        sizes = [(width, 4 * width), (4 * width, width)] * 3
        keys = jax.random.split(jax.random.key(0), 6)
        layers = [
            Linear(a, b, key=k, constraint=None) for (a, b), k in zip(sizes, keys, strict=True)
        ]

        def scaled(layers: list[Linear], x: jax.Array) -> jax.Array:
            for up, down in zip(layers[::2], layers[1::2], strict=True):
                x = down(nonlinear.gelu(up(x), constraint=None))
            return x

        def standard(layers: list[Linear], x: jax.Array) -> jax.Array:
            for up, down in zip(layers[::2], layers[1::2], strict=True):
                x = jax.nn.gelu(x @ up.weight.T) @ down.weight.T
            return x

        plain = jax.tree.map(lambda w: w * w.shape[1] ** -0.5, layers)
        x, by_outputs = normal(128, width), normal(128, width, seed=1)
        for name, network, weights, factor in (
            ("unit-scaled", scaled, layers, 1.0),
            ("standard", standard, plain, 1 / x.size),
        ):

            @eqx.filter_jit
            def run(weights, x, by_outputs, network=network):
                output, pullback = eqx.filter_vjp(lambda w: network(w, x), weights)
                (gradients,) = pullback(by_outputs)
                return output.std(), [g.std() for g in jax.tree.leaves(gradients)]

            output, gradients = run(weights, x, factor * by_outputs)
            least, most = float(min(gradients)), float(max(gradients))
            rows.append([str(width), name, f"{output:.2f}", f"{least:.2g} to {most:.2g}"])
    table(["width", "network", "std of the output", "std of weight gradients"], rows)


def problem(kind: str, formats: MatmulFormats | None) -> tuple[Callable, Any, Callable]:
    """Loss, parameters, and optimiser by learning rate."""
    key = jax.random.key(0)
    if kind == "standard":
        weights = standard_decoder(DEPTH, WIDTH, key)
        return partial(standard_loss, heads=HEADS, formats=formats), weights, optax.adam
    model = Decoder(VOCABULARY, DEPTH, WIDTH, HEADS, key=key, formats=formats)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(parameters: Any, tokens: jax.Array) -> jax.Array:
        return eqx.combine(parameters, static).loss(tokens)

    return loss, parameters, partial(adam, model_roles=roles(model))


def measure(gradients: Any) -> tuple[jax.Array, jax.Array]:
    """Deviation of each matrix's gradient, in the network's order, and the share of zeros in all.

    The embedding is left out, as no product makes its gradient.
    """
    if isinstance(gradients, dict):
        names = ("into", "out", "up", "gate", "down")
        matrices = [layer[name] for layer in gradients["layers"] for name in names]
        matrices.append(gradients["readout"])
    else:
        matrices = jax.tree.leaves((gradients.stack, gradients.readout))
    zeros = sum(jnp.sum(g == 0) for g in matrices) / sum(g.size for g in matrices)
    return jnp.stack([g.std() for g in matrices]), zeros


def training(steps: int, figure: Path) -> None:
    data = source(steps, BATCH, LENGTH)
    tokens = jnp.asarray(data.tokens)
    rows, runs = [], {}
    for kind, exponents in RATES.items():
        best = None
        for name, formats in FORMATS.items():
            run = losses(*problem(kind, formats), tokens, measure)
            tried = exponents if best is None else (best,)
            found = {k: run(2.0**k) for k in tried}
            best = min(found, key=lambda k: final(found[k][0]))
            curve, (_, zeros) = runs[kind, name] = found[best]
            lost = f"{100 * zeros[0]:.1f}; {100 * np.mean(zeros):.1f}"
            rows.append([kind, name, f"2^{best}", lost, f"{final(curve):.3f}"])
    rows.append(["entropy of the source", "", "", "", f"{data.entropy:.3f}"])
    header = ["transformer", "products in", "learning rate"]
    table([*header, "weight gradients of 0, %: first step; all", "loss"], rows)
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for kind in RATES:
        deviations = np.log2(runs[kind, "float32"][1][0])
        (line,) = left.plot(deviations[0], "o-", label=f"{kind}, first step")
        left.plot(deviations[-1], "o:", color=line.get_color(), label=f"{kind}, last step")
    left.set_xlabel("matrix, from input to output")
    left.set_ylabel("log2 of its gradient's deviation")
    left.legend(fontsize=7)
    for (kind, name), (curve, _) in runs.items():
        if name != "FP16":
            width = min(20, len(curve))
            smooth = np.convolve(curve, np.full(width, 1 / width), "valid")
            right.plot(smooth, "-" if kind == "unit-scaled" else "--", label=f"{kind}, {name}")
    right.set_xlabel("step")
    right.set_ylabel("loss")
    right.legend(fontsize=7)
    save_plot(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256, 1024])
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "unit_scaling.png")
    arguments = parser.parse_args()
    operations(tuple(arguments.widths))
    networks(tuple(arguments.widths))
    training(arguments.steps, arguments.figure)


if __name__ == "__main__":
    main()
