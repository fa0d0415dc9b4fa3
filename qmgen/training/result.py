"""What a training comes to."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qmgen.dataset import Dataset
from qmgen.training.data import ConformerDataModule
from qmgen.training.files import write_in_one_go
from qmgen.training.selection import Selection, blocks_of
from qmgen.training.targets import SCALARS, TARGETS, Target, mae_name


@dataclass(frozen=True)
class SplitSize:
    """What a split has that could be used.

    Attributes
    ----------
    conformers : int
        Converged conformers with finite labels.
    molecules : int
        Molecules they belong to.
    unseen : int
        Further conformers with an element that the training set lacks.
    unlabelled : int
        Further converged conformers that lack a label.
    """

    conformers: int
    molecules: int
    unseen: int
    unlabelled: int


@dataclass(frozen=True)
class TargetErrors:
    """Mean absolute errors of one target, in its unit; of vectors, over components.

    Attributes
    ----------
    unit : str
        ``eV``, ``eV/Angstrom`` or ``Debye``.
    test_mae : float
        Error of the best epoch's model on the test split.
    val_mae : float
        The same on the validation split.
    baseline_mae : float
        Error on the test split of predicting the training set's mean; of zero for vectors.
    composition_mae : float or None
        Error on the test split of the atom references alone; None unless the target is the energy,
        of which they explain nearly all.
    """

    unit: str
    test_mae: float
    val_mae: float
    baseline_mae: float
    composition_mae: float | None

    @property
    def trivial(self) -> tuple[str, float]:
        """Name and error of the best predictor that needs no network."""
        if self.composition_mae is not None:
            return "atom references", self.composition_mae
        return "mean predictor" if self.unit == "eV" else "zero", self.baseline_mae


@dataclass(frozen=True)
class TrainResult:
    """How good a model is, and where it lies.

    Attributes
    ----------
    errors : dict of str to TargetErrors
        Errors of each target.
    val_error : float
        What chose the epoch: the sum over targets of weight times error on the validation split in
        units of the training set's spread.
    best_epoch : int
        Epoch of the model, from 1.
    epochs : int
        Epochs that were trained.
    steps : int
        Optimiser steps that were taken.
    train, val, test : SplitSize
        Sizes of the splits; of training, what was learnt from.
    checkpoint, plot, metrics_csv, metrics_json, config_json : Path
        Files written.
    """

    errors: dict[Target, TargetErrors]
    val_error: float
    best_epoch: int
    epochs: int
    steps: int
    train: SplitSize
    val: SplitSize
    test: SplitSize
    checkpoint: Path
    plot: Path
    metrics_csv: Path
    metrics_json: Path
    config_json: Path


def size_of(selection: Selection) -> SplitSize:
    """Count a split."""
    return SplitSize(
        len(selection), selection.num_molecules, selection.num_unseen, selection.num_unlabelled
    )


def target_errors(
    dataset: Dataset, data: ConformerDataModule, errors: dict[str, float]
) -> dict[Target, TargetErrors]:
    """Put a model's errors beside those of predictors that need no network.

    Parameters
    ----------
    dataset : Dataset
        Store.
    data : ConformerDataModule
        Its splits.
    errors : dict of str to float
        Errors on the validation and test split by their `mae_name`.
    """
    return {
        target: TargetErrors(
            unit=TARGETS[target].unit,
            test_mae=errors[mae_name("test", target)],
            val_mae=errors[mae_name("val", target)],
            baseline_mae=_baseline(dataset, data, target),
            composition_mae=_composition(dataset, data) if target == "energy" else None,
        )
        for target in data.standardisation.scalings
    }


def write_metrics(result: TrainResult, origin: dict[str, Any]) -> None:
    """Write ``metrics.json``, which marks a training as complete, in one go."""
    content = {
        **{name: value for name, value in asdict(result).items() if not isinstance(value, Path)},
        "dataset_config_hash": origin["config_hash"],
    }
    text = json.dumps(content, indent=2) + "\n"
    write_in_one_go(result.metrics_json, lambda part: part.write_text(text, encoding="utf-8"))


def _baseline(dataset: Dataset, data: ConformerDataModule, target: Target) -> float:
    if target in SCALARS:
        mean = data.train.scalars[target].mean()
        return float(np.abs(data.test.scalars[target] - mean).mean())
    total, number = 0.0, 0
    for _, block in blocks_of(dataset, data.test.rows, (target,)):
        values = block[target] * TARGETS[target].factor
        total += float(np.abs(values).sum())
        number += values.size
    return total / number


def _composition(dataset: Dataset, data: ConformerDataModule) -> float:
    scaling, total = data.standardisation["energy"], 0.0
    for part, block in blocks_of(dataset, data.test.rows, ("z",)):
        offset_ev = scaling.offset(block["z"], block.atom_offset)
        total += float(np.abs(data.test.scalars["energy"][part] - offset_ev).sum())
    return total / len(data.test)
