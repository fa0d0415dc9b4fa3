"""Orr et al., 2505.12988: error against bits of fixed and variable-length formats.

The errors of a table of reference at 16 codes; errors of all families of formats at 2 to 8 bits, on
numbers of three distributions, with a plot; and what the entropy coder takes beyond Shannon's
bound. Run as `make benchmark-efficiency`.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.codebooks import (
    LAPLACE,
    NORMAL,
    Distribution,
    absmax_codebook,
    lloyd_max,
    rms_codebook,
    student_t,
)
from qmgen.efficiency.element import BFLOAT16, E2M1, INT4, NF4, Codebook, Element
from qmgen.efficiency.entropy_coding import compress, step_for_bits
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import blocks_along
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.signal_to_noise import relative_rms_error
from qmgen.efficiency.weight_formats import (
    WeightFormat,
    codebook_and_outliers,
    codebook_by_block,
    codebook_by_channel,
    codebook_by_tensor,
    entropy_coded,
    integers_by_block,
    integers_by_channel,
)
from qmgen.integer_coding import decode_integers, shannon_bits

BLOCK = 128
SHAPE = (512, 1024)
DISTRIBUTIONS = {"normal": NORMAL, "Laplace": LAPLACE, "Student t5": student_t(5)}
BITS = range(2, 9)


def draw(distribution: Distribution) -> np.ndarray:
    generator = np.random.default_rng(0)
    return distribution.density.rvs(size=SHAPE, random_state=generator).astype(np.float32)


def families(distribution: Distribution) -> list[WeightFormat]:
    return [
        integers_by_channel(),
        integers_by_block(BLOCK),
        codebook_by_tensor(distribution),
        codebook_by_channel(distribution),
        codebook_and_outliers(distribution),
        codebook_by_block(distribution, BLOCK),
        entropy_coded(),
    ]


def error_of(x: np.ndarray, format: Format) -> float:
    return float(relative_rms_error(x, fake_quantise(x, format)))


def by_block(element: Element, statistic: str = "absmax") -> Format:
    return Format(element, ScaleFormat(BFLOAT16, statistic), blocks_along(BLOCK))


def by_tensor(book: Codebook) -> Format:
    return Format(book, ScaleFormat(BFLOAT16, "rms", 1.0))


def four_bits(samples: dict[str, np.ndarray]) -> None:
    rows = []
    for name, distribution in DISTRIBUTIONS.items():
        x = samples[name]
        fitted = lloyd_max(x / np.sqrt(np.mean(np.square(x, dtype=np.float64))), 16)
        errors = [
            error_of(x, by_tensor(rms_codebook(distribution, 16))),
            error_of(x, by_tensor(fitted)),
            error_of(x, by_block(absmax_codebook(distribution, 16, BLOCK))),
            error_of(x, by_block(absmax_codebook(distribution, 16, BLOCK, "asymmetric"))),
            error_of(x, by_block(absmax_codebook(distribution, 16, BLOCK, "signmax"), "signmax")),
            error_of(x, by_block(NF4)),
            error_of(x, by_block(E2M1)),
            error_of(x, by_block(INT4)),
            float(relative_rms_error(x, entropy_coded().apply(x, 4.125).values)),
        ]
        rows.append([name, *(f"{error:.4f}" for error in errors)])
    header = "data, CRD RMS, Lloyd-Max, CRD absmax, asymmetric, signmax, NF4, E2M1, INT4"
    print("Relative RMS error; the first two take 4 bits, all others 4.125")
    table([*header.split(", "), "grid and entropy"], rows)


def error_against_bits(samples: dict[str, np.ndarray], figure: Path) -> None:
    axes = plt.subplots(1, len(DISTRIBUTIONS), figsize=(13, 4.5), sharey=True)[1]
    for axis, (name, distribution) in zip(axes, DISTRIBUTIONS.items(), strict=True):
        x = samples[name]
        rows = []
        for family in families(distribution):
            taken, errors = [], []
            for bits in BITS:
                rounded = family.apply(x, bits)
                taken.append(rounded.bits / x.size)
                errors.append(float(relative_rms_error(x, rounded.values)))
            rows.append(
                [family.name, *(f"{e:.4f} ({b:.3f})" for e, b in zip(errors, taken, strict=True))]
            )
            axis.plot(taken, errors * np.exp2(taken), marker=".", label=family.name)
        print(f"{name}: relative RMS error (bits a number)")
        table(["format", *(f"{bits} bits" for bits in BITS)], rows)
        axis.set(title=name, xlabel="bits a number", yscale="log")
    axes[0].set_ylabel("relative RMS error times 2^bits")
    axes[0].legend(fontsize=7)
    save_plot(figure)


def coder(samples: dict[str, np.ndarray]) -> None:
    rows = []
    for name, x in samples.items():
        for bits in (2.0, 4.0, 8.0):
            coded = compress(x, step_for_bits(x, bits))
            bound = shannon_bits(decode_integers(coded.data)) / x.size
            beyond = 100 * (coded.bits / x.size / bound - 1)
            rows.append([name, f"{bound:.4f}", f"{coded.bits / x.size:.4f}", f"{beyond:.2f}%"])
    table(["data", "Shannon's bound, bits", "bytes, bits a number", "beyond"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "optimal_formats.png")
    figure = parser.parse_args().figure
    samples = {name: draw(distribution) for name, distribution in DISTRIBUTIONS.items()}
    four_bits(samples)
    coder(samples)
    error_against_bits(samples, figure)


if __name__ == "__main__":
    main()
