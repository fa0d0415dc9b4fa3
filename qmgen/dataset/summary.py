"""Ranges of a dataset's labels, in one pass and bounded memory."""

from dataclasses import dataclass

import numpy as np

from qmgen.dataset.reader import Dataset
from qmgen.dataset.schema import LEVEL_LABELS, is_at_level

_LABELS = (
    *LEVEL_LABELS,
    "iterations",
    "std",
)
_BLOCK = 16_384


@dataclass(frozen=True)
class LabelRange:
    """Smallest, mean and largest value of a label over converged conformers, in its unit."""

    label: str
    unit: str
    minimum: float
    mean: float
    maximum: float


def label_ranges(dataset: Dataset) -> list[LabelRange]:
    """Ranges of the labels that people look at; values that are no number are left out."""
    labels = [name for name in _LABELS if name in dataset.columns]
    labels += [name for name in dataset.columns if is_at_level(name)]
    lowest = dict.fromkeys(labels, np.inf)
    highest = dict.fromkeys(labels, -np.inf)
    total, count = dict.fromkeys(labels, 0.0), dict.fromkeys(labels, 0)
    for block in dataset.iter_blocks(_BLOCK, columns=labels):
        for label in labels:
            values = np.asarray(block[label], np.float64)
            # No label has 0 cycles: that stands for a number that is not known.
            known = np.isfinite(values) if label != "iterations" else values > 0
            values = values[known]
            if values.size:
                lowest[label] = min(lowest[label], float(values.min()))
                highest[label] = max(highest[label], float(values.max()))
                total[label] += float(values.sum())
                count[label] += values.size
    return [
        LabelRange(
            label, dataset.units(label), lowest[label], total[label] / count[label], highest[label]
        )
        for label in labels
        if count[label]
    ]
