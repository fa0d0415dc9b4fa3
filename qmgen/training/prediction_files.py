"""Predictions for the molecules of a file or the conformers of a store."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from qmgen.dataset import Batch, RemotePath, open_dataset, place_of
from qmgen.errors import ConformerError, InputError
from qmgen.molecules import (
    ConformerConfig,
    Molecule,
    RejectedRecord,
    embed_conformers,
    read_molecules,
)
from qmgen.training.predictor import (
    HamiltonianPredictor,
    LabelPredictor,
    Structure,
    Values,
    load_predictor,
)
from qmgen.training.splits import blocks_of_split, split_codes
from qmgen.training.targets import TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR

_ONE_CONFORMER = ConformerConfig(per_molecule=1)
_BATCHES = 8
"""Batches of structures held at a time."""


@dataclass(frozen=True, eq=False)
class PredictionRow:
    """The predictions for one conformer, or why there are none.

    Attributes
    ----------
    line : int
        Line or record number in the input file, from 1; for a store, in the file it was made from.
    smile : str
        SMILES of the molecule; the offending text if the record can't be read.
    conformer : int
        The conformer's number; -1 for the whole molecule.
    predicted : mapping
        Predictions; empty if there are none.
    reference : mapping
        Stored labels; empty outside a store, and without those that a store lacks.
    problem : str
        Why there is no prediction; empty if there is one.
    structure : Structure or None
        What the predictions are for; None if it could not be made.
    """

    line: int
    smile: str
    conformer: int
    predicted: Values = field(default_factory=dict)
    reference: Values = field(default_factory=dict)
    problem: str = ""
    structure: Structure | None = None


@dataclass(frozen=True, eq=False)
class FilePredictions:
    """Predictions for an input, made while they are gone over, once.

    Attributes
    ----------
    targets : tuple of str
        What is predicted.
    labels : tuple of str
        What the input has labels of, so that rows have a reference.
    rows : iterator of PredictionRow
        One row a conformer.
    """

    targets: tuple[Target, ...]
    labels: tuple[Target, ...]
    rows: Iterator[PredictionRow]

    def __iter__(self) -> Iterator[PredictionRow]:
        return self.rows


def predict_file(
    checkpoint: str | os.PathLike[str],
    input_path: str | os.PathLike[str],
    *,
    split: str | None = None,
    conformers: ConformerConfig = _ONE_CONFORMER,
    seed: int = 0,
    smiles_column: str | None = None,
    batch_size: int = 64,
) -> FilePredictions:
    """Predict for every conformer of an input, in its order and in bounded memory.

    A network of labels sees elements and positions, not the charge of a molecule; one of
    Hamiltonians gives the energy and orbital energies of the density that it predicts.

    Parameters
    ----------
    checkpoint : path
        ``model.ckpt`` of a training run.
    input_path : path
        Molecule file that `qmgen.molecules.read_molecules` reads, or the folder of a store, of
        which the converged conformers are taken.
    split : {"train", "val", "test"}, optional
        Split of a store, by the rule that the model was trained with; all by default.
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
    FilePredictions
        Records that can't be read, molecules that can't be embedded, and conformers with an
        element that the training split lacks come without a prediction and with the reason.

    Raises
    ------
    InputError
        At once if the model or the input can't be used, or `split` is given for a file.
    StoreError
        The folder is no complete store.
    """
    path = place_of(input_path)
    predictor = load_predictor(Path(checkpoint))
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    items: Iterator[PredictionRow]
    labels: tuple[Target, ...] = ()
    if isinstance(path, RemotePath) or path.is_dir():
        dataset = open_dataset(str(path))
        labels = tuple(target for target in predictor.targets if target in dataset.columns)
        codes = None if split is None else split_codes(dataset, predictor.split)
        # Checks the name of the split now, not at the first row.
        blocks = blocks_of_split(
            dataset, split, codes, ("line", "smile", "charge", "index", "z", "pos", *labels)
        )
        items = _stored(blocks, labels)
    elif split is not None:
        raise InputError(f"{path} is a file; only a store has the split {split!r}")
    else:
        records = read_molecules(path, smiles_column=smiles_column)
        items = _embedded(records, conformers, seed)
    return FilePredictions(predictor.targets, labels, _predict_rows(predictor, items, batch_size))


def _stored(blocks: Iterable[Batch], labels: tuple[Target, ...]) -> Iterator[PredictionRow]:
    for block in blocks:
        for i in range(len(block)):
            values = block.row(i)
            reference = {name: np.asarray(values[name] * TARGETS[name].factor) for name in labels}
            yield PredictionRow(
                line=int(values["line"]),
                smile=str(values["smile"]),
                conformer=int(values["index"]),
                reference={n: label for n, label in reference.items() if np.isfinite(label).all()},
                structure=Structure(
                    values["z"], values["pos"] * ANGSTROM_PER_BOHR, int(values["charge"])
                ),
            )


def _embedded(
    records: Iterable[Molecule | RejectedRecord], conformers: ConformerConfig, seed: int
) -> Iterator[PredictionRow]:
    for record in records:
        if isinstance(record, RejectedRecord):
            yield PredictionRow(record.line, record.text, -1, problem=record.reason)
            continue
        try:
            positions = embed_conformers(record, conformers, seed)
        except ConformerError as error:
            yield PredictionRow(record.line, record.smiles, -1, problem=str(error))
            continue
        for i, positions_angstrom in enumerate(positions):
            structure = Structure(record.atomic_numbers, positions_angstrom, record.charge)
            yield PredictionRow(record.line, record.smiles, i, structure=structure)


def _predict_rows(
    predictor: LabelPredictor | HamiltonianPredictor,
    rows: Iterator[PredictionRow],
    batch_size: int,
) -> Iterator[PredictionRow]:
    while chunk := list(islice(rows, _BATCHES * batch_size)):
        structures = [row.structure for row in chunk if row.structure]
        outcomes = iter(predictor.predict(structures, batch_size))
        for row in chunk:
            if row.structure is None:
                yield row
                continue
            outcome = next(outcomes)
            if isinstance(outcome, str):
                yield replace(row, problem=outcome)
            else:
                yield replace(row, predicted=outcome)
