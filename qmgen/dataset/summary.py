"""Ranges of a dataset's labels, in one pass and bounded memory."""

from dataclasses import dataclass

import numpy as np

from qmgen.dataset.reader import Dataset

_LABELS = ("energy", "homo", "lumo", "gap", "dipole", "mulliken_charges", "iterations", "std")
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
    lowest = dict.fromkeys(_LABELS, np.inf)
    highest = dict.fromkeys(_LABELS, -np.inf)
    total, count = dict.fromkeys(_LABELS, 0.0), dict.fromkeys(_LABELS, 0)
    for block in dataset.iter_blocks(_BLOCK, columns=_LABELS):
        for label in _LABELS:
            values = np.asarray(block[label], np.float64)
            values = values[np.isfinite(values)]
            if values.size:
                lowest[label] = min(lowest[label], float(values.min()))
                highest[label] = max(highest[label], float(values.max()))
                total[label] += float(values.sum())
                count[label] += values.size
    return [
        LabelRange(
            label, dataset.units(label), lowest[label], total[label] / count[label], highest[label]
        )
        for label in _LABELS
        if count[label]
    ]
