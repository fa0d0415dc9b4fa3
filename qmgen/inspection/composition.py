"""What molecules consist of, and how much of their energy follows from that."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer

from qmgen.dataset.export import SYMBOLS


@dataclass(frozen=True, eq=False)
class Composition:
    """Atoms of each element in several molecules.

    Attributes
    ----------
    elements : Int64[nelement]
        Atomic numbers, ascending.
    counts : Int64[n, nelement]
        Atoms a molecule.
    """

    elements: Int64[np.ndarray, " nelement"]
    counts: Int64[np.ndarray, "n nelement"]

    @property
    def heavy(self) -> Int64[np.ndarray, " n"]:
        """Atoms other than hydrogen."""
        return self.counts[:, self.elements != 1].sum(axis=1)


def composition(
    numbers: Integer[np.ndarray, " total"], atom_offset: Int64[np.ndarray, " bounds"]
) -> Composition:
    """Count elements in molecules whose atomic numbers are flat, cut by offsets."""
    elements, inverse = np.unique(numbers.astype(np.int64), return_inverse=True)
    n = atom_offset.size - 1
    molecule = np.repeat(np.arange(n), np.diff(atom_offset))
    flat = np.bincount(molecule * elements.size + inverse, minlength=n * elements.size)
    return Composition(elements, flat.astype(np.int64).reshape(n, elements.size))


def composition_residual(
    counts: Integer[np.ndarray, "n nelement"],
    charge: Integer[np.ndarray, " n"],
    energy: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Give what is left of energies after a linear fit on composition and charge.

    NaN where the energy is not finite.
    """
    # Charge is left out where it is the same everywhere: composition then has the constant.
    columns = [counts, charge[:, np.newaxis]] if np.unique(charge).size > 1 else [counts]
    design = np.hstack(columns).astype(np.float64)
    known = np.isfinite(energy)
    coefficients, *_ = np.linalg.lstsq(design[known], energy[known], rcond=None)
    return np.asarray(energy - design @ coefficients)


def formula(numbers: Integer[np.ndarray, " nat"]) -> str:
    """Molecular formula by Hill: carbon, hydrogen, then by symbol."""
    elements, counts = np.unique(numbers, return_counts=True)
    count = {
        str(SYMBOLS[z]) if z < len(SYMBOLS) else f"[{z}]": n
        for z, n in zip(elements.tolist(), counts.tolist(), strict=True)
    }
    first = ("C", "H") if "C" in count else ()
    order = sorted(count, key=lambda s: (first.index(s) if s in first else len(first), s))
    return "".join(f"{symbol}{count[symbol] if count[symbol] > 1 else ''}" for symbol in order)
