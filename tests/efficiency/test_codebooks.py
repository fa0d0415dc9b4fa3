"""Orr et al., 2505.12988: errors of codebooks on the distributions they are made for."""

import numpy as np
import pytest
import scipy.integrate

from qmgen.efficiency.codebooks import (
    LAPLACE,
    NORMAL,
    Distribution,
    absmax_codebook,
    lloyd_max,
    rms_codebook,
    student_t,
)
from qmgen.efficiency.element import BFLOAT16, E2M1, INT4, NF4, UE5M3, Codebook, Element
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.granularity import PER_TENSOR, blocks_along
from qmgen.efficiency.quantise import bits_per_element, dequantise, fake_quantise, quantise
from qmgen.efficiency.signal_to_noise import relative_rms_error
from qmgen.errors import InputError
from tests.efficiency.distributions import numbers

BLOCK = 128
T5 = student_t(5.0)


def absmax_format(element: Element, statistic: str = "absmax") -> Format:
    return Format(element, ScaleFormat(BFLOAT16, statistic), blocks_along(BLOCK))


def rms_format(book: Codebook) -> Format:
    return Format(book, ScaleFormat(BFLOAT16, "rms", 1.0), PER_TENSOR)


def error_of(x: np.ndarray, format: Format) -> float:
    return float(relative_rms_error(x, fake_quantise(x, format)))


def rounding_error(x: np.ndarray, book: Codebook) -> float:
    """The same in NumPy, of numbers that need no scale."""
    values = np.array(book.values)
    nearest = values[np.searchsorted((values[1:] + values[:-1]) / 2, x)]
    return float(np.sqrt(np.mean((nearest - x) ** 2) / np.mean(x.astype(np.float64) ** 2)))


# Errors at 16 codes: cube-root density with RMS scale, Lloyd-Max, cube-root density with absmax
# scales of 128, NF4, E2M1, INT4. The figures are of independent code on samples, whose noise the
# tolerances allow for: it grows with the tails.
FIGURES = [
    (NORMAL, (0.0976, 0.0975, 0.0940, 0.0956, 0.1090, 0.1174), 0.004),
    (LAPLACE, (0.1248, 0.1248, 0.1087, 0.1136, 0.1210, 0.1601), 0.01),
    (T5, (0.143, 0.140, 0.111, 0.118, 0.123, 0.172), 0.025),
]


@pytest.mark.parametrize(("distribution", "figures", "tolerance"), FIGURES)
def test_errors_are_those_of_the_reference(
    distribution: Distribution, figures: tuple[float, ...], tolerance: float
) -> None:
    x = numbers(distribution, (4096, BLOCK))
    got = (
        rounding_error(x, rms_codebook(distribution, 16)),
        rounding_error(x, lloyd_max(x, 16)),
        error_of(x, absmax_format(absmax_codebook(distribution, 16, BLOCK))),
        error_of(x, absmax_format(NF4)),
        error_of(x, absmax_format(E2M1)),
        error_of(x, absmax_format(INT4)),
    )
    assert got == pytest.approx(figures, rel=tolerance)
    assert bits_per_element(absmax_format(NF4), x.shape) == 4.125


def test_scales_follow_the_numbers() -> None:
    x = numbers(NORMAL, (64, BLOCK)) * np.float32(1000)
    book = rms_codebook(NORMAL, 16)
    # BF16 keeps the scale to 0.4%, which moves the error far less.
    assert error_of(x, rms_format(book)) == pytest.approx(rounding_error(x / 1000, book), rel=5e-3)


@pytest.mark.parametrize(
    ("distribution", "codes", "most"),
    [(NORMAL, 8, 1.001), (NORMAL, 64, 1.001), (LAPLACE, 64, 1.002), (student_t(7.0), 16, 1.02)],
)
def test_cube_root_density_comes_close_to_lloyd_max(
    distribution: Distribution, codes: int, most: float
) -> None:
    x = numbers(distribution, (1 << 16,))
    best = rounding_error(x, lloyd_max(x, codes))
    # Both are at the optimum but for 1e-4 or so.
    assert 0.999 * best <= rounding_error(x, rms_codebook(distribution, codes)) <= most * best


def test_lloyd_max_meets_its_own_conditions_on_a_known_density() -> None:
    # Max (1960), table I: the best 4 levels for normal numbers.
    found = np.array(lloyd_max(numbers(NORMAL, (1 << 16,)), 4, tolerance=1e-12).values)
    np.testing.assert_allclose(found, [-1.510, -0.4528, 0.4528, 1.510], rtol=1e-3)


@pytest.mark.parametrize("distribution", [NORMAL, LAPLACE, T5])
def test_cube_roots_are_cube_roots(distribution: Distribution) -> None:
    x = np.linspace(-4, 4, 9)
    ratio = np.cbrt(distribution.density.pdf(x)) / distribution.cube_root.pdf(x)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    assert distribution.density.std() == pytest.approx(1)


@pytest.mark.parametrize(
    ("distribution", "tolerance"), [(NORMAL, 0.04), (LAPLACE, 0.005), (T5, 0.08)]
)
def test_expected_absmax(distribution: Distribution, tolerance: float) -> None:
    def above(m: float) -> float:
        return 1 - (2 * distribution.density.cdf(m) - 1) ** BLOCK

    exact = scipy.integrate.quad(above, 0, 50, limit=200)[0]
    assert distribution.expected_absmax(BLOCK) == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("distribution", [NORMAL, LAPLACE, T5])
def test_what_variants_hold(distribution: Distribution) -> None:
    symmetric = np.array(absmax_codebook(distribution, 16, BLOCK).values)
    np.testing.assert_allclose(symmetric, -symmetric[::-1], rtol=1e-12)
    assert symmetric[-1] == 1
    assert 0 not in symmetric
    asymmetric = np.array(absmax_codebook(distribution, 16, BLOCK, "asymmetric").values)
    assert asymmetric[[0, 7, 15]].tolist() == [-1, 0, 1]
    signmax = np.array(absmax_codebook(distribution, 16, BLOCK, "signmax").values)
    assert -1 < signmax[0] < asymmetric[1]
    assert signmax[[7, 15]].tolist() == [0, 1]
    # Steps of equal probability under the cut-off cube root.
    largest = distribution.expected_absmax(BLOCK)
    levels = distribution.cube_root.cdf(symmetric * largest)
    np.testing.assert_allclose(np.diff(levels), np.diff(levels)[0], rtol=1e-9)
    assert len(rms_codebook(distribution, 15).values) == 15
    assert rms_codebook(distribution, 15).values[7] == 0


def test_nf4_is_the_same_rule_with_the_density_itself() -> None:
    # Dettmers et al., 2305.14314: quantiles of the normal distribution from one end, 1 - offset.
    offset = 0.9677083
    half = NORMAL.density.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = NORMAL.density.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([half, [0.0], -negative])) / half.max()
    np.testing.assert_allclose(NF4.values, values, atol=2e-7)


def test_signmax_scales_have_the_sign_of_the_largest_number() -> None:
    x = np.random.default_rng(0).normal(size=(32, BLOCK)).astype(np.float32)
    x[0] = 0
    format = absmax_format(absmax_codebook(NORMAL, 16, BLOCK, "signmax"), "signmax")
    quantised = quantise(x, format)
    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    scales = np.asarray(quantised.scales)
    np.testing.assert_allclose(scales[1:], largest[1:], rtol=2**-8)
    assert scales[0] == 1
    assert (scales < 0).any()
    assert (scales > 0).any()
    # The largest number is the one that both ends of an absmax codebook are for.
    at_largest = np.take_along_axis(
        np.asarray(dequantise(quantised)), np.abs(x).argmax(1)[:, None], 1
    )
    np.testing.assert_array_equal(at_largest[1:], scales[1:])
    symmetric = error_of(x, absmax_format(absmax_codebook(NORMAL, 16, BLOCK)))
    assert error_of(x, format) < symmetric
    with pytest.raises(InputError, match="sign"):
        ScaleFormat(UE5M3, "signmax")


def test_lloyd_max_of_few_numbers() -> None:
    # As many values as numbers: these themselves, however uneven.
    x = np.array([0.0, 1e-3, 2e-3, 1e6, 1e6])
    assert lloyd_max(x, 4).values == pytest.approx([0, 1e-3, 2e-3, 1e6])
    with pytest.raises(InputError, match="fewer different"):
        lloyd_max(x, 5)
    with pytest.raises(InputError, match="finite"):
        lloyd_max(np.array([1.0, np.nan]), 2)


def test_bad_codebooks() -> None:
    with pytest.raises(InputError, match="over 2"):
        student_t(2.0)
    with pytest.raises(InputError, match="freedom"):
        Distribution("normal", 5.0)
    with pytest.raises(InputError, match="even"):
        absmax_codebook(NORMAL, 15, BLOCK, "asymmetric")
    with pytest.raises(InputError, match="4 or more"):
        absmax_codebook(NORMAL, 16, 3)
    with pytest.raises(InputError, match="2 to"):
        rms_codebook(NORMAL, 1)
