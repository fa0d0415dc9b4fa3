"""Labels as people read them: with a title, in the field's usual unit, one number each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from qmgen.dataset import Batch
from qmgen.units import ANGSTROM_PER_BOHR, DEBYE_PER_ATOMIC_UNIT, EV_PER_HARTREE

Scale = Literal["linear", "log", "integer"]


@dataclass(frozen=True)
class Quantity:
    """A column of a dataset as numbers in a unit that people use; vectors give their norm.

    Attributes
    ----------
    name : str
        Column.
    title : str
        What it is, in words.
    unit : str
        Unit of the values; empty where there is none.
    factor : float
        Turns the stored unit into `unit`.
    scale : {"linear", "log", "integer"}
        Axis that suits it; on a logarithmic one the size counts, not the sign.
    zero_is_missing : bool
        Whether the store writes 0 for what is not known.
    """

    name: str
    title: str
    unit: str
    factor: float = 1.0
    scale: Scale = "linear"
    zero_is_missing: bool = False

    def values(self, batch: Batch) -> Float[np.ndarray, " n"]:
        """Give one number for each entry of the column; NaN where there is none.

        Raises
        ------
        KeyError
            The batch was read without the column.
        """
        column = np.asarray(batch[self.name], np.float64)
        if column.ndim > 1:
            column = np.sqrt(np.sum(column**2, axis=tuple(range(1, column.ndim))))
        if self.zero_is_missing:
            column = np.where(column == 0, np.nan, column)
        return self.factor * (np.abs(column) if self.scale == "log" else column)


_FORCE = EV_PER_HARTREE / ANGSTROM_PER_BOHR

OF_CONFORMERS = (
    Quantity("energy", "total energy", "Hartree"),
    Quantity("nuclear_repulsion", "nuclear repulsion", "Hartree"),
    Quantity("homo", "HOMO energy", "eV", EV_PER_HARTREE),
    Quantity("lumo", "LUMO energy", "eV", EV_PER_HARTREE),
    Quantity("gap", "HOMO-LUMO gap", "eV", EV_PER_HARTREE),
    Quantity("dipole", "dipole moment (norm)", "Debye", DEBYE_PER_ATOMIC_UNIT),
    Quantity("quadrupole", "quadrupole moment (norm)", "e Bohr²"),
    Quantity("dispersion_energy", "dispersion energy", "meV", 1e3 * EV_PER_HARTREE),
    Quantity("spin_square", "⟨S²⟩", ""),
    Quantity("std", "standard deviation of the last five SCF energies", "eV", scale="log"),
    Quantity("energy_change", "last SCF energy change (size)", "Hartree", scale="log"),
    Quantity("iterations", "SCF cycles", "", scale="integer", zero_is_missing=True),
    Quantity("attempts", "SCF attempts", "", scale="integer", zero_is_missing=True),
)
"""One number a conformer."""

OF_ATOMS = (
    Quantity("forces", "force on an atom (norm)", "eV/Å", _FORCE),
    Quantity("dispersion_forces", "dispersion force on an atom (norm)", "eV/Å", _FORCE),
    Quantity("mulliken_charges", "Mulliken charge of an atom", "e"),
    Quantity("mulliken_spins", "Mulliken spin population of an atom", ""),
)
"""One number an atom."""

OF_ORBITALS = (
    Quantity("orbital_energies", "orbital energies", "eV", EV_PER_HARTREE),
    Quantity("orbital_energies_beta", "orbital energies, spin b", "eV", EV_PER_HARTREE),
)
"""One number an orbital."""
