"""Perez et al., 2309.17224: FP8 products, training with scales from amax, casting trained weights.

Prints tables and draws how the scales of weights, activations and gradients move while training.
Run as `make benchmark-efficiency`.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from teacher import apply, examples, train

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.element import E4M3FN, E4M3FNUZ, E5M2FNUZ
from qmgen.efficiency.formats import FP8_143, INT8_ABSMAX, MXFP4, NVFP4, Format
from qmgen.efficiency.fp8_linear import (
    FP8_AMAX,
    amax_format,
    cast_linears,
    constant_scale_format,
    fp8_constant_scale,
)
from qmgen.efficiency.loss_scaling import ConstantLossScale
from qmgen.efficiency.quantise import block_scales
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.efficiency.signal_to_noise import signal_to_noise_db


def products() -> None:
    """SQNR of a product whose activations are normal numbers times 2^k."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 512)).astype(np.float32)
    weights = rng.normal(size=(512, 256)).astype(np.float32)
    amax = amax_format(E4M3FNUZ)
    shifted = MatmulFormats(constant_scale_format(E4M3FNUZ, 8), FP8_143)
    casts = {
        "AMAX, E4M3FN": FP8_AMAX,
        "AMAX, 1.4.3": MatmulFormats(amax, amax, amax_format(E5M2FNUZ)),
        "bare cast, E4M3FN": fp8_constant_scale(0, 0),
        "bare cast, 1.4.3": MatmulFormats(FP8_143, FP8_143),
        "CSCALE 2^8, 1.4.3": shifted,
    }
    exponents = (-24, -16, -8, -4, 0, 4, 8, 16)
    rows = []
    for name, formats in casts.items():
        row = [name]
        for k in exponents:
            scaled = x * np.float32(2.0**k)
            product = quantised_matmul(jnp.asarray(scaled), jnp.asarray(weights), formats)
            row.append(f"{float(signal_to_noise_db(jnp.asarray(scaled @ weights), product)):.1f}")
        rows.append(row)
    table(["activations times 2^k; dB", *(f"k = {k}" for k in exponents)], rows)


def tensors(model: eqx.Module, x: jax.Array, y: jax.Array) -> dict[str, list[jax.Array]]:
    """What a step casts: the layers' weights, inputs, and gradients of their outputs."""
    taps = [jnp.zeros((len(x), layer.weight.shape[0])) for layer in model.layers]

    def loss(taps: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        inputs, value = [], x
        for layer, tap in zip(model.layers, taps, strict=True):
            inputs.append(value)
            output = layer(value) + tap
            value = jax.nn.gelu(output)
        return optax.softmax_cross_entropy_with_integer_labels(output, y).mean(), inputs

    gradients, inputs = jax.grad(loss, has_aux=True)(taps)
    return {
        "weights": [layer.weight for layer in model.layers],
        "activations": inputs,
        "gradients": gradients,
    }


def scales_through_training(steps: int, figure: Path) -> None:
    history = defaultdict(list)
    formats = {
        "weights": FP8_AMAX.weights,
        "activations": FP8_AMAX.activations,
        "gradients": FP8_AMAX.gradients,
    }

    @eqx.filter_jit
    def biases(model: eqx.Module, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        return {
            kind: jnp.stack([-jnp.log2(block_scales(v, formats[kind])[0]).max() for v in values])
            for kind, values in tensors(model, x, y).items()
        }

    def record(step: int, model: eqx.Module, x: jax.Array, y: jax.Array) -> None:
        for kind, values in biases(model, jnp.asarray(x), jnp.asarray(y)).items():
            history[kind].append((step, np.asarray(values)))

    train(FP8_AMAX, ConstantLossScale(), steps, every=max(steps // 100, 1), record=record)
    _, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharex=True)
    rows = []
    for axis, (kind, values) in zip(axes, history.items(), strict=True):
        at = [step for step, _ in values]
        found = np.stack([value for _, value in values])
        for layer, curve in enumerate(found.T):
            axis.step(at, curve, label=f"layer {layer + 1}")
        axis.set_title(kind)
        axis.set_xlabel("step")
        spread = [f"{curve.min():.0f} to {curve.max():.0f}" for curve in found.T]
        rows.append([kind, *spread])
    axes[0].set_ylabel("scale bias b")
    axes[0].legend()
    save_plot(figure)
    table(["bias b through training", *(f"layer {i + 1}" for i in range(4))], rows)


def training(steps: int) -> None:
    rows = []
    for name, formats in (
        ("float32", MatmulFormats()),
        ("FP8-AMAX", FP8_AMAX),
        ("FP8-CSCALE, 2^6 and 2^16", fp8_constant_scale(6, 16)),
        ("FP8-CSCALE, 2^0 and 2^0", fp8_constant_scale(0, 0)),
        ("FP8-CSCALE, 2^-10 and 2^0", fp8_constant_scale(-10, 0)),
    ):
        outcome = train(formats, ConstantLossScale(), steps)
        rows.append([name, f"{outcome.loss:.3f}", f"{100 * outcome.accuracy:.1f}"])
    table(["training", "test loss", "test accuracy, %"], rows)


def inference(steps: int) -> None:
    """A network that was trained in float32, cast afterwards."""
    trained = train(MatmulFormats(), ConstantLossScale(), steps).model
    x, y = examples(4096, 3)
    exact = eqx.filter_jit(apply)(trained, x)
    amax = amax_format(E4M3FN)
    rows = [["float32", f"{100 * float((exact.argmax(1) == y).mean()):.1f}", ""]]
    casts: tuple[tuple[str, Format, Format | None], ...] = (
        ("FP8-AMAX", amax, amax),
        ("FP8-CSCALE 2^0", constant_scale_format(E4M3FN, 0), constant_scale_format(E4M3FN, 0)),
        ("INT8 weights, float32 activations", INT8_ABSMAX, None),
        ("MXFP4", MXFP4, MXFP4),
        ("NVFP4", NVFP4, NVFP4),
    )
    for name, weights, activations in casts:
        logits = eqx.filter_jit(apply)(cast_linears(trained, weights, activations), x)
        accuracy = 100 * float((logits.argmax(1) == y).mean())
        rows.append([name, f"{accuracy:.1f}", f"{float(signal_to_noise_db(exact, logits)):.1f}"])
    table(["cast after training", "test accuracy, %", "outputs, dB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "fp8_scales.png")
    arguments = parser.parse_args()
    products()
    training(arguments.steps)
    scales_through_training(arguments.steps, arguments.figure)
    inference(arguments.steps)


if __name__ == "__main__":
    main()
