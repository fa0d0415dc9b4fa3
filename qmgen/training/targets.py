"""Labels that a network can learn, and the units it learns them in."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from qmgen.units import ANGSTROM_PER_BOHR, DEBYE_PER_ATOMIC_UNIT, EV_PER_HARTREE

Target = Literal["energy", "forces", "homo", "lumo", "gap", "dipole"]


@dataclass(frozen=True)
class TargetUnit:
    """How a label of the store is converted for learning.

    Attributes
    ----------
    key : str
        Name of a value in predictions, with its unit.
    unit : str
        The unit, for people.
    factor : float
        Stored value (atomic units) times this is in the unit.
    """

    key: str
    unit: str
    factor: float

    @property
    def suffix(self) -> str:
        """The unit as part of a name."""
        return self.key.partition("_")[2]


_FORCE = EV_PER_HARTREE / ANGSTROM_PER_BOHR

TARGETS: Mapping[Target, TargetUnit] = MappingProxyType(
    {
        "energy": TargetUnit("energy_ev", "eV", EV_PER_HARTREE),
        "forces": TargetUnit("forces_ev_per_angstrom", "eV/Angstrom", _FORCE),
        "homo": TargetUnit("homo_ev", "eV", EV_PER_HARTREE),
        "lumo": TargetUnit("lumo_ev", "eV", EV_PER_HARTREE),
        "gap": TargetUnit("gap_ev", "eV", EV_PER_HARTREE),
        "dipole": TargetUnit("dipole_debye", "Debye", DEBYE_PER_ATOMIC_UNIT),
    }
)
"""Every target by its column in the store, in the order that models and tables have."""
SCALARS: tuple[Target, ...] = ("energy", "homo", "lumo", "gap")
"""Targets with one number a structure. Forces have three an atom, the dipole three."""


def mae_name(split: str, target: Target) -> str:
    """Name of a target's mean absolute error, such as ``val_gap_mae_ev``.

    That of forces and dipoles is the mean over components.
    """
    return f"{split}_{target}_mae_{TARGETS[target].suffix}"
