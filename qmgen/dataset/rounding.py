"""Rounds labels to an absolute bound, so that they compress better.

Values become multiples of a power of two, the largest one at most twice the bound. Unlike keeping a
number of bits of the mantissa (BitRound: Kloewer et al., Nat. Comput. Sci. 1, 713 (2021)) this
bounds the error of each value whatever its size, and leaves as many zero bits at the end.
"""

import math

import numpy as np
from jaxtyping import Float

# From here on a float64 has no bits after the point that could be rounded off.
_WHOLE = 2.0**53


def rounding_step(bound: float) -> float:
    """Largest power of two that is at most twice the bound."""
    return math.ldexp(1.0, math.frexp(2 * bound)[1] - 1)


def rounded(values: Float[np.ndarray, "*shape"], bound: float) -> Float[np.ndarray, "*shape"]:
    """Round to the nearest multiple of `rounding_step`, ties to even; exact a second time.

    Parameters
    ----------
    values : float64 array
        Values; NaN and infinity stay what they are.
    bound : float
        Largest absolute error, in the values' unit.
    """
    step = rounding_step(bound)
    # What is larger has no bits below the step; dividing it might overflow.
    fine = np.abs(values) < _WHOLE * step
    return np.where(fine, np.rint(np.where(fine, values, 0.0) / step) * step, values)
