"""How high the true answers of a query are among all entities."""

from collections.abc import Set

import numpy as np
from jaxtyping import Float

from qmgen.errors import InputError


def filtered_ranks(
    membership: Float[np.ndarray, " entities"], answers: Set[int]
) -> Float[np.ndarray, " answers"]:
    """Rank of each answer among itself and all entities that aren't answers; ties are halved.

    Raises
    ------
    InputError
        If there is no answer.
    """
    if not answers:
        raise InputError("a query without answers has no ranks; leave such queries out")
    right = np.array(sorted(answers))
    own = membership[right, None]
    others = np.delete(membership, right)
    return 1.0 + (others > own).sum(axis=1) + 0.5 * (others == own).sum(axis=1)


def mean_reciprocal_rank(membership: Float[np.ndarray, " entities"], answers: Set[int]) -> float:
    """Mean of 1/rank over the answers of a query.

    Raises
    ------
    InputError
        If there is no answer.
    """
    return float((1.0 / filtered_ranks(membership, answers)).mean())
