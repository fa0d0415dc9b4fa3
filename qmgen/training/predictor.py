"""What predicts the rows of a table: a network of labels, or one of Hamiltonians."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Float64, Shaped

from qmgen.errors import InputError, UnsupportedMoleculeError
from qmgen.training.checkpoint import KEY, load_model, read_checkpoint
from qmgen.training.hamiltonian.checkpoint import KIND, load_hamiltonian
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.hamiltonian.prediction import predict_conformers
from qmgen.training.model import PropertyModel
from qmgen.training.prediction import predict, unseen_elements
from qmgen.training.targets import SCALARS, TARGETS, Target
from qmgen.units import BOHR_PER_ANGSTROM

Values = Mapping[Target, Float64[np.ndarray, "..."]]
"""Values of one structure in the units of `TARGETS`: () for a scalar, (3,) for the dipole, (nat, 3)
for forces."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms at places.

    Attributes
    ----------
    atomic_numbers : Shaped[nat]
        Atomic numbers.
    positions_angstrom : Float[nat, 3]
        Positions, Angstrom.
    charge : int
        Of the molecule, elementary charges.
    """

    atomic_numbers: Shaped[np.ndarray, " nat"]
    positions_angstrom: Float[np.ndarray, "nat 3"]
    charge: int


@dataclass(frozen=True, eq=False)
class LabelPredictor:
    """A network of labels, which sees elements and positions, not the charge.

    Attributes
    ----------
    model : PropertyModel
        From `load_model`.
    """

    model: PropertyModel

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is predicted."""
        return self.model.targets

    @property
    def split(self) -> Literal["stored", "scaffold"]:
        """The rule by which a store's rows were shared out."""
        return self.model.config.split

    def predict(self, structures: Sequence[Structure], batch_size: int) -> list[Values | str]:
        """Predict for each structure, or say why not."""
        reasons = [
            _unseen(unseen_elements(self.model, structure.atomic_numbers))
            for structure in structures
        ]
        usable = [s for s, reason in zip(structures, reasons, strict=True) if not reason]
        values = predict(
            self.model,
            [structure.atomic_numbers for structure in usable],
            [structure.positions_angstrom for structure in usable],
            batch_size,
        )
        rows = iter(range(len(usable)))
        return [reason or self._row(values, next(rows)) for reason in reasons]

    def _row(self, values: Mapping[str, Sequence[np.ndarray] | np.ndarray], row: int) -> Values:
        return {target: np.asarray(values[TARGETS[target].key][row]) for target in self.targets}


@dataclass(frozen=True, eq=False)
class HamiltonianPredictor:
    """A network of Hamiltonians: energy and frontier orbitals of the predicted density.

    Attributes
    ----------
    model : HamiltonianModel
        From `load_hamiltonian`.
    """

    model: HamiltonianModel
    targets: tuple[Target, ...] = SCALARS
    split: Literal["stored"] = "stored"

    def predict(self, structures: Sequence[Structure], batch_size: int) -> list[Values | str]:
        """Predict for each structure, or say why not; one by one, whatever the batch size."""
        return [self._one(structure) for structure in structures]

    def _one(self, structure: Structure) -> Values | str:
        z = structure.atomic_numbers
        if reason := _unseen(sorted({int(number) for number in z} - set(self.model.elements))):
            return reason
        try:
            predicted = predict_conformers(
                self.model,
                z.astype(np.int32),
                structure.positions_angstrom[None].astype(np.float64) * BOHR_PER_ANGSTROM,
                charge=structure.charge,
            )
        except (UnsupportedMoleculeError, InputError) as error:
            return str(error)
        return {
            target: np.asarray(getattr(predicted, target)[0] * TARGETS[target].factor)
            for target in self.targets
        }


def load_predictor(path: Path) -> LabelPredictor | HamiltonianPredictor:
    """Load what a training wrote, ready to predict.

    Raises
    ------
    InputError
        As of `load_model` and `load_hamiltonian`.
    """
    if read_checkpoint(path)[KEY].get("kind") == KIND:
        return HamiltonianPredictor(load_hamiltonian(path))
    return LabelPredictor(load_model(path))


def _unseen(elements: list[int]) -> str:
    if not elements:
        return ""
    return f"the training split has no {', '.join(chemical_symbols[z] for z in elements)}"
