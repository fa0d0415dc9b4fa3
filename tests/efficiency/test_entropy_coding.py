"""A uniform grid, entropy-coded: figures of the paper's formulas, bounds and budgets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("constriction")

from qmgen.efficiency.codebooks import LAPLACE, NORMAL, Distribution, student_t
from qmgen.efficiency.entropy_coding import (
    EntropyCoded,
    compress,
    decompress,
    step_for_bits,
    step_for_bound,
)
from qmgen.errors import InputError
from tests.efficiency.distributions import numbers


def relative_error(x: np.ndarray, coded: EntropyCoded) -> float:
    return float(np.linalg.norm(decompress(coded) - x) / np.linalg.norm(x))


@pytest.mark.parametrize(
    ("distribution", "expected", "tolerance"),
    [(NORMAL, 0.0686, 0.003), (LAPLACE, 0.0638, 0.003), (student_t(5.0), 0.066, 0.01)],
)
def test_errors_at_four_bits_and_an_eighth(
    distribution: Distribution, expected: float, tolerance: float
) -> None:
    x = numbers(distribution, (1 << 18,))
    coded = compress(x, step_for_bits(x, 4.125))
    assert coded.bits / x.size == pytest.approx(4.125, abs=1e-3)
    assert relative_error(x, coded) == pytest.approx(expected, rel=tolerance)


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=9),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    st.floats(1e-3, 10.0),
)
@settings(max_examples=60, deadline=None)
def test_no_error_is_larger_than_the_bound(x: np.ndarray, bound: float) -> None:
    coded = compress(x, step_for_bound(bound))
    back = decompress(coded)
    assert back.shape == x.shape
    assert np.abs(back - x).max() <= bound * (1 + 1e-9)
    again = compress(back, coded.step)
    np.testing.assert_array_equal(decompress(again), back)


@pytest.mark.parametrize("bits", [1.5, 3.0, 8.0])
def test_small_arrays_keep_to_their_budget(bits: float) -> None:
    x = numbers(NORMAL, (64, 64))
    coded = compress(x, step_for_bits(x, bits))
    assert 0.95 * bits < coded.bits / x.size < 1.02 * bits


def test_bad_arrays() -> None:
    with pytest.raises(InputError, match="finite"):
        compress(np.array([1.0, np.nan]), 0.1)
    with pytest.raises(InputError, match="too large"):
        compress(np.array([1e30]), 1e-3)
    with pytest.raises(InputError, match="positive"):
        compress(np.ones(3), 0.0)
    with pytest.raises(InputError, match="header"):
        step_for_bits(np.arange(4.0), 2.0)
    coded = compress(np.arange(6.0), 1.0)
    with pytest.raises(InputError, match="shape"):
        decompress(EntropyCoded((4,), 1.0, coded.data))
    assert not decompress(compress(np.zeros((3, 2)), step_for_bits(np.zeros((3, 2)), 2.0))).any()
