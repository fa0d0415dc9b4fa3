"""A variable-length format: a uniform grid whose points are entropy-coded.

Orr et al., 2505.12988: codes that are as long as their numbers are rare, on an even grid, have the
least squared error of all formats at their mean length. What comes out are bytes, with all that
decoding needs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from qmgen.errors import InputError
from qmgen.integer_coding import coded_bits, decode_integers, encode_integers

_LARGEST = 2.0**62
_STEP_BITS = 32
_CLOSE = 1 + 1e-4
# Finer grids than this share of the largest number would need more than 50 bits.
_FINEST = 2.0**-50


@dataclass(frozen=True)
class EntropyCoded:
    """An array on a uniform grid.

    Attributes
    ----------
    shape
        Of the array.
    step
        Distance of the grid's points, of which one is 0; a float32.
    data
        The points, as `qmgen.integer_coding.encode_integers` gives them.
    """

    shape: tuple[int, ...]
    step: float
    data: bytes

    @property
    def bits(self) -> int:
        """Bits of data and step."""
        return 8 * len(self.data) + _STEP_BITS


def compress(x: Float[np.ndarray, "..."], step: float) -> EntropyCoded:
    """Round to multiples of a step and code these; no error is larger than half a step.

    Raises
    ------
    InputError
        A number isn't finite or has more than 2^62 steps, or the step isn't positive.
    MissingExtraError
        The package constriction is missing.
    """
    step = float(np.float32(step))
    return EntropyCoded(x.shape, step, encode_integers(_on_grid(x, step)))


def decompress(coded: EntropyCoded) -> Float64[np.ndarray, "..."]:
    """The points of the grid.

    Raises
    ------
    InputError
        The data are damaged.
    MissingExtraError
        The package constriction is missing.
    """
    integers = decode_integers(coded.data)
    try:
        return integers.reshape(coded.shape) * coded.step
    except ValueError as error:
        raise InputError(f"{integers.size} numbers don't make a shape of {coded.shape}") from error


def step_for_bits(x: Float[np.ndarray, "..."], bits: float) -> float:
    """The smallest step, within a part in 10^4, at which an array fits a budget.

    Parameters
    ----------
    bits
        For each number, frequencies of codes and all else included (these are estimated, which the
        bytes of a short array may miss by some percent).

    Raises
    ------
    InputError
        A number isn't finite, or there are too few bits even for zeros.
    """
    largest = float(np.abs(x).max(initial=0))
    if largest == 0:
        return 1.0
    budget = bits * x.size - _STEP_BITS
    high, low = 4 * largest, 4 * largest * _FINEST
    if coded_bits(_on_grid(x, high)) > budget:
        raise InputError(f"{x.size} numbers of {bits} bits have no room for a header; give more")
    while high > low * _CLOSE:
        middle = float(np.sqrt(low * high))
        if coded_bits(_on_grid(x, middle)) <= budget:
            high = middle
        else:
            low = middle
    return high


def step_for_bound(bound: float) -> float:
    """The largest step at which no error is larger than a bound."""
    # It is kept as float32, which must not round it up.
    return float(np.nextafter(np.float32(2 * bound), np.float32(0)))


def _on_grid(x: Float[np.ndarray, "..."], step: float) -> Int64[np.ndarray, "..."]:
    if not (np.isfinite(step) and step > 0):
        raise InputError(f"a grid's step must be positive and finite, not {step}")
    steps = np.rint(np.asarray(x, np.float64) / step)
    if not (np.abs(steps) < _LARGEST).all():
        raise InputError("a number is not finite, or too large for the grid; choose a larger step")
    return steps.astype(np.int64)
