"""Counts of values in bins, and what else a reader wants to know of a distribution."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from qmgen.inspection.quantities import Scale

_MIN_BINS, _MAX_BINS = 8, 40
_MAX_INTEGER_BINS = 60
# Values beyond the central 99.8 % are left out of the picture where they would shrink the rest of
# it to less than a quarter.
_CENTRAL_PERCENTILES = (0.1, 99.9)
_SHRINKS = 4.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """A distribution; `edges` are in the values' unit, on a logarithmic axis too.

    Attributes
    ----------
    counts : Int64[nbin]
        Values in each bin; the last one has its upper bound, too.
    edges : Float[nbin + 1]
        Bounds of the bins.
    beyond : int
        Finite values outside the bins; on a logarithmic axis zeros are.
    missing : int
        Values that are no finite number.
    minimum, median, mean, maximum : float
        Of all finite values.
    scale : {"linear", "log", "integer"}
        Axis.
    """

    counts: Int64[np.ndarray, " nbin"]
    edges: Float[np.ndarray, " nbin+1"]
    beyond: int
    missing: int
    minimum: float
    median: float
    mean: float
    maximum: float
    scale: Scale

    @property
    def size(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum()) + self.beyond


def histogram(values: Float[np.ndarray, " n"], scale: Scale = "linear") -> Histogram | None:
    """Count values; None if none of them can be shown.

    Parameters
    ----------
    values : Float[n]
        Values; what is not finite is counted apart.
    scale : {"linear", "log", "integer"}
        Equal bins, bins of equal ratio, or one bin a whole number.
    """
    finite = values[np.isfinite(values)]
    shown = finite[finite > 0] if scale == "log" else finite
    if shown.size == 0:
        return None
    if scale == "log":
        edges = 10.0 ** _equal_bins(np.log10(shown))
        # Rounding must not put the extremes outside.
        edges[0], edges[-1] = min(edges[0], shown.min()), max(edges[-1], shown.max())
    elif scale == "integer" and np.ptp(shown) < _MAX_INTEGER_BINS:
        edges = np.arange(np.floor(shown.min()), np.floor(shown.max()) + 2) - 0.5
    else:
        edges = _equal_bins(shown)
    counts, _ = np.histogram(shown, edges)
    return Histogram(
        edges=edges,
        counts=counts.astype(np.int64),
        beyond=int(finite.size - counts.sum()),
        missing=int(values.size - finite.size),
        minimum=float(finite.min()),
        median=float(np.median(finite)),
        mean=float(finite.mean()),
        maximum=float(finite.max()),
        scale=scale,
    )


def _equal_bins(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " nedge"]:
    low, high = float(values.min()), float(values.max())
    inner_low, inner_high = (float(p) for p in np.percentile(values, _CENTRAL_PERCENTILES))
    if 0 < inner_high - inner_low < (high - low) / _SHRINKS:
        low, high = inner_low, inner_high
    # Widens an interval that rounding would let collapse.
    margin = max(abs(low), abs(high), 1e-6) * 1e-9
    if high - low < 2 * margin:
        low, high = low - margin, high + margin
    number = int(np.clip(np.ceil(np.sqrt(values.size)), _MIN_BINS, _MAX_BINS))
    return np.linspace(low, high, number + 1)
