"""Brings targets to zero mean and unit spread, and back to their units."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from qmgen.dataset import Dataset
from qmgen.training.selection import MAX_ATOMIC_NUMBER, Selection, blocks_of
from qmgen.training.targets import SCALARS, TARGETS, Target


@dataclass(frozen=True)
class Scaling:
    r"""Affine map between a target in its unit and what the network gives.

    A gap or an orbital energy is $y = \mu + \sigma x$. A total energy is
    $E = \sum_i (e_{Z_i} + \mu) + \sigma x$ over the atoms $i$, with $x$ a sum over atoms too, so
    that $\mu$ and $\sigma$ are per atom. A component of a force or a dipole is $\sigma x$: an
    offset would single out a direction.

    Attributes
    ----------
    mean : float
        $\mu$, in the target's unit.
    scale : float
        $\sigma$, in the target's unit; 1 for a constant target.
    atom_references_ev : dict of int to float, or None
        $e_Z$ by atomic number, eV; None unless the target is the energy.
    """

    mean: float
    scale: float
    atom_references_ev: dict[int, float] | None = None

    def offset(
        self, z: Shaped[np.ndarray, " atoms"], atom_offset: Int64[np.ndarray, " bounds"]
    ) -> Float64[np.ndarray, " n"]:
        """Give the scalar target that a network output of 0 stands for, in its unit.

        Parameters
        ----------
        z : Shaped[atoms]
            Atomic numbers of all structures, one after the other; elements of the training split.
        atom_offset : Int64[n + 1]
            Structure ``i`` is ``z[atom_offset[i]:atom_offset[i + 1]]``; none is empty.
        """
        if self.atom_references_ev is None:
            return np.full(len(atom_offset) - 1, self.mean)
        table = np.full(MAX_ATOMIC_NUMBER + 1, np.nan)
        for number, reference in self.atom_references_ev.items():
            table[number] = reference + self.mean
        return np.add.reduceat(table[z], atom_offset[:-1])


@dataclass(frozen=True)
class Standardisation:
    """The maps of all targets of a model; fitted on the training split alone.

    Attributes
    ----------
    scalings : dict of str to Scaling
        Map of each target.
    elements : tuple of int
        Atomic numbers of the training split.
    """

    scalings: dict[Target, Scaling]
    elements: tuple[int, ...]

    def __getitem__(self, target: Target) -> Scaling:
        return self.scalings[target]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Standardisation":
        """Make one of what `as_dict` gave."""
        scalings = {target: Scaling(**scaling) for target, scaling in values["scalings"].items()}
        return cls(scalings, tuple(values["elements"]))


def fit_standardisation(
    dataset: Dataset, train: Selection, targets: Sequence[Target]
) -> Standardisation:
    """Fit each target's mean and spread, and for the energy one reference an element.

    References are the least-squares solution of energy against composition, that of smallest norm
    where compositions don't determine them. The spread of forces and dipoles is the root mean
    square of their components.

    Parameters
    ----------
    dataset : Dataset
        Store.
    train : Selection
        Rows of the training split.
    targets : sequence of str
        Labels.

    Returns
    -------
    Standardisation
    """
    scalings: dict[Target, Scaling] = {}
    for target in targets:
        if target == "energy":
            scalings[target] = _energy(dataset, train)
        elif target in SCALARS:
            values = train.scalars[target]
            scalings[target] = Scaling(float(values.mean()), _scale(values, values))
        else:
            scalings[target] = Scaling(0.0, _root_mean_square(dataset, train, target))
    return Standardisation(scalings, train.elements)


def _energy(dataset: Dataset, train: Selection) -> Scaling:
    energy_ev = train.scalars["energy"]
    size = len(train.elements)
    gram, moment = np.zeros((size, size)), np.zeros(size)
    for part, counts in _compositions(dataset, train):
        gram += counts.T @ counts
        moment += counts.T @ energy_ev[part]
    references = np.linalg.lstsq(gram, moment, rcond=None)[0]
    per_atom = np.empty(len(train))
    for part, counts in _compositions(dataset, train):
        residual = energy_ev[part] - counts @ references
        per_atom[part] = residual / counts.sum(axis=1)
    return Scaling(
        mean=float(per_atom.mean()),
        scale=_scale(per_atom, energy_ev),
        atom_references_ev=dict(zip(train.elements, references.tolist(), strict=True)),
    )


def _compositions(
    dataset: Dataset, selection: Selection
) -> Iterator[tuple[slice, Float64[np.ndarray, "rows elements"]]]:
    """Count the atoms of each element, a block of rows at a time."""
    for part, block in blocks_of(dataset, selection.rows, ("z",)):
        starts = block.atom_offset[:-1]
        columns = [
            np.add.reduceat(block["z"] == number, starts, dtype=np.int64)
            for number in selection.elements
        ]
        yield part, np.stack(columns, axis=1).astype(np.float64)


def _scale(values: Float64[np.ndarray, " n"], target: Float64[np.ndarray, " n"]) -> float:
    spread = float(values.std())
    # Below the rounding of the fit there is nothing left to learn, and dividing would blow it up.
    noise = 1e-9 * float(np.abs(target).max())
    return spread if spread > noise else 1.0


def _root_mean_square(dataset: Dataset, train: Selection, target: Target) -> float:
    total, number = 0.0, 0
    for _, block in blocks_of(dataset, train.rows, (target,)):
        values = block[target] * TARGETS[target].factor
        total += float(np.square(values).sum())
        number += values.size
    spread = float(np.sqrt(total / number))
    # Symmetry makes vectors vanish but for rounding, which is no measure of anything.
    return spread if spread > 1e-9 else 1.0
