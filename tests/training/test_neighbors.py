import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from qmgen.training import neighbors
from qmgen.training.inputs import properties, structure_inputs
from qmgen.training.neighbors import NeighborList


@pytest.fixture
def positions():
    return np.random.default_rng(0).normal(scale=2.0, size=(30, 3))


@pytest.mark.parametrize(("cutoff", "k"), [(3.0, 4), (15.0, 7), (0.8, 3)])
def test_the_nearest_are_kept(positions, cutoff, k):
    inputs = structure_inputs(np.ones(30, dtype=int), positions, NeighborList(cutoff, k))
    distances, indices = cKDTree(positions).query(positions, k + 1, distance_upper_bound=cutoff)
    expected = {
        (i, int(indices[i, n]))
        for i in range(30)
        for n in range(1, k + 1)
        if distances[i, n] < cutoff
    }
    i, j = inputs[properties.idx_i], inputs[properties.idx_j]
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected
    assert len(i) == len(expected)
    assert len(inputs[properties.offsets]) == len(expected)
    assert i.tolist() == sorted(i.tolist())


@pytest.mark.parametrize("k", [None, 29, 100])
def test_a_large_number_keeps_all(positions, k, monkeypatch):
    from schnetpack.transform import MatScipyNeighborList  # after qmgen.training, see _backend.py

    z = np.ones(30, dtype=int)
    ours = structure_inputs(z, positions, NeighborList(4.0, k))
    theirs = MatScipyNeighborList(cutoff=4.0)(
        {
            properties.Z: ours[properties.Z],
            properties.R: ours[properties.R],
            properties.cell: torch.zeros(1, 3, 3),
            properties.pbc: torch.zeros(3, dtype=torch.bool),
        }
    )
    found, expected = (
        list(zip(x[properties.idx_i].tolist(), x[properties.idx_j].tolist(), strict=True))
        for x in (ours, theirs)
    )
    assert found == sorted(expected)
    # Large molecules are done a few atoms at a time.
    monkeypatch.setattr(neighbors, "_DISTANCES", 70)
    parts = structure_inputs(z, positions, NeighborList(4.0, k))
    assert all(torch.equal(ours[key], parts[key]) for key in ours)


def test_equally_near_ones_come_in_order():
    square = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    i, j = NeighborList(5.0, 1).pairs(square)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 0), (3, 1)]
