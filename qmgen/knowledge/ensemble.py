"""Several models of links as one."""

from collections.abc import Sequence

import numpy as np

from qmgen.errors import InputError
from qmgen.knowledge.link_prediction import End, Scorer


def combined(scorers: Sequence[Scorer], top: int | None = None) -> Scorer:
    """Score entities by the sum over models of rank^-1/2, as the winning entry of BESS does.

    Cattaneo et al., arXiv:2211.12281, section on ensembles.

    Parameters
    ----------
    scorers
        Models; at least one.
    top
        Entities that each model names; others get nothing from it. All by default.

    Raises
    ------
    InputError
        There are no models.
    """
    if not scorers:
        raise InputError("an ensemble needs at least one model")

    def scorer(given: np.ndarray, relations: np.ndarray, end: End) -> np.ndarray:
        total: np.ndarray = np.zeros(1)
        for one in scorers:
            scores = one(given, relations, end)
            order = np.argsort(-scores, axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
            total = total + np.where(rank <= (top or scores.shape[1]), rank**-0.5, 0.0)
        return total

    return scorer
