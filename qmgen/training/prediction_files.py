"""Predictions for the molecules of a file or the conformers of a store."""

import csv
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Shaped

from qmgen.dataset import Batch, open_dataset
from qmgen.errors import ConformerError, InputError
from qmgen.molecules import (
    ConformerConfig,
    Molecule,
    RejectedRecord,
    embed_conformers,
    read_molecules,
)
from qmgen.training.checkpoint import load_model
from qmgen.training.model import PropertyModel
from qmgen.training.prediction import predict, unseen_elements
from qmgen.training.selection import BLOCK_ROWS
from qmgen.units import ANGSTROM_PER_BOHR, EV_PER_HARTREE

_ONE_CONFORMER = ConformerConfig(per_molecule=1)
_BATCHES = 8
"""Batches of structures held at a time."""


@dataclass(frozen=True)
class PredictionRow:
    """The prediction for one conformer, or why there is none.

    Attributes
    ----------
    line : int
        Line or record number in the input file, from 1; for a store, in the file it was made from.
    smile : str
        SMILES of the molecule; the offending text if the record can't be read.
    conformer : int
        The conformer's number; -1 for the whole molecule.
    predicted_ev : float or None
        Prediction, eV.
    reference_ev : float or None
        Stored label, eV; None outside a store.
    problem : str
        Why there is no prediction; empty if there is one.
    """

    line: int
    smile: str
    conformer: int
    predicted_ev: float | None
    reference_ev: float | None
    problem: str = ""


@dataclass(frozen=True)
class PredictionSummary:
    """What a file of predictions holds.

    Attributes
    ----------
    predicted : int
        Rows with a prediction.
    skipped : int
        Rows without.
    compared : int
        Rows with a prediction and a reference.
    mae_ev : float or None
        Mean absolute error of the compared rows, eV; None if there are none.
    """

    predicted: int
    skipped: int
    compared: int
    mae_ev: float | None


@dataclass(frozen=True, eq=False)
class _Structure:
    row: PredictionRow
    atomic_numbers: Shaped[np.ndarray, " nat"]
    positions_angstrom: Float[np.ndarray, "nat 3"]


def predict_file(
    checkpoint: str | os.PathLike[str],
    input_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    conformers: ConformerConfig = _ONE_CONFORMER,
    seed: int = 0,
    smiles_column: str | None = None,
    batch_size: int = 64,
) -> Iterator[PredictionRow]:
    """Predict for every conformer of an input, in its order and in bounded memory.

    The model sees elements and positions, not the charge of a molecule.

    Parameters
    ----------
    checkpoint : path
        ``model.ckpt`` of a training run.
    input_path : path
        Molecule file that `qmgen.molecules.read_molecules` reads, or the folder of a store, of
        which the converged conformers are taken.
    split : {"train", "val", "test"}, optional
        Split of a store; all by default.
    conformers : ConformerConfig
        How a SMILES is embedded; a geometry in the file is taken as it is.
    seed : int
        Seed of the embedding; 0 as in a generation with seed 0.
    smiles_column : str, optional
        SMILES column of a csv file.
    batch_size : int
        Structures a step.

    Returns
    -------
    iterator of PredictionRow
        Records that can't be read, molecules that can't be embedded, and conformers with an
        element that the training split lacks come without a prediction and with the reason.

    Raises
    ------
    InputError
        At once if the model or the input can't be used, or `split` is given for a file.
    StoreError
        The folder is no complete store.
    """
    path = Path(input_path)
    model = load_model(checkpoint)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    if path.is_dir():
        # Checks the name of the split now, not at the first row.
        blocks = open_dataset(path).iter_blocks(
            BLOCK_ROWS,
            split=split,
            columns=("line", "smile", "index", "z", "pos", model.config.target),
        )
        return _predict_rows(model, _stored(blocks, model), batch_size)
    if split is not None:
        raise InputError(f"{path} is a file; only a store has the split {split!r}")
    records = read_molecules(path, smiles_column=smiles_column)
    return _predict_rows(model, _embedded(records, conformers, seed, model), batch_size)


def write_predictions_csv(
    rows: Iterable[PredictionRow], path: str | os.PathLike[str]
) -> PredictionSummary:
    """Write predictions as they come, one line a row, empty where there is no value.

    Parameters
    ----------
    rows : iterable of PredictionRow
        Predictions.
    path : path
        CSV file to make.

    Returns
    -------
    PredictionSummary

    Raises
    ------
    InputError
        The file exists or can't be written.
    """
    path = Path(path)
    try:
        stream = path.open("x", newline="", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{path} exists; delete it or choose another output") from error
    except OSError as error:
        raise InputError(
            f"can't write {path}: {error.strerror or error}; choose another output"
        ) from error
    try:
        with stream:
            return _write(rows, stream)
    except BaseException:
        # Half a table looks like a whole one.
        path.unlink(missing_ok=True)
        raise


def _write(rows: Iterable[PredictionRow], stream: TextIO) -> PredictionSummary:
    predicted = skipped = compared = 0
    total_ev = 0.0
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(field.name for field in fields(PredictionRow))
    for row in rows:
        writer.writerow(astuple(row))
        if row.predicted_ev is None:
            skipped += 1
            continue
        predicted += 1
        if row.reference_ev is not None:
            compared += 1
            total_ev += abs(row.predicted_ev - row.reference_ev)
    mae_ev = total_ev / compared if compared else None
    return PredictionSummary(predicted, skipped, compared, mae_ev)


def _stored(blocks: Iterable[Batch], model: PropertyModel) -> Iterator[_Structure | PredictionRow]:
    for block in blocks:
        for i in range(len(block)):
            values = block.row(i)
            label = float(values[model.config.target])
            row = PredictionRow(
                line=int(values["line"]),
                smile=str(values["smile"]),
                conformer=int(values["index"]),
                predicted_ev=None,
                reference_ev=label * EV_PER_HARTREE if math.isfinite(label) else None,
            )
            yield _checked(model, row, values["z"], values["pos"] * ANGSTROM_PER_BOHR)


def _embedded(
    records: Iterable[Molecule | RejectedRecord],
    conformers: ConformerConfig,
    seed: int,
    model: PropertyModel,
) -> Iterator[_Structure | PredictionRow]:
    for record in records:
        if isinstance(record, RejectedRecord):
            yield PredictionRow(record.line, record.text, -1, None, None, record.reason)
            continue
        try:
            positions = embed_conformers(record, conformers, seed)
        except ConformerError as error:
            yield PredictionRow(record.line, record.smiles, -1, None, None, str(error))
            continue
        for i, positions_angstrom in enumerate(positions):
            row = PredictionRow(record.line, record.smiles, i, None, None)
            yield _checked(model, row, record.atomic_numbers, positions_angstrom)


def _checked(
    model: PropertyModel,
    row: PredictionRow,
    atomic_numbers: Shaped[np.ndarray, " nat"],
    positions_angstrom: Float[np.ndarray, "nat 3"],
) -> _Structure | PredictionRow:
    if unseen := unseen_elements(model, atomic_numbers):
        symbols = ", ".join(chemical_symbols[z] for z in unseen)
        return replace(row, problem=f"the training split has no {symbols}")
    return _Structure(row, atomic_numbers, positions_angstrom)


def _predict_rows(
    model: PropertyModel, items: Iterator[_Structure | PredictionRow], batch_size: int
) -> Iterator[PredictionRow]:
    while chunk := list(islice(items, _BATCHES * batch_size)):
        structures = [item for item in chunk if isinstance(item, _Structure)]
        values = iter(
            predict(
                model,
                [structure.atomic_numbers for structure in structures],
                [structure.positions_angstrom for structure in structures],
                batch_size,
            ).tolist()
        )
        for item in chunk:
            if isinstance(item, PredictionRow):
                yield item
            else:
                yield replace(item.row, predicted_ev=next(values))
