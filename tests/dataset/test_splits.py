import numpy as np
import pytest

from qmgen.dataset import assign_splits
from qmgen.errors import ConfigError


def test_equal_keys_share_a_split_in_any_order():
    keys = [f"C{i % 40}" for i in range(100)]
    codes = assign_splits(keys, seed=3)
    assert len({*zip(keys, codes.tolist(), strict=True)}) == 40
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(assign_splits([keys[i] for i in order], seed=3), codes[order])


def test_shares_and_seed():
    keys = [f"C{i}" for i in range(1000)]
    codes = assign_splits(keys, seed=0)
    assert codes.dtype == np.uint8
    assert np.bincount(codes).tolist() == [800, 100, 100]
    assert (codes != assign_splits(keys, seed=1)).any()


def test_known_values_stay():
    # Published splits must not move between versions.
    codes = assign_splits([f"C{i}" for i in range(12)], seed=42)
    assert codes.tolist() == [0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_small_sets_fill_every_split(count):
    codes = assign_splits([str(i) for i in range(count)], seed=0, fractions=(0.98, 0.01, 0.01))
    assert set(codes.tolist()) == {0, 1, 2}


def test_no_share_stays_empty():
    codes = assign_splits([str(i) for i in range(9)], seed=0, fractions=(0.5, 0.0, 0.5))
    assert set(codes.tolist()) == {0, 2}


@pytest.mark.parametrize("keys", [[], ["C"], ["C", "C"], ["C", "N"]])
def test_fewer_keys_than_splits(keys):
    assert len(assign_splits(keys, seed=0)) == len(keys)


@pytest.mark.parametrize("fractions", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(ConfigError, match="sum 1"):
        assign_splits(["C"], seed=0, fractions=fractions)
