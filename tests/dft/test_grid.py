import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyscf import dft

from qmgen.dft.grid import becke_weights, grid_size, grid_table
from tests.dft.systems import embed, pyscf_molecule


@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.parametrize("smiles", ["FCCl", "CSO", "C#N", "[H]P([H])[H]"])
def test_points_and_weights_equal_pyscf(smiles: str, level: int) -> None:
    z, positions, _ = embed(smiles)
    reference = dft.Grids(pyscf_molecule(z, positions[0], "sto-3g"))
    reference.level = level
    reference.build(sort_grids=False)
    n = grid_size(z, level)
    table = grid_table(z, level, natoms=len(z) + 2, npoints=n + 100)
    table = jax.tree.map(jnp.asarray, table)
    atoms = jnp.pad(positions[0], ((0, 2), (0, 0)))
    points = table.points + atoms[table.point_atom]
    weights = becke_weights(table, atoms, points, table.volumes, table.point_atom)
    # PySCF appends points of weight 0 to fill its last block.
    np.testing.assert_allclose(points[:n], reference.coords[:n], atol=1e-13)
    assert not np.any(reference.weights[n:])
    # Rounding: the largest weights are of order 100.
    np.testing.assert_allclose(weights[:n], reference.weights[:n], atol=1e-11)
    assert not np.any(weights[n:]), "padded points must have no weight"


def test_weights_share_out_all_of_space() -> None:
    """A normalised Gaussian integrates to one wherever it sits in the molecule."""
    z, positions, _ = embed("CCO")
    n = grid_size(z, 3)
    table = jax.tree.map(jnp.asarray, grid_table(z, 3, len(z), n))
    atoms = jnp.asarray(positions[0])
    points = table.points + atoms[table.point_atom]
    weights = becke_weights(table, atoms, points, table.volumes, table.point_atom)
    for centre in (positions[0][0], positions[0][:3].mean(axis=0)):
        gaussian = np.exp(-np.sum((points - centre) ** 2, axis=1)) / np.pi**1.5
        # Grid error of level 3.
        assert np.sum(weights * gaussian) == pytest.approx(1, abs=1e-4)
