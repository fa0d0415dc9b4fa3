"""Possible answers to a question, and rules that choose among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

# Predictions below this are not offered where a rule judges.
LEAST_PROBABILITY = 0.5


@dataclass(frozen=True)
class Candidate:
    """A possible answer.

    Attributes
    ----------
    entity, name
        Number and name.
    probability
        Its membership in the set of answers, 1 for certain.
    stored
        Whether edges that the graph has prove it, with the likeliest entity for each mention; else
        it is predicted.
    """

    entity: int
    name: str
    probability: float
    stored: bool


@runtime_checkable
class Arbiter(Protocol):
    """What chooses the answers among candidates, best first."""

    def __call__(self, question: str, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Choose, none if none will do."""
        ...


def judge_by_rule(question: str, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Choose all stored answers; without any, predicted ones of a probability of 1/2 at least."""
    del question
    stored = tuple(candidate for candidate in candidates if candidate.stored)
    if stored:
        return stored
    return tuple(c for c in candidates if c.probability >= LEAST_PROBABILITY)
