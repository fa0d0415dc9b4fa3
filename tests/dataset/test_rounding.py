"""Rounded labels are within their bound, whatever they are, and stay what they are."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qmgen.dataset import open_dataset, verify_store
from qmgen.dataset.manifest import found_files, manifest_bytes
from qmgen.dataset.rounding import rounded, rounding_step

BOUNDS = st.floats(1e-300, 1e6)


@settings(max_examples=300, deadline=None)
@given(arrays.arrays(np.float64, st.integers(0, 40), elements=st.floats(width=64)), BOUNDS)
def test_the_bound_holds_for_every_value(values, bound):
    result = rounded(values, bound)
    assert result.shape == values.shape
    assert result.dtype == np.float64
    finite = np.isfinite(values)
    np.testing.assert_array_equal(result[~finite], values[~finite])
    assert (np.abs(result[finite] - values[finite]) <= bound).all()
    np.testing.assert_array_equal(rounded(result, bound), result)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float64, 20, elements=st.floats(-1e4, 1e4)), st.floats(1e-12, 1))
def test_values_are_multiples_of_a_power_of_two(values, bound):
    step = rounding_step(bound)
    assert bound < step <= 2 * bound
    assert np.frexp(step)[0] == 0.5
    multiples = rounded(values, bound) / step
    np.testing.assert_array_equal(multiples, np.rint(multiples))


def test_known_values():
    values = np.array([0.3, 0.125, 0.375, -0.3, 1e-9, -1e-300, 0.0, np.nan, np.inf, 1e300])
    expected = np.array([0.25, 0.0, 0.5, -0.25, 0.0, 0.0, 0.0, np.nan, np.inf, 1e300])
    # Steps of a quarter; a tie goes to the even multiple.
    np.testing.assert_array_equal(rounded(values, 0.125), expected)


@pytest.fixture
def bounds():
    return {"pos": 1e-5, "energy": 1e-9, "mulliken_charges": 1e-4}


def test_a_store_keeps_to_its_bounds(make_records, write, bounds):
    records = make_records(12)
    records[0].conformers["mulliken_charges"][...] = np.nan
    plain, store = open_dataset(write(records)), write(records, name="rounded", precision=bounds)
    dataset = open_dataset(store)
    assert dataset.metadata.precision == bounds
    for name in plain.columns:
        before, after = plain.column(name), dataset.column(name)
        if name in bounds:
            np.testing.assert_allclose(after, before, rtol=0, atol=bounds[name])
            attributes = dataset._arrays["conformers"][name].attrs
            assert attributes["largest_rounding_error"] == bounds[name]
            assert (before != after).any()
        else:
            np.testing.assert_array_equal(after, before)
    assert verify_store(store).intact


def test_labels_that_are_not_rounded_as_is_said_are_found(make_records, write, bounds):
    store = write(make_records(12), precision=bounds)
    energies = zarr.open_array(store / "conformers" / "energy", mode="r+")
    energies[3] = energies[3] + 1e-12
    attributes = json.loads((store / "zarr.json").read_text())["attributes"]
    (store / "manifest/zarr.json").write_bytes(manifest_bytes(found_files(store), attributes))
    (problem,) = verify_store(store).contradictions
    assert "conformers/energy is not rounded" in problem
