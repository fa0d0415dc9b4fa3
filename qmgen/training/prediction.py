"""Predictions for structures, in physical units."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from schnetpack import properties

from qmgen.errors import InputError
from qmgen.training.inputs import make_loader, structure_inputs
from qmgen.training.model import PropertyModel
from qmgen.training.neighbors import NeighborList
from qmgen.training.targets import TARGETS, Target

Predictions = dict[str, np.ndarray | list[np.ndarray]]


def unseen_elements(model: PropertyModel, atomic_numbers: Shaped[np.ndarray, " nat"]) -> list[int]:
    """Give the atomic numbers that the training split had no example of, ascending."""
    return sorted({int(z) for z in atomic_numbers} - set(model.standardisation.elements))


def predict(
    model: PropertyModel,
    atomic_numbers: Sequence[Shaped[np.ndarray, "..."]],
    positions_angstrom: Sequence[Float[np.ndarray, "..."]],
    batch_size: int = 64,
    *,
    forces: bool | None = None,
) -> Predictions:
    """Predict the model's targets for each structure.

    Parameters
    ----------
    model : PropertyModel
        From `load_model`; it is used where it lies (CPU or GPU) and in the precision of its
        weights (``model.double()`` predicts in float64).
    atomic_numbers : sequence of Shaped[nat]
        Atomic numbers of each structure.
    positions_angstrom : sequence of Float[nat, 3]
        Positions of each structure, Angstrom.
    batch_size : int
        Structures a step; it has no influence on the result beyond rounding.
    forces : bool, optional
        Whether to give forces, minus the gradient of the predicted energy; by default if the model
        has learnt them.

    Returns
    -------
    dict of str to array
        In the order of the structures: ``energy_ev``, ``homo_ev``, ``lumo_ev`` and ``gap_ev``,
        Float64[n]; ``dipole_debye``, Float64[n, 3]; ``forces_ev_per_angstrom``, a list of
        Float64[nat, 3]. Those that the model has learnt.

    Raises
    ------
    InputError
        Shapes don't fit, a position is not finite, a structure has an element that the training
        split lacks, or forces are asked for and the model has not learnt energies.
    """
    if len(atomic_numbers) != len(positions_angstrom):
        raise InputError(
            f"{len(atomic_numbers)} structures have atomic numbers and "
            f"{len(positions_angstrom)} have positions; give one of each a structure"
        )
    if forces and "energy" not in model.targets:
        raise InputError(
            f"the model has learnt {', '.join(model.targets)} and forces are the gradient of the "
            "energy; use a model that has learnt energy"
        )
    weight = next(model.parameters())
    neighbor_list = NeighborList.of(model.config)
    structures = []
    for i, (z, positions) in enumerate(zip(atomic_numbers, positions_angstrom, strict=True)):
        z, positions = np.asarray(z), np.asarray(positions)
        _check(model, i, z, positions)
        structures.append(structure_inputs(z, positions, neighbor_list, i, weight.dtype))
    with_forces = "forces" in model.targets if forces is None else forces
    targets = [target for target in model.targets if target != "forces"]
    parts: dict[Target, list[np.ndarray]] = {target: [] for target in targets}
    if with_forces:
        parts["forces"] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in make_loader(structures, batch_size) if structures else ():
                on_device = {key: value.to(weight.device) for key, value in batch.items()}
                values = model.predict_values(on_device, forces=with_forces)
                bounds = np.cumsum(batch[properties.n_atoms].numpy())[:-1]
                for target, found in parts.items():
                    if target == "forces":
                        found.extend(np.split(values[target], bounds))
                    else:
                        found.append(values[target])
    finally:
        model.train(was_training)
    return {
        TARGETS[target].key: parts[target] if target == "forces" else _join(target, parts[target])
        for target in TARGETS
        if target in parts
    }


def _join(target: Target, parts: list[np.ndarray]) -> np.ndarray:
    shape = (0, 3) if target == "dipole" else (0,)
    return np.concatenate(parts) if parts else np.empty(shape)


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
