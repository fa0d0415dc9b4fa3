"""McLean et al., 2603.13180, and Hu et al., 2509.17791: block scales, and what rests on them.

The RMS that MXNorm reads off block maxima, and the parts of FP4 training: scale formats, stochastic
rounding, rotations. Run as `make benchmark-efficiency`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from eight_bit_formats import ratio_db

from benchmarks.reporting import table
from qmgen.efficiency.element import E2M1
from qmgen.efficiency.formats import FP4_E4M3, FP4_UE5M3, MXFP4, MXFP8, NVFP4
from qmgen.efficiency.hadamard import random_signs, rotate, rotate_back
from qmgen.efficiency.mxnorm import estimated_rms, mxnorm_cast
from qmgen.efficiency.quantise import dequantise, fake_quantise
from qmgen.efficiency.signal_to_noise import signal_to_noise_db

RNG = np.random.default_rng(0)
FORMATS = {"MXFP4": MXFP4, "E4M3 scales": FP4_E4M3, "UE5M3 scales": FP4_UE5M3, "NVFP4": NVFP4}


def norms() -> None:
    """Estimated over true RMS, and what a single outlier becomes."""
    draws = {
        "normal": RNG.normal,
        "Laplace": RNG.laplace,
        "Student t5": lambda size: RNG.standard_t(5, size),
    }
    rows = []
    for name, draw in draws.items():
        row = [name]
        for width in (256, 1024, 4096):
            x = draw(size=(1024, width)).astype(np.float32)
            exact = np.sqrt(np.mean(np.square(x, dtype=np.float64), -1))
            ratio = np.asarray(estimated_rms(x, MXFP8)) / exact
            row.append(f"{ratio.mean():.3f} ± {ratio.std():.3f}")
        rows.append(row)
    table(["estimated RMS / true, p = 2", "width 256", "1024", "4096"], rows)
    one_hot = np.zeros((1, 4096), np.float32)
    one_hot[0, 7] = 1
    rows = []
    for power in (2.0, 1.0):
        cast = mxnorm_cast(one_hot, MXFP8, power)
        rows.append([f"p = {power:.0f}", f"{float(dequantise(cast).max()):.0f}"])
    rows.append(["RMSNorm", "64"])
    table(["one-hot row, width 4096", "largest output, cast to E4M3"], rows)


def scale_formats() -> None:
    x = RNG.normal(size=1 << 16).astype(np.float32)
    exponents = (-24, -16, -12, -8, 0, 8, 12, 16)
    rows = [
        [name, *(f"{ratio_db(x, format, k):.1f}" for k in exponents)]
        for name, format in FORMATS.items()
    ]
    table(["normal data times 2^k; dB", *(f"k = {k}" for k in exponents)], rows)


def stochastic_rounding() -> None:
    x = RNG.normal(size=(256, 256)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 64)
    rows = []
    for name, format in FORMATS.items():
        stochastic = format.with_rounding("stochastic")
        cast = jax.jit(lambda key, f=stochastic: fake_quantise(x, f, key))
        draws = np.stack([cast(key) for key in keys])
        nearest = signal_to_noise_db(x, fake_quantise(x, format))
        one, mean = signal_to_noise_db(x, draws[0]), signal_to_noise_db(x, draws.mean(0))
        rows.append([name, f"{nearest:.1f}", f"{one:.1f}", f"{mean:.1f}"])
    table(["normal data; dB", "nearest", "stochastic", "mean of 64 draws"], rows)


def rotations() -> None:
    """One number of each 32 made 30 times larger."""
    x = RNG.normal(size=(1 << 15, 32)).astype(np.float32)
    x[np.arange(len(x)), RNG.integers(0, 32, len(x))] *= 30
    signs = random_signs(jax.random.key(0), 32)
    rows = []
    for name, format in FORMATS.items():
        turned = rotate_back(fake_quantise(rotate(jnp.asarray(x), signs), format), signs)
        plain = signal_to_noise_db(x, fake_quantise(x, format))
        rows.append([name, f"{plain:.1f}", f"{signal_to_noise_db(x, turned):.1f}"])
    table(["outliers of 30 sigma; dB", "as they are", "rotated in blocks of 32"], rows)


def main() -> None:
    norms()
    scale_formats()
    stochastic_rounding()
    rotations()
    print(f"All elements of the last three tables are E2M1, at most {E2M1.max}.")


if __name__ == "__main__":
    main()
