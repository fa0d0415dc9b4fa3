import numpy as np
import pytest
import torch
from schnetpack.transform import MatScipyNeighborList
from scipy.spatial import cKDTree

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
def test_a_large_number_keeps_all(positions, k):
    z = np.ones(30, dtype=int)
    ours = structure_inputs(z, positions, NeighborList(4.0, k))
    names = (properties.idx_i, properties.idx_j, properties.offsets)
    bare = {key: value for key, value in ours.items() if key not in names}
    theirs = MatScipyNeighborList(cutoff=4.0)(bare)
    assert all(torch.equal(ours[key], theirs[key]) for key in names)
