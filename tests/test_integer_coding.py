"""Integers through the entropy coder: exactly the same, in about as few bits as can be."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("constriction")

from qmgen.errors import InputError, MissingExtraError
from qmgen.integer_coding import coded_bits, decode_integers, encode_integers, shannon_bits

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    hnp.arrays(np.int64, st.integers(0, 60), elements=INT64)
    | hnp.arrays(np.int64, st.integers(0, 200), elements=st.integers(-3, 3))
    | hnp.arrays(np.int64, (7, 11), elements=st.integers(0, 10**6))
)
@settings(max_examples=150, deadline=None)
def test_round_trip_is_exact(integers: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_integers(encode_integers(integers)), integers.ravel())


@pytest.mark.parametrize("spread", [0.4, 3.0, 40.0, 1e3, 1e6])
def test_size_is_near_the_bound(spread: float) -> None:
    rng = np.random.default_rng(0)
    integers = np.rint(spread * rng.laplace(size=1 << 17)).astype(np.int64)
    size = 8 * len(encode_integers(integers))
    # The entropy of the distribution itself: frequencies of rare integers would look too good.
    density = np.log2(2 * np.e * spread)
    bound = shannon_bits(integers) if spread < 100 else density * integers.size
    assert 0.998 * bound < size < 1.005 * bound
    assert coded_bits(integers) == pytest.approx(size, rel=1e-3)


def test_rare_integers_far_away_cost_little() -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-2, 3, 10_000)
    integers[[5, 77]] = [10**5, -(10**5)]
    data = encode_integers(integers)
    np.testing.assert_array_equal(decode_integers(data), integers)
    assert len(data) < 10_000


def test_damage_that_shows() -> None:
    data = encode_integers(np.arange(1000) % 17)
    for bad in (b"", data[:10], data[:-3], data[: len(data) // 2], b"\x00" * 50, data + b"1"):
        with pytest.raises(InputError, match="damaged"):
            decode_integers(bad)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    integers = np.arange(1000) % 17
    data = encode_integers(integers)
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (lambda: encode_integers(integers), lambda: decode_integers(data)):
        with pytest.raises(MissingExtraError, match="entropy"):
            call()
    # A single integer needs no coder.
    assert decode_integers(encode_integers(np.full(9, -5))).tolist() == [-5] * 9
