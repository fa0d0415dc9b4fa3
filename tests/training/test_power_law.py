import numpy as np
import pytest

from qmgen.errors import InputError
from qmgen.training.power_law import fit_power_law, fit_power_law_with_floor

SIZES = [250, 500, 1000, 2000, 4000, 8000]


def test_exact_law_is_found():
    law = fit_power_law(SIZES, [3.0 * n**-0.37 for n in SIZES])
    assert law.factor == pytest.approx(3.0)
    assert law.exponent == pytest.approx(0.37)
    assert law.exponent_error == pytest.approx(0.0, abs=1e-7)
    assert law(np.array([4.0])) == pytest.approx(3.0 * 4**-0.37)


def test_standard_error_is_that_of_a_straight_line():
    noise = np.random.default_rng(3).normal(scale=0.1, size=len(SIZES))
    errors = 2.0 * np.array(SIZES) ** -0.5 * np.exp(noise)
    law = fit_power_law(SIZES, errors.tolist())
    (slope, intercept), covariance = np.polyfit(np.log(SIZES), np.log(errors), 1, cov=True)
    assert law.exponent == pytest.approx(-slope)
    assert law.factor == pytest.approx(np.exp(intercept))
    assert law.exponent_error == pytest.approx(np.sqrt(covariance[0, 0]))


def test_standard_error_covers_the_truth():
    rng = np.random.default_rng(0)
    pulls = []
    for _ in range(400):
        errors = 2.0 * np.array(SIZES) ** -0.4 * np.exp(rng.normal(scale=0.05, size=len(SIZES)))
        law = fit_power_law(SIZES, errors.tolist())
        pulls.append((law.exponent - 0.4) / law.exponent_error)
    # Student's t with 4 degrees of freedom: 62.6 % within one; three standard errors of 400 draws
    assert np.mean(np.abs(pulls) < 1) == pytest.approx(0.626, abs=0.075)


def test_floor_is_found():
    errors = [5.0 * n**-0.6 + 0.04 for n in SIZES]
    law = fit_power_law_with_floor(SIZES, errors)
    assert law.exponent == pytest.approx(0.6, rel=1e-4)
    assert law.factor == pytest.approx(5.0, rel=1e-3)
    assert law.floor == pytest.approx(0.04, rel=1e-3)
    np.testing.assert_allclose(law(SIZES), errors, rtol=1e-6)


def test_no_floor_where_there_is_none():
    assert fit_power_law_with_floor(SIZES, [3.0 * n**-0.3 for n in SIZES]) is None
    # Noise of 5 % shows a floor of twice its standard error only now and then.
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        noise = np.exp(rng.normal(scale=0.05, size=len(SIZES)))
        errors = (2.0 * np.array(SIZES) ** -0.4 * noise).tolist()
        found += fit_power_law_with_floor(SIZES, errors) is not None
    assert found < 30
    assert fit_power_law_with_floor(SIZES[:4], [0.4, 0.3, 0.25, 0.24]) is None


def test_too_few_points():
    assert fit_power_law([100, 400], [2.0, 1.0]).exponent == pytest.approx(0.5)
    assert fit_power_law([100, 400], [2.0, 1.0]).exponent_error is None
    for sizes, errors in (([100], [1.0]), ([100, 100], [1.0, 1.1]), ([100, 200], [1.0])):
        with pytest.raises(InputError, match="two sizes"):
            fit_power_law(sizes, errors)
    with pytest.raises(InputError, match="above 0"):
        fit_power_law([100, 200], [1.0, float("nan")])
