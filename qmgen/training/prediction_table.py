"""Writes predictions to files: a table, and the forces beside it."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from qmgen.errors import InputError
from qmgen.training.prediction_files import FilePredictions, PredictionRow, Values
from qmgen.training.targets import TARGETS, Target


@dataclass(frozen=True)
class PredictionSummary:
    """What a file of predictions holds.

    Attributes
    ----------
    predicted : int
        Rows with predictions.
    skipped : int
        Rows without.
    compared : dict of str to int
        By target, rows with a prediction and a reference; only targets that have any.
    mae : dict of str to float
        By target, the mean absolute error of these rows in the target's unit; of vectors, over all
        components.
    forces : Path or None
        File with the forces, if they were predicted.
    """

    predicted: int
    skipped: int
    compared: dict[Target, int]
    mae: dict[Target, float]
    forces: Path | None


def write_predictions(
    predictions: FilePredictions, path: str | os.PathLike[str]
) -> PredictionSummary:
    """Write predictions as they come, one line a row, empty where there is no value.

    A column ``gap_ev`` has predictions and, for a store, ``reference_gap_ev`` its labels; a dipole
    has three columns, such as ``dipole_x_debye``. Forces go to an extended XYZ file beside the
    table, with the same name and the ending ``.xyz``: a frame for each row that has a prediction,
    with positions in Angstrom, forces in eV/Angstrom, energy in eV, and the row's ``line``,
    ``smile`` and ``conformer``.

    Parameters
    ----------
    predictions : FilePredictions
        Predictions.
    path : path
        CSV file to make.

    Returns
    -------
    PredictionSummary

    Raises
    ------
    InputError
        A file exists or can't be written.
    """
    path = Path(path)
    forces = path.with_suffix(".xyz") if "forces" in predictions.targets else None
    if forces == path:
        raise InputError(f"{path} is for the table and the forces go to {forces}; choose a .csv")
    paths = [path] if forces is None else [path, forces]
    made: list[Path] = []
    try:
        with ExitStack() as stack:
            streams = [stack.enter_context(_create(file, made)) for file in paths]
            return _write(predictions, streams, forces)
    except BaseException:
        # Half a table looks like a whole one.
        for file in made:
            file.unlink(missing_ok=True)
        raise


def _create(path: Path, made: list[Path]) -> TextIO:
    try:
        stream = path.open("x", newline="", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{path} exists; delete it or choose another output") from error
    except OSError as error:
        raise InputError(
            f"can't write {path}: {error.strerror or error}; choose another output"
        ) from error
    made.append(path)
    return stream


def _write(
    predictions: FilePredictions, streams: list[TextIO], forces: Path | None
) -> PredictionSummary:
    predicted = skipped = 0
    total: dict[Target, float] = {}
    numbers: dict[Target, int] = {}
    compared: dict[Target, int] = {}
    writer = csv.writer(streams[0], lineterminator="\n")
    columns, labels = (
        [target for target in targets if target != "forces"]
        for targets in (predictions.targets, predictions.labels)
    )
    names = [name for target in columns for name in _names(target)]
    references = [f"reference_{name}" for target in labels for name in _names(target)]
    writer.writerow(["line", "smile", "conformer", *names, *references, "problem"])
    for row in predictions:
        cells = [*_cells(row.predicted, columns), *_cells(row.reference, labels)]
        writer.writerow([row.line, row.smile, row.conformer, *cells, row.problem])
        if row.problem:
            skipped += 1
            continue
        predicted += 1
        for target in (target for target in predictions.targets if target in row.reference):
            error = np.abs(row.predicted[target] - row.reference[target])
            total[target] = total.get(target, 0.0) + float(error.sum())
            numbers[target] = numbers.get(target, 0) + error.size
            compared[target] = compared.get(target, 0) + 1
        if forces is not None:
            _write_frame(row, streams[1])
    mae = {target: total[target] / numbers[target] for target in total}
    return PredictionSummary(predicted, skipped, compared, mae, forces)


def _names(target: Target) -> Iterator[str]:
    if target == "dipole":
        yield from (f"{target}_{axis}_{TARGETS[target].suffix}" for axis in "xyz")
    else:
        yield TARGETS[target].key


def _cells(values: Values, columns: Sequence[Target]) -> Iterator[float | None]:
    for target in columns:
        if target in values:
            yield from np.atleast_1d(values[target]).tolist()
        else:
            yield from (None for _ in _names(target))


def _write_frame(row: PredictionRow, stream: TextIO) -> None:
    assert row.structure is not None
    atoms = Atoms(
        numbers=row.structure.atomic_numbers,
        positions=row.structure.positions_angstrom,
        info={"line": row.line, "smile": row.smile, "conformer": row.conformer},
    )
    atoms.calc = SinglePointCalculator(
        atoms, energy=float(row.predicted["energy"]), forces=row.predicted["forces"]
    )
    write_extxyz(stream, [atoms])
