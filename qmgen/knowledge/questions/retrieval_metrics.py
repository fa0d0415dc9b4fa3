"""How good retrieved triples and given answers are, by numbers of entities, never by text."""

from collections.abc import Set
from dataclasses import dataclass

from qmgen.errors import InputError
from qmgen.knowledge.sparql import Triple


@dataclass(frozen=True)
class SetScores:
    """Recall, precision, and their harmonic mean."""

    recall: float
    precision: float
    f1: float


def _scores(found: Set, true: Set) -> SetScores:
    if not true:
        raise InputError("recall of an empty set has no meaning; leave such questions out")
    common = len(found & true)
    # Nothing found is nothing wrong, but as an answer it is worth nothing.
    precision = common / len(found) if found else 0.0
    recall = common / len(true)
    f1 = 2 * recall * precision / (recall + precision) if common else 0.0
    return SetScores(recall, precision, f1)


def triple_scores(retrieved: Set[Triple], true: Set[Triple]) -> SetScores:
    """Of retrieved triples against the true subgraph.

    Raises
    ------
    InputError
        If there is no true triple.
    """
    return _scores(retrieved, true)


def answer_recall(retrieved: Set[Triple], answers: Set[int]) -> float:
    """Fraction of the answers that are at an end of a retrieved triple.

    Raises
    ------
    InputError
        If there is no answer.
    """
    return _scores({end for head, _, tail in retrieved for end in (head, tail)}, answers).recall


@dataclass(frozen=True)
class AnswerScores:
    """Of given answers: whether any is right (1 or 0), and recall, precision and F1."""

    hit: float
    recall: float
    precision: float
    f1: float


def answer_scores(given: Set[int], answers: Set[int]) -> AnswerScores:
    """Of given answers against all true ones.

    Raises
    ------
    InputError
        If there is no true answer.
    """
    scores = _scores(given, answers)
    return AnswerScores(float(scores.recall > 0), scores.recall, scores.precision, scores.f1)
