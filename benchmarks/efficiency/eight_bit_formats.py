"""Noune et al., 2206.02915: 8-bit splits, biases and loss scales, and casts against ml_dtypes.

Prints tables and draws the signal-to-noise ratio over the scale of the data. Run as
`make benchmark-efficiency`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
from teacher import train

from benchmarks.reporting import save_plot, table
from qmgen.efficiency import element as elements
from qmgen.efficiency.casting import decode, encode
from qmgen.efficiency.element import FloatElement
from qmgen.efficiency.formats import FP8_143, FP8_152, INT8_ABSMAX, Format
from qmgen.efficiency.loss_scaling import BackoffLossScale, ConstantLossScale, LogMaxLossScale
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.signal_to_noise import signal_to_noise_db

NATIVE = {
    "float8_e4m3fn": elements.E4M3FN,
    "float8_e4m3fnuz": elements.E4M3FNUZ,
    "float8_e4m3b11fnuz": elements.E4M3B11FNUZ,
    "float8_e4m3": elements.E4M3,
    "float8_e3m4": elements.E3M4,
    "float8_e5m2": elements.E5M2,
    "float8_e5m2fnuz": elements.E5M2FNUZ,
    "float8_e8m0fnu": elements.E8M0,
    "float6_e2m3fn": elements.E2M3FN,
    "float6_e3m2fn": elements.E3M2FN,
    "float4_e2m1fn": elements.E2M1,
    "bfloat16": elements.BFLOAT16,
}
SPLITS = {
    "1.2.5": Format(FloatElement(2, 5, 2, "fnuz")),
    "1.3.4": Format(FloatElement(3, 4, 4, "fnuz")),
    "1.4.3": FP8_143,
    "1.4.3, bias 12": Format(FloatElement(4, 3, 12, "fnuz")),
    "1.5.2": FP8_152,
    "INT8 absmax": INT8_ABSMAX,
}


def casts() -> None:
    """Codes that differ from ml_dtypes: over all values, and over a million random bit patterns."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1_000_000, dtype=np.uint32)
    x = bits.view(np.float32)
    rows = []
    for name, element in NATIVE.items():
        dtype = np.dtype(getattr(ml_dtypes, name))
        kind = np.uint8 if element.bits <= 8 else np.uint16
        codes = np.arange(1 << element.bits, dtype=kind)
        with np.errstate(all="ignore"):
            native, expected = x.astype(dtype).view(kind), codes.view(dtype).astype(np.float32)
        cast = jax.jit(lambda v, e: encode(v, e, saturate=False), static_argnums=1)
        got = np.asarray(cast(x, element))
        # NaN may keep its payload in bfloat16.
        same = (got == native) | (np.isnan(x) & np.isnan(got.view(dtype).astype(np.float32)))
        values = np.asarray(decode(jnp.asarray(codes), element))
        wrong = int((values.view(np.uint32) != expected.view(np.uint32))[~np.isnan(expected)].sum())
        wrong += int((np.isnan(values) != np.isnan(expected)).sum())
        if name == "float8_e8m0fnu":
            # Left out, as ml_dtypes rounds all that is between these two up.
            same |= (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        rows.append([name, f"{wrong} of {len(codes)}", str(int((~same).sum()))])
    table(["format", "values that differ", "casts that differ, of 1,000,000"], rows)


def ratio_db(x: np.ndarray, format: Format, exponent: int) -> float:
    scaled = x * np.float32(2.0**exponent)
    return float(signal_to_noise_db(jnp.asarray(scaled), fake_quantise(scaled, format)))


def signal_to_noise(figure: Path) -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=1 << 20).astype(np.float32)
    heavy = rng.standard_t(3, 1 << 20).astype(np.float32)
    exponents = range(-24, 25)
    rows = []
    for name, format in SPLITS.items():
        curve = [ratio_db(normal[: 1 << 16], format, k) for k in exponents]
        best = max(curve)
        flat = [k for k, value in zip(exponents, curve, strict=True) if value > best - 0.3]
        plt.plot(exponents, curve, label=name)
        rows.append(
            [
                name,
                f"{ratio_db(normal, format, 0):.1f}",
                f"{ratio_db(heavy, format, 0):.1f}",
                f"2^{flat[0]} to 2^{flat[-1]}",
            ]
        )
    table(["split", "normal, dB", "Student t3, dB", "scales within 0.3 dB of the best"], rows)
    plt.xlabel("log2 of the scale of normal data")
    plt.ylabel("signal to noise, dB")
    plt.legend()
    save_plot(figure)


def training(steps: int) -> None:
    """Formats of weights and activations, of gradients, and loss scales."""
    overflowing = replace(FP8_152, saturate=False)
    constant = ConstantLossScale(2.0**10)
    plain, logmax = ConstantLossScale(), LogMaxLossScale(FP8_152.element.max)
    backoff = BackoffLossScale(initial=2.0**20, patience=50)
    rows = []
    for name, forward, gradients, rule, scaling in (
        ("float32, float32", None, None, plain, "none"),
        ("1.4.3, 1.5.2", FP8_143, FP8_152, plain, "none"),
        ("1.4.3, 1.5.2", FP8_143, FP8_152, constant, "constant 2^10"),
        ("1.4.3, 1.5.2", FP8_143, overflowing, backoff, "Backoff from 2^20"),
        ("1.4.3, 1.5.2", FP8_143, overflowing, logmax, "LogMax"),
        ("1.4.3, 1.4.3", FP8_143, FP8_143, plain, "none"),
        ("1.5.2, 1.5.2", FP8_152, FP8_152, constant, "constant 2^10"),
        ("1.3.4, 1.5.2", SPLITS["1.3.4"], FP8_152, constant, "constant 2^10"),
    ):
        outcome = train(MatmulFormats(forward, forward, gradients), rule, steps)
        rows.append(
            [
                name,
                scaling,
                f"{outcome.loss:.3f}",
                f"{100 * outcome.accuracy:.1f}",
                str(outcome.skipped_steps),
                f"2^{np.log2(outcome.loss_scale):.1f}",
            ]
        )
    table(
        [
            "weights and activations, gradients",
            "loss scale",
            "test loss",
            "test accuracy, %",
            "steps left out",
            "last scale",
        ],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "eight_bit_formats.png")
    arguments = parser.parse_args()
    casts()
    signal_to_noise(arguments.figure)
    training(arguments.steps)


if __name__ == "__main__":
    main()
