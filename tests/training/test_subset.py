from dataclasses import replace

import numpy as np
import pytest

from qmgen.dataset import open_dataset
from qmgen.errors import ConfigError
from qmgen.training import select_rows, training_subset
from tests.training.synthetic import molecule


@pytest.fixture(scope="module")
def dataset(write):
    records = [molecule(i, nconf=1 + i % 5) for i in range(60)]
    records[7] = replace(records[7], z=np.array([9, *records[7].z[1:]], dtype=np.uint8))
    return open_dataset(write(records, (1.0, 0.0, 0.0)))


@pytest.fixture(scope="module")
def train(dataset):
    return select_rows(dataset, "train", ["gap"])


def test_smaller_sets_are_parts_of_larger_ones(dataset, train):
    before: set[int] = set()
    for size in (10, 11, 20, 40, 80, 160, len(train)):
        subset = training_subset(dataset, train, conformers=size, seed=3)
        rows = set(subset.rows.tolist())
        assert before <= rows <= set(train.rows.tolist())
        # Whole molecules: the next one, of at most 5 conformers, did not fit.
        assert size - 5 < len(rows) <= size
        for number in np.unique(subset.molecules):
            assert set(dataset.conformers_of(number)) <= rows
        np.testing.assert_array_equal(
            subset.scalars["gap"], train.scalars["gap"][np.isin(train.rows, subset.rows)]
        )
        before = rows
    assert before == set(train.rows.tolist())


def test_molecules_are_counted(dataset, train):
    few = training_subset(dataset, train, molecules=4, seed=3)
    more = training_subset(dataset, train, molecules=9, seed=3)
    assert (few.num_molecules, more.num_molecules) == (4, 9)
    assert set(few.rows) <= set(more.rows)
    other = training_subset(dataset, train, molecules=9, seed=4)
    assert set(other.molecules) != set(more.molecules)


def test_every_element_is_in_the_smallest_set(dataset, train):
    # One molecule of 60 has fluorine: 4 of 60 would have it by chance in one case of 15.
    for seed in range(20):
        subset = training_subset(dataset, train, molecules=4, seed=seed)
        assert subset.elements == train.elements == (1, 6, 8, 9)
    assert training_subset(dataset, train, molecules=1, seed=0).elements != train.elements


def test_too_many_are_refused(dataset, train):
    with pytest.raises(ConfigError, match=r"61 molecules are asked for .* has 60"):
        training_subset(dataset, train, molecules=61)
    with pytest.raises(ConfigError, match="conformers are asked for"):
        training_subset(dataset, train, conformers=len(train) + 1)
    assert training_subset(dataset, train) is train
