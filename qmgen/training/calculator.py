"""A trained model as a calculator of ASE, for relaxation and molecular dynamics."""

import copy
import os
from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Debye

from qmgen.errors import InputError
from qmgen.training.checkpoint import load_model
from qmgen.training.model import PropertyModel
from qmgen.training.prediction import predict


class ModelCalculator(Calculator):
    """Energy and forces of a model that has learnt energies, in ASE's units (eV, Angstrom).

    Forces are minus the gradient of the predicted energy, whether or not the model has learnt
    forces, so that they conserve energy. A model that has learnt the dipole gives it as well, in e
    Angstrom. Everything is computed in float64: rounding of float32 would end a tight relaxation
    early and heat up a long trajectory. The model does not know the charge of a molecule.

    Parameters
    ----------
    model : path or PropertyModel
        ``model.ckpt`` of a training run, or what `load_model` made of it; it is copied.

    Raises
    ------
    InputError
        The file is no model, or it has not learnt energies.

    Examples
    --------
    >>> atoms.calc = ModelCalculator("run/model.ckpt")  # doctest: +SKIP
    >>> BFGS(atoms).run(fmax=0.01)  # doctest: +SKIP
    """

    def __init__(self, model: str | os.PathLike[str] | PropertyModel) -> None:
        super().__init__()
        loaded = model if isinstance(model, PropertyModel) else load_model(model)
        if "energy" not in loaded.targets:
            raise InputError(
                f"the model has learnt {', '.join(loaded.targets)}; a calculator needs one that "
                "has learnt energy"
            )
        self.model = copy.deepcopy(loaded).double().eval()
        self.implemented_properties = ["energy", "forces"]
        if "dipole" in loaded.targets:
            self.implemented_properties.append("dipole")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``; ASE calls it when the atoms have changed.

        Raises
        ------
        InputError
            The atoms are periodic, or the model has not seen one of the elements.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms.pbc.any():
            raise InputError("the model knows molecules only; set atoms.pbc = False")
        found: dict[str, Any] = predict(
            self.model, [self.atoms.numbers], [self.atoms.positions], forces=True
        )
        self.results = {
            "energy": float(found["energy_ev"][0]),
            "forces": found["forces_ev_per_angstrom"][0],
        }
        if "dipole_debye" in found:
            self.results["dipole"] = found["dipole_debye"][0] * Debye
