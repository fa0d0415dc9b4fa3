"""Brings a target to zero mean and unit spread, and back to eV."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from qmgen.dataset import Dataset
from qmgen.training.config import Target
from qmgen.training.selection import MAX_ATOMIC_NUMBER, Selection, blocks_of


@dataclass(frozen=True)
class Standardisation:
    r"""Affine map between a target in eV and what the network gives.

    An intensive target (gap, homo, lumo) is $y = \mu + \sigma x$. A total energy is
    $E = \sum_i (e_{Z_i} + \mu) + \sigma x$ over the atoms $i$, with $x$ a sum over atoms too, so
    that $\mu$ and $\sigma$ are per atom. Everything is fitted on the training split alone.

    Attributes
    ----------
    mean_ev : float
        $\mu$, eV.
    scale_ev : float
        $\sigma$, eV; 1 for a constant target.
    atom_references_ev : dict of int to float, or None
        $e_Z$ by atomic number, eV; None for an intensive target.
    elements : tuple of int
        Atomic numbers of the training split.
    """

    mean_ev: float
    scale_ev: float
    atom_references_ev: dict[int, float] | None
    elements: tuple[int, ...]

    @property
    def per_atom(self) -> bool:
        """Whether the target is a sum over atoms."""
        return self.atom_references_ev is not None

    def offset_ev(
        self, z: Shaped[np.ndarray, " atoms"], atom_offset: Int64[np.ndarray, " bounds"]
    ) -> Float64[np.ndarray, " n"]:
        """Give the target that a network output of 0 stands for, eV.

        Parameters
        ----------
        z : Shaped[atoms]
            Atomic numbers of all structures, one after the other; elements of the training split.
        atom_offset : Int64[n + 1]
            Structure ``i`` is ``z[atom_offset[i]:atom_offset[i + 1]]``; none is empty.
        """
        if self.atom_references_ev is None:
            return np.full(len(atom_offset) - 1, self.mean_ev)
        table = np.full(MAX_ATOMIC_NUMBER + 1, np.nan)
        for number, reference in self.atom_references_ev.items():
            table[number] = reference + self.mean_ev
        return np.add.reduceat(table[z], atom_offset[:-1])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Standardisation":
        """Make one of what `as_dict` gave."""
        return cls(**{**values, "elements": tuple(values["elements"])})


def fit_standardisation(dataset: Dataset, train: Selection, target: Target) -> Standardisation:
    """Fit a target's mean and spread, and for the energy one reference an element.

    References are the least-squares solution of energy against composition, that of smallest norm
    where compositions don't determine them. The training split's atomic numbers are read twice.

    Parameters
    ----------
    dataset : Dataset
        Store.
    train : Selection
        Rows of the training split.
    target : {"gap", "homo", "lumo", "energy"}
        Label.

    Returns
    -------
    Standardisation
    """
    if target != "energy":
        return Standardisation(
            mean_ev=float(train.target_ev.mean()),
            scale_ev=_scale(train.target_ev, train.target_ev),
            atom_references_ev=None,
            elements=train.elements,
        )
    size = len(train.elements)
    gram, moment = np.zeros((size, size)), np.zeros(size)
    for part, counts in _compositions(dataset, train):
        gram += counts.T @ counts
        moment += counts.T @ train.target_ev[part]
    references = np.linalg.lstsq(gram, moment, rcond=None)[0]
    per_atom = np.empty(len(train))
    for part, counts in _compositions(dataset, train):
        residual = train.target_ev[part] - counts @ references
        per_atom[part] = residual / counts.sum(axis=1)
    return Standardisation(
        mean_ev=float(per_atom.mean()),
        scale_ev=_scale(per_atom, train.target_ev),
        atom_references_ev=dict(zip(train.elements, references.tolist(), strict=True)),
        elements=train.elements,
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


def _scale(values: Float64[np.ndarray, " n"], target_ev: Float64[np.ndarray, " n"]) -> float:
    spread = float(values.std())
    # Below the rounding of the fit there is nothing left to learn, and dividing would blow it up.
    noise = 1e-9 * float(np.abs(target_ev).max())
    return spread if spread > noise else 1.0
