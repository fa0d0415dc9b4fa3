"""Where a model errs: its errors by molecule, by size of molecule, by scaffold."""

import csv
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from qmgen.dataset import Batch, open_dataset
from qmgen.errors import InputError
from qmgen.molecules import scaffold
from qmgen.training.checkpoint import load_model
from qmgen.training.model import PropertyModel
from qmgen.training.prediction import predict
from qmgen.training.selection import has_only, labelled
from qmgen.training.splits import blocks_of_split, split_codes
from qmgen.training.targets import TARGETS, Target
from qmgen.units import ANGSTROM_PER_BOHR

Grouping = Literal["molecule", "heavy-atoms", "scaffold"]
NO_RING, NO_SMILES = "(no ring)", "(no SMILES)"
_STRUCTURES = 512
"""Structures held at a time."""
_COLUMNS = ("molecule", "smile", "source_id", "line", "charge", "z", "pos")


@dataclass(frozen=True)
class GroupErrors:
    """Errors of one target over the conformers of a group, in the target's unit.

    Those of a vector are over its components.

    Attributes
    ----------
    target : str
        Label.
    group : str
        What the conformers have in common.
    molecules, conformers : int
        Size of the group.
    mae, rmse : float
        Mean absolute error, and root of the mean squared error.
    bias : float
        Mean of prediction less label.
    largest : float
        Largest absolute error.
    unit : str
        Unit of all of these.
    """

    target: Target
    group: str
    molecules: int
    conformers: int
    mae: float
    rmse: float
    bias: float
    largest: float
    unit: str


@dataclass(frozen=True)
class Evaluation:
    """A model's errors on a split.

    Attributes
    ----------
    groups : tuple of GroupErrors
        By target and group: molecules with the largest error first, scaffolds with the most
        conformers, numbers of heavy atoms ascending.
    total : tuple of GroupErrors
        Over all conformers, by target.
    unseen : int
        Conformers left out since the model has not learnt one of their elements.
    """

    groups: tuple[GroupErrors, ...]
    total: tuple[GroupErrors, ...]
    unseen: int


def evaluate(
    checkpoint: str | os.PathLike[str],
    store: str | os.PathLike[str],
    by: Grouping,
    split: str | None = "test",
) -> Evaluation:
    """Compare a model's predictions with a store's labels, group by group.

    Holds 48 bytes a conformer and target.

    Parameters
    ----------
    checkpoint : path
        ``model.ckpt`` of a training run.
    store : path
        Folder of a store; the converged conformers are taken that have the label.
    by : {"molecule", "heavy-atoms", "scaffold"}
        What makes a group: a molecule, the number of atoms other than hydrogen, or a Bemis-Murcko
        scaffold (`qmgen.molecules.scaffold`).
    split : {"train", "val", "test"}, optional
        Split, by the rule that the model was trained with; everything if None.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The model can't be used, there is no such split, or it has no label that the model predicts.
    StoreError
        The folder is no complete store.
    """
    model, dataset = load_model(checkpoint), open_dataset(store)
    targets = [target for target in model.targets if target in dataset.columns]
    codes = None if split is None else split_codes(dataset, model.config.split)
    blocks = blocks_of_split(dataset, split, codes, (*_COLUMNS, *targets))
    parts: dict[Target, list[np.ndarray]] = {target: [] for target in targets}
    names: dict[int, str] = {}
    unseen = 0
    for block in blocks:
        known = has_only(block, model.standardisation.elements)
        unseen += int((~known).sum())
        usable = {target: labelled(block, [target]) for target in targets}
        all_places = np.flatnonzero(known)
        for start in range(0, len(all_places), _STRUCTURES):
            places = all_places[start : start + _STRUCTURES]
            names.update(_names(block, places, by))
            predicted = _predictions(model, block, places)
            for target in targets:
                errors = _conformer_errors(target, predicted[target], block, places)
                parts[target].append(errors[usable[target][places]])
    found = {target: np.concatenate(part) for target, part in parts.items() if any(map(len, part))}
    if not found:
        raise InputError(
            f"{dataset.path}: {'the whole store' if split is None else f'the {split} split'} has "
            f"no conformer with a label that the model predicts ({', '.join(model.targets)}); "
            "choose another split or store"
        )
    whole = dict.fromkeys(names, "all")
    return Evaluation(
        groups=tuple(g for target, e in found.items() for g in _groups(target, e, names, by)),
        total=tuple(g for target, e in found.items() for g in _groups(target, e, whole, by)),
        unseen=unseen,
    )


def write_evaluation(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write the errors of all groups to a CSV file.

    Raises
    ------
    InputError
        The file exists or can't be written.
    """
    path = Path(path)
    try:
        with path.open("x", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(field.name for field in fields(GroupErrors))
            writer.writerows(astuple(group) for group in evaluation.groups)
    except FileExistsError as error:
        raise InputError(f"{path} exists; delete it or choose another output") from error
    except OSError as error:
        raise InputError(
            f"can't write {path}: {error.strerror or error}; choose another output"
        ) from error


def _names(block: Batch, places: Int64[np.ndarray, " n"], by: Grouping) -> dict[int, str]:
    """Give the group of each molecule of some rows."""
    ids, first = np.unique(block["molecule"][places], return_index=True)
    names = {}
    for molecule, place in zip(ids.tolist(), places[first].tolist(), strict=True):
        smiles = str(block["smile"][place])
        if by == "heavy-atoms":
            atoms = block["z"][block.atom_offset[place] : block.atom_offset[place + 1]]
            names[molecule] = str(int((atoms > 1).sum()))
        elif by == "scaffold":
            names[molecule] = (scaffold(smiles) or NO_RING) if smiles else NO_SMILES
        else:
            # Two records of one SMILES are two molecules.
            which = f"{block['source_id'][place]} line {block['line'][place]}".strip()
            names[molecule] = f"{smiles} {which}".strip()
    return names


def _predictions(
    model: PropertyModel, block: Batch, places: Int64[np.ndarray, " n"]
) -> dict[Target, np.ndarray]:
    """Predict for some rows; forces of all of them one after the other."""
    bounds = [(block.atom_offset[place], block.atom_offset[place + 1]) for place in places]
    found = predict(
        model,
        [block["z"][start:stop] for start, stop in bounds],
        [block["pos"][start:stop] * ANGSTROM_PER_BOHR for start, stop in bounds],
    )
    return {
        target: np.concatenate(found[TARGETS[target].key])
        if target == "forces"
        else np.asarray(found[TARGETS[target].key])
        for target in model.targets
    }


def _conformer_errors(
    target: Target, predicted: np.ndarray, block: Batch, places: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, "n 6"]:
    """Errors of conformers, each as the molecule's number and five numbers over its components.

    These are their number, and the sums of absolute, squared and plain errors, and the largest.
    """
    label = block[target] * TARGETS[target].factor
    sizes = block.n_atoms[places] if target == "forces" else np.ones(len(places), dtype=np.int64)
    if target == "forces":
        label = label[np.repeat(np.isin(np.arange(len(block)), places), block.n_atoms)]
    else:
        label = label[places]
    error = (predicted - label).reshape(sizes.sum(), -1)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    absolute = np.abs(error)
    return np.stack(
        [
            block["molecule"][places],
            sizes * error.shape[1],
            np.add.reduceat(absolute.sum(axis=1), starts),
            np.add.reduceat((error**2).sum(axis=1), starts),
            np.add.reduceat(error.sum(axis=1), starts),
            np.maximum.reduceat(absolute.max(axis=1), starts),
        ],
        axis=1,
    )


def _groups(
    target: Target, errors: Float64[np.ndarray, "n 6"], names: dict[int, str], by: Grouping
) -> list[GroupErrors]:
    molecules = errors[:, 0].astype(np.int64)
    labels, group = np.unique([names[m] for m in molecules.tolist()], return_inverse=True)
    components, absolute, squared, signed = (
        np.bincount(group, weights=errors[:, k]) for k in (1, 2, 3, 4)
    )
    # The first row of each molecule counts the molecule.
    first = np.unique(molecules, return_index=True)[1]
    num_molecules, num_conformers = np.bincount(group[first]), np.bincount(group)
    largest = np.zeros(len(labels))
    np.maximum.at(largest, group, errors[:, 5])
    groups = [
        GroupErrors(
            target=target,
            group=str(labels[k]),
            molecules=int(num_molecules[k]),
            conformers=int(num_conformers[k]),
            mae=float(absolute[k] / components[k]),
            rmse=float(np.sqrt(squared[k] / components[k])),
            bias=float(signed[k] / components[k]),
            largest=float(largest[k]),
            unit=TARGETS[target].unit,
        )
        for k in range(len(labels))
    ]
    if by == "heavy-atoms":
        return sorted(groups, key=lambda g: (len(g.group), g.group))
    if by == "scaffold":
        return sorted(groups, key=lambda g: (-g.conformers, g.group))
    return sorted(groups, key=lambda g: (-g.mae, g.group))
