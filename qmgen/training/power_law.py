"""How an error falls with the number of examples: fits of power laws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import linregress

from qmgen.errors import InputError

MIN_POINTS_WITH_FLOOR = 5
"""Fewer points don't tell a floor from a smaller exponent."""
# As a part of the smallest error; the fit itself is no better than that.
_SMALLEST_FLOOR = 1e-3


@dataclass(frozen=True)
class PowerLaw:
    r"""Error $a n^{-b} + c$ of a network that learnt from $n$ examples.

    Attributes
    ----------
    factor : float
        $a$, in the unit of the error.
    exponent : float
        $b$.
    exponent_error : float or None
        Standard error of $b$; None if there are no more points than parameters.
    floor, floor_error : float
        $c$ and its standard error, in the unit of the error; 0 for a plain power law.
    """

    factor: float
    exponent: float
    exponent_error: float | None
    floor: float = 0.0
    floor_error: float = 0.0

    def __call__(self, sizes: Sequence[int | float] | np.ndarray) -> np.ndarray:
        """Give the error at some sizes."""
        return self.factor * np.asarray(sizes, dtype=np.float64) ** -self.exponent + self.floor


def fit_power_law(sizes: Sequence[int | float], errors: Sequence[int | float]) -> PowerLaw:
    r"""Fit $a n^{-b}$ by least squares of logarithms.

    Parameters
    ----------
    sizes : sequence of float
        $n$, at least two different ones.
    errors : sequence of float
        Errors.

    Returns
    -------
    PowerLaw

    Raises
    ------
    InputError
        There are fewer than two sizes, or a value is not positive.
    """
    x, y = _logarithms(sizes, errors)
    line = linregress(x, y)
    return PowerLaw(
        factor=float(np.exp(line.intercept)),
        exponent=-float(line.slope),
        exponent_error=float(line.stderr) if len(x) > 2 else None,
    )


def fit_power_law_with_floor(
    sizes: Sequence[int | float], errors: Sequence[int | float]
) -> PowerLaw | None:
    r"""Fit $a n^{-b} + c$ with $c \ge 0$ by least squares of logarithms.

    Parameters
    ----------
    sizes, errors : sequence of float
        As for `fit_power_law`.

    Returns
    -------
    PowerLaw or None
        None with fewer than 5 points, or if they show no floor: one of twice its standard error.

    Raises
    ------
    InputError
        As `fit_power_law`.
    """
    x, y = _logarithms(sizes, errors)
    if len(x) < MIN_POINTS_WITH_FLOOR:
        return None
    # Parameters of order one: logarithm of the error at the middle, exponent, and the floor as a
    # part of the smallest error.
    middle, smallest = x.mean(), np.exp(y.min())

    def residuals(parameters: np.ndarray) -> np.ndarray:
        level, exponent, share = parameters
        return np.log(np.exp(level - exponent * (x - middle)) + share * smallest) - y

    start = fit_power_law(sizes, errors)
    found = least_squares(
        residuals,
        (y.mean(), max(start.exponent, 0.05), 0.1),
        bounds=([-np.inf, 0.0, 0.0], [np.inf, np.inf, 1.0]),
        xtol=1e-12,
        ftol=1e-12,
    )
    level, exponent, share = found.x
    variance = 2 * found.cost / (len(x) - 3)
    covariance = variance * np.linalg.pinv(found.jac.T @ found.jac)
    share_error = float(np.sqrt(covariance[2, 2]))
    if share < max(_SMALLEST_FLOOR, 2 * share_error):
        return None
    return PowerLaw(
        factor=float(np.exp(level + exponent * middle)),
        exponent=float(exponent),
        exponent_error=float(np.sqrt(covariance[1, 1])),
        floor=float(share * smallest),
        floor_error=float(share_error * smallest),
    )


def _logarithms(
    sizes: Sequence[int | float], errors: Sequence[int | float]
) -> tuple[np.ndarray, np.ndarray]:
    n, e = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if len(n) != len(e) or len(np.unique(n)) < 2:
        raise InputError(
            f"a power law needs errors at two sizes or more, not {len(np.unique(n))}; train at more"
        )
    if not ((n > 0) & np.isfinite(n)).all() or not ((e > 0) & np.isfinite(e)).all():
        raise InputError("a power law needs sizes and errors that are finite and above 0")
    return np.log(n), np.log(e)
