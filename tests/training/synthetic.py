"""Synthetic molecules whose labels a small network can learn."""

import numpy as np

from qmgen.dataset import MoleculeRecord, empty_conformers
from qmgen.units import BOHR_PER_ANGSTROM

REFERENCES = {1: -0.5, 6: -37.8, 8: -75.0}
"""Energy of an atom in the synthetic stores, Hartree."""


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path).startswith(os.path.dirname(__file__)):
            for message in QUIET:
                item.add_marker(pytest.mark.filterwarnings(message))


def exponential_sum(z, positions_angstrom):
    """Mean over atoms of the sum over neighbours of Z_j-weighted exp(-r)."""
    r = np.linalg.norm(positions_angstrom[:, None] - positions_angstrom, axis=-1)
    weights = np.exp(-r) * np.sqrt(z)[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights.sum() / len(z)


def molecule(number, nconf=4, seed=0, elements=(1, 6, 8)):
    rng = np.random.default_rng([seed, number])
    nat = int(rng.integers(1, 7)) if number else 1  # the first is a single atom
    z = rng.choice(np.array(elements, dtype=np.uint8), nat)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), axis=-1).reshape(-1, 3)
    values = empty_conformers(nat, nao=nat, nconf=nconf)
    values["index"][:] = np.arange(nconf)
    values["converged"][:] = True
    for i in range(nconf):
        sites = grid[rng.permutation(8)[:nat]] * rng.uniform(0.9, 1.8)
        positions = sites + rng.normal(scale=0.08, size=(nat, 3)) + rng.normal(scale=5, size=3)
        values["pos"][i] = positions * BOHR_PER_ANGSTROM
        values["gap"][i] = 0.3 + 0.2 * exponential_sum(z, positions)
        values["energy"][i] = sum(REFERENCES[int(number)] for number in z)
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
