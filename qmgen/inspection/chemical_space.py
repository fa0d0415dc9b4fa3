"""Many molecules on a plane, alike ones near each other."""

import numpy as np
from jaxtyping import Float, UInt8


def principal_plane(
    bits: UInt8[np.ndarray, "nmol nbit"],
) -> tuple[Float[np.ndarray, "nmol 2"], Float[np.ndarray, " 2"]]:
    """Project fingerprints on their two principal components.

    Parameters
    ----------
    bits : UInt8[nmol, nbit]
        Fingerprints of at least one molecule.

    Returns
    -------
    coordinates : Float[nmol, 2]
        Components; the largest deviation in each direction is positive.
    explained : Float[2]
        Their shares of the variance.
    """
    centred = bits - bits.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(bits), 2))
    kept = min(2, singular.size)
    coordinates[:, :kept] = left[:, :kept] * singular[:kept]
    # Signs of singular vectors are arbitrary, the picture's must not be.
    largest = coordinates[np.abs(coordinates).argmax(axis=0), [0, 1]]
    coordinates *= np.where(largest < 0, -1.0, 1.0)
    explained = np.zeros(2)
    total = float((singular**2).sum())
    if total > 0:
        explained[:kept] = singular[:kept] ** 2 / total
    return coordinates, explained
