"""Density matrices to start the SCF from."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from pyscf import gto
from pyscf.data.elements import ELEMENTS
from pyscf.scf import atom_hf

from qmgen.dft.basis import Basis, PrimitiveShell, basis_from_shells
from qmgen.dft.integrals import libcint_cross_overlap

Positions = Float[np.ndarray, "nconf nat 3"]


@lru_cache(maxsize=128)
def _minimal_atom(atomic_number: int) -> tuple[list[PrimitiveShell], tuple[float, ...]]:
    """Minimal ANO shells of a free atom and the occupation of each of their orbitals.

    The occupied contractions of PySCF's ANO basis plus one that may be partly filled, with the
    atom's shells filled spherically.
    """
    symbol = ELEMENTS[atomic_number]
    contractions: dict[int, list[list[float]]] = {}
    for shell in gto.basis.load("ano", symbol):
        contractions.setdefault(shell[0], []).extend(shell[1:])
    shells: list[PrimitiveShell] = []
    occupation: list[float] = []
    for angular in range(4):
        doubly, fraction = atom_hf.frac_occ(symbol, angular)
        if angular not in contractions or (doubly == 0 and fraction == 0):
            continue
        kept = doubly + (1 if fraction > 0 else 0)
        shells.append([angular, *(row[: 1 + kept] for row in contractions[angular])])
        for level in [2.0] * doubly + [fraction] * (kept - doubly):
            occupation += [level] * (2 * angular + 1)
    return shells, tuple(occupation)


def minao_density(
    atomic_numbers: Int[np.ndarray, " nat"],
    basis: Basis,
    positions: Positions,
    overlap: Float[np.ndarray, "nconf nao nao"],
) -> Float[np.ndarray, "nconf nao nao"]:
    """Superposed free-atom densities in a minimal ANO basis, projected onto the basis.

    The guess that PySCF calls ``minao`` (Almlöf, Faegri, Korsell 1982; van Lenthe et al. 2006).

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    basis
        The molecule's basis.
    positions
        Of its conformers, Bohr.
    overlap
        Overlap of the basis' orbitals.
    """
    atoms = {int(z): _minimal_atom(int(z)) for z in np.unique(atomic_numbers)}
    minimal = basis_from_shells(atomic_numbers, {z: shells for z, (shells, _) in atoms.items()})
    occupation = np.concatenate([atoms[int(z)][1] for z in atomic_numbers])
    densities = []
    for conformer, S in zip(positions, overlap, strict=True):
        try:
            C = np.linalg.solve(S, libcint_cross_overlap(basis, minimal, conformer))
        except np.linalg.LinAlgError:
            # Coincident nuclei: the conformer ends as not converged, and its mates go on.
            C = np.full((basis.nao, len(occupation)), np.nan)
        densities.append((C * occupation) @ C.T)
    return np.stack(densities)
