"""A molecule as the input file states it, and a record that states none."""

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

MAX_TEXT_LENGTH = 200


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule to be labelled.

    Parameters
    ----------
    smiles : str
        RDKit-canonical isomeric SMILES without explicit hydrogens, other than those that carry an
        isotope or the E/Z label of an imine. Empty for an xyz geometry whose bonds RDKit can't
        perceive.
    atomic_numbers : (nat,) int64
        All atoms, hydrogens included. Without a geometry the order is the one that RDKit's
        ``AddHs`` gives for the molecule parsed from `smiles`; with one, the file's order.
    charge : int
        Net charge, elementary charges.
    spin : int
        2S, the number of unpaired electrons.
    line : int
        1-based line of the source file at which the record starts, 0 if there is no file.
    source_id : str
        Id column, SDF title or xyz comment; empty if there is none.
    positions_angstrom : (nat, 3) float64 or None
        Geometry that the file gives, Angstrom.
    """

    smiles: str
    atomic_numbers: Int[np.ndarray, " nat"]
    charge: int
    spin: int
    line: int
    source_id: str
    positions_angstrom: Float[np.ndarray, "nat 3"] | None

    @property
    def nelectron(self) -> int:
        """Number of electrons."""
        return int(self.atomic_numbers.sum()) - self.charge

    def to_json(self) -> str:
        """Write the molecule as one line of JSON; `from_json` gets every bit back.

        Python writes a float64 with the fewest digits that read back as the same number.
        """
        positions = self.positions_angstrom
        return json.dumps(
            {
                "smiles": self.smiles,
                "atomic_numbers": self.atomic_numbers.tolist(),
                "charge": self.charge,
                "spin": self.spin,
                "line": self.line,
                "source_id": self.source_id,
                "positions_angstrom": None if positions is None else positions.tolist(),
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> "Molecule":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["atomic_numbers"] = np.array(fields["atomic_numbers"], dtype=np.int64)
        if fields["positions_angstrom"] is not None:
            positions = np.array(fields["positions_angstrom"], dtype=np.float64)
            fields["positions_angstrom"] = positions.reshape(-1, 3)
        return cls(**fields)


@dataclass(frozen=True)
class RejectedRecord:
    """A record of an input file that gives no molecule.

    Parameters
    ----------
    line : int
        1-based line of the source file at which the record starts.
    text : str
        The offending text, cut to 200 characters.
    reason : str
        What is wrong with it.
    source_id : str
        Id of the record, as far as one was read.
    """

    line: int
    text: str
    reason: str
    source_id: str = ""

    def __post_init__(self) -> None:
        # A broken file can put megabytes on one line; reports and run databases must not.
        object.__setattr__(self, "text", self.text[:MAX_TEXT_LENGTH])


def count_unpaired(nelectron: int, nradical: int) -> int:
    """Give 2S from the radical electrons of a bond graph.

    RDKit assigns no radical electrons to metals, so an odd electron count may lack its unpaired
    electron; parity settles that.
    """
    return nradical + (nelectron - nradical) % 2


def unsupported_reason(molecule: Molecule) -> str | None:
    """Say why the engine can't label a valid molecule yet, or None if it can."""
    if molecule.nelectron < 1:
        return "no electrons"
    return None
