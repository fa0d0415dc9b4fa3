"""Predictions for structures, in eV."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from schnetpack.transform import MatScipyNeighborList

from qmgen.errors import InputError
from qmgen.training.inputs import make_loader, structure_inputs
from qmgen.training.model import PropertyModel


def unseen_elements(model: PropertyModel, atomic_numbers: Shaped[np.ndarray, " nat"]) -> list[int]:
    """Give the atomic numbers that the training split had no example of, ascending."""
    return sorted({int(z) for z in atomic_numbers} - set(model.standardisation.elements))


def predict(
    model: PropertyModel,
    atomic_numbers: Sequence[Shaped[np.ndarray, "..."]],
    positions_angstrom: Sequence[Float[np.ndarray, "..."]],
    batch_size: int = 64,
) -> Float64[np.ndarray, " n"]:
    """Predict the model's target for each structure, eV.

    Parameters
    ----------
    model : PropertyModel
        From `load_model`; it is used where it lies (CPU or GPU).
    atomic_numbers : sequence of Shaped[nat]
        Atomic numbers of each structure.
    positions_angstrom : sequence of Float[nat, 3]
        Positions of each structure, Angstrom.
    batch_size : int
        Structures a step; it has no influence on the result beyond float32 rounding.

    Returns
    -------
    Float64[n]
        Predictions in the order given, eV.

    Raises
    ------
    InputError
        Shapes don't fit, a position is not finite, or a structure has an element that the
        training split lacks.
    """
    if len(atomic_numbers) != len(positions_angstrom):
        raise InputError(
            f"{len(atomic_numbers)} structures have atomic numbers and "
            f"{len(positions_angstrom)} have positions; give one of each a structure"
        )
    neighbor_list = MatScipyNeighborList(cutoff=model.config.cutoff_angstrom)
    structures = []
    for i, (z, positions) in enumerate(zip(atomic_numbers, positions_angstrom, strict=True)):
        z, positions = np.asarray(z), np.asarray(positions)
        _check(model, i, z, positions)
        structures.append(structure_inputs(z, positions, neighbor_list, i))
    if not structures:
        return np.empty(0)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            values = [
                model.predict_ev({key: value.to(device) for key, value in batch.items()})
                for batch in make_loader(structures, batch_size)
            ]
    finally:
        model.train(was_training)
    return np.concatenate(values)


def _check(model: PropertyModel, i: int, z: np.ndarray, positions: np.ndarray) -> None:
    if z.ndim != 1 or z.size == 0 or positions.shape != (z.size, 3):
        raise InputError(
            f"structure {i}: atomic numbers of shape {z.shape} and positions of shape "
            f"{positions.shape}; (nat,) and (nat, 3) are expected"
        )
    if not np.isfinite(positions).all():
        raise InputError(f"structure {i}: a position is not finite")
    if unseen := unseen_elements(model, z):
        raise InputError(
            f"structure {i}: the model has not been trained on atomic numbers {unseen}; train on "
            "a dataset that has them"
        )
