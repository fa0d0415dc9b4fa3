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

    return _summed([_votes(one, top) for one in scorers])


def best_models(
    scorers: Mapping[str, Scorer],
    validation: Int[np.ndarray, "n 3"],
    known: Int[np.ndarray, "m 3"],
    entities: int,
    take: int,
) -> dict[str, float]:
    """Pick models whose ensemble ranks the ends of validation triples best, one after the other.

    Forward selection: Caruana, Niculescu-Mizil, Crew, Ksikes, ICML 2004. First comes the best
    model, then each time the one with which those picked so far are best, until `take` are picked
    or none makes them better. The winning entry of BESS has so many of each kind, those best by
    themselves; but all have the same vote, so that weak models may outvote one that is better.

    Memory is that of both ends' scores of all validation triples by all models.

    Parameters
    ----------
    scorers
        Models by name.
    validation, known, entities
        As of `link_ranks`.
    take
        How many to pick at most.

    Returns
    -------
    dict
        Names in the order of picking, and the filtered mean reciprocal rank of the ensemble of each
        and those before; of equal models the first given is taken.

    Raises
    ------
    InputError
        There are no models, none are to be picked, or there is nothing to rank.
    """
    if not scorers or take < 1:
        raise InputError(f"{take} of {len(scorers)} models can't be picked; choose at least 1")
    votes = {name: _remembered(_votes(scorer, None)) for name, scorer in scorers.items()}
    picked: dict[str, float] = {}
    reached = -np.inf
    while len(picked) < min(take, len(votes)):
        chosen = [votes[name] for name in picked]
        found = {
            name: link_ranks(_summed([*chosen, one]), validation, known, entities).mrr
            for name, one in votes.items()
            if name not in picked
        }
        best = max(found, key=lambda name: found[name])
        if found[best] <= reached:
            break
        picked[best] = reached = found[best]
    return picked


def _votes(scorer: Scorer, top: int | None) -> Scorer:
    """Rank^-1/2 of each entity."""

    def votes(given: np.ndarray, relations: np.ndarray, end: End) -> np.ndarray:
        scores = scorer(given, relations, end)
        order = np.argsort(-scores, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
        return np.where(rank <= (top or scores.shape[1]), rank**-0.5, 0.0)

    return votes


def _summed(scorers: Sequence[Scorer]) -> Scorer:
    def total(given: np.ndarray, relations: np.ndarray, end: End) -> np.ndarray:
        return np.sum([one(given, relations, end) for one in scorers], axis=0)

    return total


def _remembered(scorer: Scorer) -> Scorer:
    """Score the same queries once only."""
    known: dict[tuple[End, bytes, bytes], np.ndarray] = {}

    def again(given: np.ndarray, relations: np.ndarray, end: End) -> np.ndarray:
        query = (end, given.tobytes(), relations.tobytes())
        if query not in known:
            known[query] = scorer(given, relations, end)
        return known[query]

    return again
