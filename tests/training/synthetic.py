"""Synthetic molecules whose labels a small network can learn."""

import numpy as np

from qmgen.dataset import MoleculeRecord, empty_conformers
from qmgen.units import ANGSTROM_PER_BOHR, BOHR_PER_ANGSTROM

REFERENCES = {1: -0.5, 6: -37.8, 8: -75.0}
"""Energy of an atom in the synthetic stores, Hartree."""


def exponential_sum(z, positions_angstrom):
    """Mean over atoms of the sum over neighbours of Z_j-weighted exp(-r)."""
    r = np.linalg.norm(positions_angstrom[:, None] - positions_angstrom, axis=-1)
    weights = np.exp(-r) * np.sqrt(z)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights.sum() / len(z)


def pair_labels(z, positions_angstrom):
    """Energy of a repulsion exp(-r) sqrt(Z_i Z_j) / 20, its forces, and a dipole of its bonds."""
    charge = z.astype(float)
    away = positions_angstrom[:, None] - positions_angstrom
    r = np.linalg.norm(away, axis=-1)
    decay = np.exp(-r)
    np.fill_diagonal(decay, 0.0)
    np.fill_diagonal(r, 1.0)
    pair = 0.05 * decay * np.sqrt(np.outer(charge, charge))
    forces = (away * (pair / r)[..., None]).sum(axis=1) * ANGSTROM_PER_BOHR
    bonds = 0.1 * decay * (charge[None, :] - charge[:, None])
    return pair.sum() / 2, forces, (away * bonds[..., None]).sum(axis=(0, 1)) / 2


def molecule(number, nconf=4, seed=0, elements=(1, 6, 8), pairs=False):
    """A molecule; with `pairs` its energy has that of `pair_labels` and there are forces."""
    rng = np.random.default_rng([seed, number])
    nat = int(rng.integers(1, 7)) if number else 1  # the first is a single atom
    z = rng.choice(np.array(elements, dtype=np.uint8), nat)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
    values = empty_conformers(nat, nat, nconf, ("forces",) if pairs else ())
    values["index"][:] = np.arange(nconf)
    values["converged"][:] = True
    for i in range(nconf):
        sites = grid[rng.permutation(8)[:nat]] * rng.uniform(0.9, 1.8)
        positions = sites + rng.normal(scale=0.08, size=(nat, 3)) + rng.normal(scale=5, size=3)
        values["pos"][i] = positions * BOHR_PER_ANGSTROM
        values["gap"][i] = 0.3 + 0.2 * exponential_sum(z, positions)
        values["energy"][i] = sum(REFERENCES[int(number)] for number in z)
        if pairs:
            energy, values["forces"][i], values["dipole"][i] = pair_labels(z, positions)
            values["energy"][i] += energy
    values["homo"][:] = -0.2
    values["lumo"][:] = values["homo"] + values["gap"]
    return MoleculeRecord(
        line=number + 1,
        source_id=f"m{number}",
        smile=f"S{number}",
        charge=0,
        spin=0,
        z=z,
        nao=nat,
        conformers=values,
    )
