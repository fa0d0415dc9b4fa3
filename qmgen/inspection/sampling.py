"""Samples of a dataset, of bounded size and repeatable."""

import numpy as np
from jaxtyping import Int64

# Neighbouring rows lie in the same chunk of the store, so runs of them cost few decodings.
_RUN = 256


def sample_rows(total: int, size: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Choose about `size` of `total` rows, ascending: all of them, or random runs of 256 rows."""
    if total <= size:
        return np.arange(total)
    runs = -(-total // _RUN)
    chosen = np.random.default_rng(seed).choice(runs, max(1, size // _RUN), replace=False)
    rows = (np.sort(chosen)[:, np.newaxis] * _RUN + np.arange(_RUN)).ravel()
    return rows[rows < total]


def sample_of(values: Int64[np.ndarray, " n"], size: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Choose at most `size` of some values, in their order."""
    if len(values) <= size:
        return values
    chosen = np.random.default_rng(seed).choice(len(values), size, replace=False)
    return values[np.sort(chosen)]
