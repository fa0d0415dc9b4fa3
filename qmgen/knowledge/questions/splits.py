"""Splits of questions in which whole shapes and relations are unseen in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmgen.errors import InputError
from qmgen.knowledge.queries.logical_query import relations_of
from qmgen.knowledge.questions.synth_kgqa import Question


@dataclass(frozen=True)
class ZeroShotSplit:
    """Questions for training, and for tests of three kinds.

    Attributes
    ----------
    train
        Without any held-out template or relation.
    seen
        Like those in training, but not among them.
    unseen_template
        Of a held-out template, with relations of training only.
    unseen_relation
        With a held-out relation, of any template.
    """

    train: tuple[Question, ...]
    seen: tuple[Question, ...]
    unseen_template: tuple[Question, ...]
    unseen_relation: tuple[Question, ...]


def zero_shot_split(
    questions: Sequence[Question],
    rng: np.random.Generator,
    *,
    templates: frozenset[str] = frozenset(),
    relations: frozenset[str] = frozenset(),
    test_fraction: float = 0.1,
) -> ZeroShotSplit:
    """Hold out templates, relations, and a fraction of all else.

    Parameters
    ----------
    questions
        All of them.
    rng
        Draws the fraction.
    templates, relations
        Names that training must not see.
    test_fraction
        Of the remaining ones, how many are tests.

    Raises
    ------
    InputError
        If no question is left for training.
    """
    by_relation = [q for q in questions if relations & set(relations_of(q.query))]
    without = [q for q in questions if not relations & set(relations_of(q.query))]
    by_template = [q for q in without if q.template in templates]
    left = [q for q in without if q.template not in templates]
    order = rng.permutation(len(left)).tolist()
    tests = round(test_fraction * len(left))
    if tests >= len(left):
        raise InputError(
            "no question is left for training; hold out fewer templates, relations or tests"
        )
    return ZeroShotSplit(
        tuple(left[i] for i in sorted(order[tests:])),
        tuple(left[i] for i in sorted(order[:tests])),
        tuple(by_template),
        tuple(by_relation),
    )
