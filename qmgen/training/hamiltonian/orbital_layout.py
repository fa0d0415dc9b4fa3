"""Where a molecule's orbitals stand in blocks of equal size, and how those turn with the molecule.

Each atom has the same slots: as many shells of each angular momentum as the element with the most.
A matrix over a molecule's orbitals is then one block for each pair of atoms, whose slots that an
atom lacks are empty. Slots of a shell are in the order of m = -l, ..., l, as e3nn has them when it
is given the coordinates (y, z, x).
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float, Int

from qmgen.dft.basis import Basis, build_basis
from qmgen.errors import UnsupportedMoleculeError

_E3NN_ORDER = [1, 2, 0]
# Where px, py, pz stand among m = -1, 0, 1.
_P_PLACES = (2, 0, 1)


@dataclass(frozen=True)
class OrbitalSlots:
    """Slots of an atom.

    Attributes
    ----------
    shells : tuple of int
        Number of shells of each angular momentum, from s on.
    """

    shells: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of slots of an atom."""
        return sum(n * (2 * degree + 1) for degree, n in enumerate(self.shells))

    def starts(self) -> list[tuple[int, int]]:
        """Angular momentum and first slot of each shell."""
        result, start = [], 0
        for degree, n in enumerate(self.shells):
            for _ in range(n):
                result.append((degree, start))
                start += 2 * degree + 1
        return result


def slots_of_elements(elements: tuple[int, ...], basis: str) -> OrbitalSlots:
    """Slots that are enough for atoms of some elements in a basis of pure functions."""
    shells: list[int] = []
    for z in elements:
        atom = build_basis(np.array([z], np.int32), basis, ())
        counts = np.bincount(atom.shell_l).tolist()
        shells = [max(pair) for pair in zip_longest(shells, counts, fillvalue=0)]
    return OrbitalSlots(tuple(shells))


def slot_places(basis: Basis, slots: OrbitalSlots) -> Int[np.ndarray, " nao"]:
    """Slot of each orbital of a molecule, counted through all its atoms.

    Raises
    ------
    UnsupportedMoleculeError
        The basis has Cartesian functions, which turn with others, or more shells than slots.
    """
    if basis.cartesian:
        raise UnsupportedMoleculeError(
            f"Cartesian functions of angular momenta {basis.cartesian}: networks predict matrices "
            "over pure functions only"
        )
    first: dict[int, int] = {}
    for degree, start in slots.starts():
        first.setdefault(degree, start)
    places = []
    seen: dict[tuple[int, int], int] = {}
    for atom, degree in zip(basis.shell_atom.tolist(), basis.shell_l.tolist(), strict=True):
        number = seen.get((atom, degree), 0)
        seen[atom, degree] = number + 1
        if degree >= len(slots.shells) or number >= slots.shells[degree]:
            raise UnsupportedMoleculeError(
                f"atomic number {basis.atomic_numbers[atom]} has more shells than the elements "
                "that the network was made for"
            )
        within = _P_PLACES if degree == 1 else range(2 * degree + 1)
        shell = atom * slots.size + first[degree] + number * (2 * degree + 1)
        places += [shell + m for m in within]
    return np.array(places, np.int64)


Key = tuple[int, int]
"""Degree L and parity of a tensor."""


@dataclass(frozen=True, eq=False)
class BlockTensors:
    """A block as tensors of definite degree and parity, by an orthogonal matrix.

    Attributes
    ----------
    matrix : Float[size**2, size**2]
        From a block, row by row, to its tensors one after the other.
    number : dict of (int, int) to int
        How many tensors there are of each degree and parity, in that order; each has its 2 L + 1
        components side by side.
    """

    matrix: Float[np.ndarray, "nblock nblock"]
    number: dict[Key, int]


@lru_cache(maxsize=8)
def block_tensors(slots: OrbitalSlots) -> BlockTensors:
    """Couple the angular momenta of rows and columns (Clebsch and Gordan)."""
    size = slots.size
    parts: dict[Key, list[Float[np.ndarray, "component size size"]]] = {}
    for l1, row in slots.starts():
        for l2, column in slots.starts():
            for L in range(abs(l1 - l2), l1 + l2 + 1):
                coupled = np.zeros((2 * L + 1, size, size))
                # Orthonormal, once scaled: its squares sum up to one.
                w = o3.wigner_3j(l1, l2, L, dtype=torch.float64).numpy() * np.sqrt(2 * L + 1)
                rows, columns = slice(row, row + 2 * l1 + 1), slice(column, column + 2 * l2 + 1)
                coupled[:, rows, columns] = w.transpose(2, 0, 1)
                parts.setdefault((L, (-1) ** (l1 + l2)), []).append(coupled)
    keys = sorted(parts)
    stacked = np.concatenate([np.concatenate(parts[key]) for key in keys])
    return BlockTensors(
        stacked.reshape(size * size, size * size), {key: len(parts[key]) for key in keys}
    )


def spherical_harmonics(
    degree: int, vectors: Float[torch.Tensor, "n 3"]
) -> Float[torch.Tensor, "n component"]:
    """Real spherical harmonics of the directions of vectors, in the order of slots."""
    return o3.spherical_harmonics(
        degree, vectors[:, _E3NN_ORDER], normalize=True, normalization="component"
    )
