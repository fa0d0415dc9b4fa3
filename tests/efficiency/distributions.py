"""Numbers of a distribution without the noise of a sample."""

import numpy as np

from qmgen.efficiency.codebooks import Distribution


def numbers(distribution: Distribution, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """One number of each of as many equal parts of the distribution, shuffled; float32."""
    count = int(np.prod(shape))
    values = distribution.density.ppf((np.arange(count) + 0.5) / count)
    np.random.default_rng(seed).shuffle(values)
    return values.reshape(shape).astype(np.float32)
