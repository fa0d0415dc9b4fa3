"""Outliers beside any format."""

import numpy as np
import pytest

from qmgen.efficiency.codebooks import NORMAL, rms_codebook
from qmgen.efficiency.element import BFLOAT16
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.quantise import bits_per_element, fake_quantise
from qmgen.efficiency.signal_to_noise import relative_rms_error
from qmgen.efficiency.sparse_outliers import (
    SparseFormat,
    dequantise_sparse,
    quantise_sparse,
    sparse_bits_per_element,
)
from qmgen.errors import InputError
from tests.efficiency.distributions import numbers

FORMAT = Format(rms_codebook(NORMAL, 16), ScaleFormat(BFLOAT16, "rms", 1.0))


def test_outliers_are_kept_and_others_as_if_they_were_not_there() -> None:
    x = numbers(NORMAL, (50, 100))
    places = np.random.default_rng(0).choice(x.size, 5, replace=False)
    x.ravel()[places] = [100, -300, 55.55, 1e4, -77]
    quantised = quantise_sparse(x, SparseFormat(FORMAT))
    assert sorted(quantised.places.tolist()) == sorted(places.tolist())
    values = np.asarray(dequantise_sparse(quantised)).ravel()
    np.testing.assert_allclose(values[places], x.ravel()[places], rtol=2**-8)
    others = x.copy()
    others.ravel()[places] = 0
    alone = np.asarray(fake_quantise(others, FORMAT)).ravel()
    np.testing.assert_array_equal(np.delete(values, places), np.delete(alone, places))
    error = float(relative_rms_error(others, np.asarray(alone).reshape(x.shape)))
    assert error < 0.11
    # With outliers in the scale nearly all is lost.
    lost = np.delete(np.asarray(fake_quantise(x, FORMAT)).ravel() - x.ravel(), places)
    assert np.sqrt(np.mean(lost**2)) > 5 * error


def test_bits_count_values_and_places() -> None:
    sparse = SparseFormat(FORMAT)
    assert sparse_bits_per_element(sparse, (50, 100)) == 4 + 16 / 5000 + 48 * 5 / 5000
    none = SparseFormat(FORMAT, share=0.0)
    assert sparse_bits_per_element(none, (8, 8)) == bits_per_element(FORMAT, (8, 8))
    with pytest.raises(InputError, match="share"):
        SparseFormat(FORMAT, share=1.5)
    with pytest.raises(InputError, match="32-bit"):
        sparse.count((1 << 16, 1 << 16))
