"""Balanca et al., Scalify, 2407.17353: training in 16 and 8 bits by scale propagation.

Prints tables and draws the loss while training. Run as `make benchmark-efficiency`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from cost import milliseconds
from teacher import CLASSES, INPUTS, examples

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.scalify import ScaledArray, as_scaled, scalify, unscale
from qmgen.efficiency.scalify.fp8 import fp8_matmul
from qmgen.efficiency.scalify.markers import (
    dynamic_rescale_l2,
    rescale_gradient,
    saturating_cast,
)
from qmgen.efficiency.scalify.optimiser import hold_scaled
from qmgen.efficiency.signal_to_noise import signal_to_noise_db

WIDTH, DEPTH, BATCH = 128, 4, 256
# As small as float16 has one.
EPSILON = 1e-7


@dataclass(frozen=True)
class Regime:
    """How a network is trained; everything is of one dtype, parameters and optimiser included."""

    name: str
    dtype: type
    product: Callable[[Any, Any], Any] = jnp.matmul
    scaled: bool = False


REGIMES = (
    Regime("float32", jnp.float32),
    Regime("float16", jnp.float16),
    Regime("float16, products in FP8", jnp.float16, fp8_matmul),
    Regime("float16, scalified", jnp.float16, scaled=True),
    Regime("float16, products in FP8, scalified", jnp.float16, fp8_matmul, scaled=True),
)


class Outcome(NamedTuple):
    """Of examples that training has not seen; `losses` are those of the batches."""

    loss: float
    accuracy: float
    losses: list[float]
    parameters: Any


def first_parameters() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    widths = [INPUTS, *[WIDTH] * (DEPTH - 1), CLASSES]
    return [
        (rng.normal(size=(n, m)).astype(np.float32) / np.float32(np.sqrt(n)), np.zeros(m, "f"))
        for n, m in pairwise(widths)
    ]


def forward(parameters: Any, taps: Any, x: Any, product: Callable[[Any, Any], Any]) -> Any:
    """Logits, and the inputs of all layers; taps are added to what layers give."""
    inputs = []
    for (weights, bias), tap in zip(parameters, taps, strict=True):
        inputs.append(x)
        output = rescale_gradient(product(x, weights) + bias + tap)
        # Data grows from layer to layer, as scales are rounded down, forwards and backwards; GELU's
        # cubes would overflow.
        x = dynamic_rescale_l2(jax.nn.gelu(output))
    return output, inputs


def no_taps(parameters: Any) -> list[float]:
    return [0.0] * len(parameters)


def cross_entropy(logits: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(regime: Regime, steps: int) -> Outcome:
    optimiser = optax.adam(2e-3, eps=EPSILON)

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        logits, _ = forward(parameters, no_taps(parameters), x, regime.product)
        return cross_entropy(logits, y)

    def apply(parameters: Any, updates: Any) -> Any:
        return jax.tree.map(lambda p, u: dynamic_rescale_l2(p + u), parameters, updates)

    value_and_grad = jax.value_and_grad(loss)
    if regime.scaled:
        optimiser = hold_scaled(optimiser)
        value_and_grad, apply = scalify(value_and_grad), scalify(apply)

    def prepared(tree: Any) -> Any:
        if regime.scaled:
            return as_scaled(tree, dtype=regime.dtype)
        return jax.tree.map(lambda v: jnp.asarray(v, regime.dtype), tree)

    @jax.jit
    def step(parameters: Any, state: Any, x: Any, y: Any) -> Any:
        value, gradients = value_and_grad(parameters, prepared(x), y)
        updates, state = optimiser.update(gradients, state, parameters)
        return apply(parameters, updates), state, unscale(value)

    parameters = prepared(first_parameters())
    state = optimiser.init(parameters)
    x, y = examples(16_384, 1)
    order = np.random.default_rng(2)
    losses = []
    for _ in range(steps):
        rows = order.integers(0, len(x), BATCH)
        parameters, state, value = step(parameters, state, x[rows], y[rows])
        losses.append(float(value))
    test_x, test_y = examples(4096, 3)
    # Evaluated in float32, so that only what was learnt counts.
    learnt = jax.tree.map(
        lambda v: unscale(v, jnp.float32) if regime.scaled else v.astype(jnp.float32),
        parameters,
        is_leaf=lambda v: isinstance(v, ScaledArray),
    )
    logits, _ = jax.jit(lambda p, v: forward(p, no_taps(p), v, jnp.matmul))(learnt, test_x)
    return Outcome(
        float(cross_entropy(logits, test_y)),
        float(jnp.mean(jnp.argmax(logits, 1) == test_y)),
        losses,
        learnt,
    )


def training(steps: int, figure: Path) -> Any:
    """Parameters that float32 learns."""
    rows, learnt = [], None
    for regime in REGIMES:
        outcome = train(regime, steps)
        learnt = outcome.parameters if learnt is None else learnt
        broken = sum(not np.isfinite(value) for value in outcome.losses)
        rows.append(
            [
                regime.name,
                f"{outcome.loss:.3f}",
                f"{100 * outcome.accuracy:.1f}",
                str(broken),
            ]
        )
        smooth = np.convolve(outcome.losses, np.ones(10) / 10, "valid")
        plt.plot(smooth, label=regime.name)
    table(["training in", "test loss", "test accuracy, %", "steps of a NaN loss"], rows)
    plt.xlabel("step")
    plt.ylabel("loss, mean of 10 batches")
    plt.ylim(0, 6)
    plt.legend()
    save_plot(figure)
    return learnt


def lost(approximation: Any, exact: Any) -> float:
    """Percentage of numbers that became 0 or not finite."""
    wrong = total = 0
    for value, truth in zip(approximation, exact, strict=True):
        data = np.asarray(value.data if isinstance(value, ScaledArray) else value, np.float32)
        meant = np.asarray(truth) != 0
        wrong += int(((data == 0) & meant).sum() + (~np.isfinite(data)).sum())
        total += int(meant.sum())
    return 100 * wrong / total


def tensors(product: Callable[[Any, Any], Any]) -> Callable[..., dict[str, list[Any]]]:
    """What a step computes, as a function of parameters, taps of 0, inputs and classes."""

    def function(parameters: Any, taps: Any, x: Any, y: Any) -> dict[str, list[Any]]:
        def loss(parameters: Any, taps: Any) -> Any:
            logits, inputs = forward(parameters, taps, x, product)
            return cross_entropy(logits, y), inputs

        (by_weights, by_outputs), inputs = jax.grad(loss, (0, 1), has_aux=True)(parameters, taps)
        weights = [gradient for gradient, _ in by_weights]
        return {
            "activations": inputs,
            "gradients of outputs": by_outputs,
            "gradients of weights": weights,
            "second moments after one step": [0.001 * dynamic_rescale_l2(g) ** 2 for g in weights],
        }

    return function


def ranges(parameters: Any) -> None:
    """Numbers that are lost at the parameters that float32 has learnt, by tensor."""
    x, y = (v[:BATCH] for v in examples(16_384, 1))
    taps = [np.zeros((BATCH, bias.size), np.float32) for _, bias in parameters]
    exact = jax.jit(tensors(jnp.matmul))(parameters, taps, x, y)

    def half(tree: Any) -> Any:
        return jax.tree.map(lambda v: jnp.asarray(v, jnp.float16), tree)

    def scaled(tree: Any) -> Any:
        return as_scaled(tree, dtype=jnp.float16)

    cases = {}
    ways = (("float16", half, lambda f: f), ("scalified", scaled, scalify))
    for name, prepare, transform in ways:
        for product, bits in ((jnp.matmul, 16), (fp8_matmul, 8)):
            found = jax.jit(transform(tensors(product)))(
                prepare(parameters), prepare(taps), prepare(x), y
            )
            cases[name, bits] = found
    header = ["% that become 0 or not finite"]
    header += ["float16", "cast to FP8", "scalified float16", "its data cast to FP8"]
    rows = []
    for kind, values in exact.items():
        row = [kind]
        dtype = jnp.float8_e5m2 if "gradients" in kind else jnp.float8_e4m3fn
        for name in ("float16", "scalified"):
            row.append(f"{lost(cases[name, 16][kind], values):.2f}")
            if kind in ("activations", "gradients of outputs"):
                data = [v.data if isinstance(v, ScaledArray) else v for v in cases[name, 8][kind]]
                cast = [saturating_cast(v, dtype) for v in data]
                row.append(f"{lost(cast, values):.2f}")
            else:
                row.append("")
        rows.append(row)
    table(header, rows)


def second_moments() -> None:
    """Adam's second moment in float16 after 100 steps against float64."""

    def moment(second: Any, gradient: Any) -> Any:
        return dynamic_rescale_l2(0.999 * second + 0.001 * gradient**2)

    plain_step, scaled_step = jax.jit(moment), jax.jit(scalify(moment))
    rows = []
    for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        exact = np.zeros(4096)
        plain = jnp.zeros(4096, jnp.float16)
        scaled = as_scaled(plain)
        for gradient in size * np.random.default_rng(0).normal(size=(100, 4096)):
            exact = 0.999 * exact + 0.001 * gradient**2
            plain = plain_step(plain, gradient.astype(np.float16))
            scaled = scaled_step(scaled, as_scaled(np.float32(gradient), dtype=jnp.float16))
        row = [f"{size:g}"]
        for value in (plain, unscale(scaled)):
            numbers = np.asarray(value, np.float64)
            error = np.linalg.norm(numbers - exact) / np.linalg.norm(exact)
            row += [f"{100 * np.mean(numbers == 0):.1f}", f"{100 * error:.2f}"]
        rows.append(row)
    header = ["RMS of gradients", "float16: zeros, %", "error, %"]
    table([*header, "rescaled float16: zeros, %", "error, %"], rows)


def products() -> None:
    """SQNR of a product in FP8 whose activations are normal numbers times 2^k."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 512)).astype(np.float32)
    weights = rng.normal(size=(512, 256)).astype(np.float32)
    exponents = (-24, -16, -8, 0, 8, 16)
    plain, scaled = jax.jit(fp8_matmul), jax.jit(scalify(fp8_matmul))
    rows = []
    for name, product in (
        ("bare cast, E4M3", plain),
        ("scalified, cast of float16 data", lambda a, b: unscale(scaled(_half(a), _half(b)))),
    ):
        row = [name]
        for k in exponents:
            factored = x * np.float32(2.0**k)
            exact = jnp.asarray(factored @ weights)
            row.append(f"{float(signal_to_noise_db(exact, product(factored, weights))):.1f}")
        rows.append(row)
    table(["activations times 2^k; dB", *(f"k = {k}" for k in exponents)], rows)


def _half(x: np.ndarray) -> ScaledArray:
    return as_scaled(x, dtype=jnp.float16)


def cost() -> None:
    """Processor time of scalified functions over that of the plain ones of the same dtype."""
    rng = np.random.default_rng(0)
    parameters = [(weights, bias + 0.1) for weights, bias in first_parameters()]
    x, y = (v[:BATCH] for v in examples(16_384, 1))
    square = rng.normal(size=(512, 512)).astype(np.float32)

    def logits(parameters: Any, x: Any) -> Any:
        return forward(parameters, no_taps(parameters), x, jnp.matmul)[0]

    def gradient(parameters: Any, x: Any) -> Any:
        return jax.grad(lambda p: cross_entropy(logits(p, x), y))(parameters)

    cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "a product of 512 x 512 x 512": (jnp.matmul, (square, square)),
        "ten elementwise operations on 2^18 numbers": (
            lambda a: jax.nn.gelu(a * a + a) * 3.0,
            (square,),
        ),
        "softmax of 512 rows of 512": (jax.nn.softmax, (square,)),
        "a network of four layers": (logits, (parameters, x)),
        "its gradient": (gradient, (parameters, x)),
    }
    rows = []
    for name, (function, arguments) in cases.items():
        row = [name]
        for dtype in (jnp.float32, jnp.float16):
            plain = jax.tree.map(lambda v, t=dtype: jnp.asarray(v, t), arguments)
            alone = milliseconds(function, *plain)
            row.append(f"{alone:.2f}")
            took = milliseconds(scalify(function), *as_scaled(plain))
            row.append(f"{took / alone:.2f}")
        rows.append(row)
    header = ["", "float32, ms", "scalified, ratio", "float16, ms", "scalified, ratio"]
    table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "scalify_training.png")
    arguments = parser.parse_args()
    second_moments()
    products()
    ranges(training(arguments.steps, arguments.figure))
    cost()


if __name__ == "__main__":
    main()
