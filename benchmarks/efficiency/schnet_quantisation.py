"""A trained network with its weights in 2 to 8 bits: error against bits, even and allocated.

    python benchmarks/efficiency/schnet_quantisation.py demo/schnet/model.ckpt demo/dataset.zarr

Bits are shared out by Fisher information (Orr et al., 2505.12988), which conformers of the training
split give; errors are those of the test split. Run as `make benchmark-quantisation`.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.reporting import table
from qmgen.dataset import open_dataset
from qmgen.efficiency.bit_allocation import (
    Sensitivity,
    allocate_bits,
    predicted_kl,
    sensitivities,
)
from qmgen.efficiency.codebooks import NORMAL, student_t
from qmgen.efficiency.weight_formats import (
    WeightFormat,
    codebook_and_outliers,
    codebook_by_block,
    codebook_by_tensor,
    entropy_coded,
    integers_by_channel,
)
from qmgen.training import PropertyModel, load_model
from qmgen.training.inputs import Inputs
from qmgen.training.quantise_weights import (
    Errors,
    batches_of,
    mean_absolute_errors,
    quantise_weights,
    split_structures,
    spreads,
    standardised_errors,
    total_kl,
    weight_fisher,
    weight_tensors,
)
from qmgen.training.targets import TARGETS, Target

FORMATS = (
    integers_by_channel(),
    codebook_by_tensor(NORMAL),
    codebook_by_tensor(student_t(5)),
    codebook_and_outliers(NORMAL),
    codebook_by_block(NORMAL, 64),
    entropy_coded(),
)
BITS = range(2, 9)


class Point(NamedTuple):
    """Bits a weight, the target's error, and the divergence, measured and predicted."""

    bits: float
    mae: float
    kl: float
    predicted: float


class Tested(NamedTuple):
    """A model and what it is tested on."""

    model: PropertyModel
    batches: list[Inputs]
    structures: int
    errors: Errors
    spread: dict[Target, float]
    fisher: dict[str, np.ndarray]
    target: Target


def point(tested: Tested, format: WeightFormat, bits: dict[str, float]) -> Point:
    rounded = quantise_weights(tested.model, format, bits)
    errors = standardised_errors(rounded.model, tested.batches)
    tensors = weight_tensors(tested.model)
    change = {name: values - tensors[name] for name, values in rounded.weights.items()}
    return Point(
        rounded.bits_per_weight,
        mean_absolute_errors(tested.model, errors)[tested.target],
        total_kl(tested.errors, errors, tested.spread) / tested.structures,
        predicted_kl(tested.fisher, change),
    )


def curves(
    tested: Tested, found: dict[str, Sensitivity], format: WeightFormat
) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {"even": [], "allocated": []}
    for bits in BITS:
        even = dict.fromkeys(found, float(bits))
        shares = allocate_bits(found, float(bits), ceiling=12.0, whole=format.whole)
        lines["even"].append(point(tested, format, even))
        lines["allocated"].append(point(tested, format, shares))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model.ckpt of a training")
    parser.add_argument("store", type=Path, help="the dataset that it was trained on")
    parser.add_argument("--structures", type=int, default=256, help="that give the information")
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "schnet_quantisation.png")
    arguments = parser.parse_args()
    model, dataset = load_model(arguments.model), open_dataset(arguments.store)
    target = model.targets[0]
    unit = TARGETS[target].unit
    train = split_structures(model, dataset, "train")
    places = np.unique(np.linspace(0, len(train) - 1, arguments.structures).astype(int))
    validation = batches_of(split_structures(model, dataset, "val"))
    spread = spreads(standardised_errors(model, validation))
    fisher = weight_fisher(model, (train[int(place)] for place in places), spread)
    found = sensitivities(weight_tensors(model), fisher)
    test = split_structures(model, dataset, "test")
    batches = batches_of(test)
    errors = standardised_errors(model, batches)
    tested = Tested(model, batches, len(test), errors, spread, fisher, target)
    whole = mean_absolute_errors(model, errors)[target]
    size = sum(tensor.size for tensor in found.values())
    print(f"{size} weights in {len(found)} tensors")
    print(f"Test MAE of {target} in float32: {whole:.4f} {unit}")
    shares = allocate_bits(found, 4.0, ceiling=12.0)
    rows = [
        [name, str(t.size), f"{t.rms:.3g}", f"{t.fisher:.3g}", f"{shares[name]:.1f}"]
        for name, t in found.items()
    ]
    table(["tensor", "weights", "RMS", "mean F", "bits of a mean of 4"], rows)
    rows, kl_rows = [], []
    for format in FORMATS:
        for title, points in curves(tested, found, format).items():
            rows.append([format.name, title, *(f"{p.mae:.4f} ({p.bits:.2f})" for p in points)])
            kl_rows.append(
                [format.name, title, *(f"{p.predicted:.2g} / {p.kl:.2g}" for p in points)]
            )
            plt.plot(
                [p.bits for p in points],
                [p.mae for p in points],
                "--" if title == "even" else "-",
                color=f"C{FORMATS.index(format)}",
                label=f"{format.name}, {title}",
                marker=".",
            )
    print(f"Test MAE of {target}, {unit} (bits a weight)")
    table(["format", "bits", *(f"{bits} bits" for bits in BITS)], rows)
    print("KL divergence of the rounded model, nats a structure: predicted / measured")
    table(["format", "bits", *(f"{bits} bits" for bits in BITS)], kl_rows)
    plt.axhline(whole, color="black", linewidth=0.8, label="float32")
    plt.gca().set(xlabel="bits a weight", ylabel=f"test MAE of {target}, {unit}", yscale="log")
    plt.legend(fontsize=6)
    plt.tight_layout()
    plt.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()
