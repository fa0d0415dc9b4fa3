"""Several models of links as one: which to take, and how they vote.

Cattaneo et al., arXiv:2211.12281, section on ensembles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from qmgen.errors import InputError
from qmgen.knowledge.link_prediction import End, Scorer, link_ranks


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


def best_models(
    scorers: Mapping[str, Scorer],
    validation: Int[np.ndarray, "n 3"],
    known: Int[np.ndarray, "m 3"],
    entities: int,
    take: int,
) -> dict[str, float]:
    """Pick those that rank the ends of validation triples best, each by itself.

    The winning entry of BESS took 25 models each of TransE, DistMult and ComplEx and 5 each of
    RotatE and TransH in this way, with one choice for each kind.

    Parameters
    ----------
    scorers
        Models by name.
    validation, known, entities
        As of `link_ranks`.
    take
        How many to pick, at most as many as there are.

    Returns
    -------
    dict
        Filtered mean reciprocal rank of those picked by their names, best first; of equal ones
        the first given.

    Raises
    ------
    InputError
        There are fewer models, or nothing to rank.
    """
    if not 1 <= take <= len(scorers):
        raise InputError(f"{take} of {len(scorers)} models can't be picked; choose 1 to that many")
    found = {
        name: link_ranks(scorer, validation, known, entities).mrr
        for name, scorer in scorers.items()
    }
    order = sorted(found, key=lambda name: -found[name])
    return {name: found[name] for name in order[:take]}
