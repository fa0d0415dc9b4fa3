"""Graphs whose edges are cut in parts to train on and to test with."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph


@dataclass(frozen=True)
class TripleSplit:
    """A graph and which of its edges are for what.

    Attributes
    ----------
    graph
        All edges.
    training, validation, test
        Its edges, each in one part.
    """

    graph: KnowledgeGraph
    training: Int[np.ndarray, "n 3"]
    validation: Int[np.ndarray, "m 3"]
    test: Int[np.ndarray, "k 3"]


def random_split(
    graph: KnowledgeGraph, validation: float, test: float, *, seed: int
) -> TripleSplit:
    """Cut a graph's edges at random.

    An edge and its reverse may fall in different parts, so that a model can read the answer off a
    symmetric relation.

    Parameters
    ----------
    graph
        What to cut.
    validation, test
        Shares of the edges, not negative.
    seed
        Of the choice.

    Raises
    ------
    InputError
        Nothing would be left to train on.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(f"shares {validation} and {test} leave nothing to train on")
    n = len(graph.triples)
    order = np.random.default_rng(seed).permutation(n)
    first, second = round(validation * n), round((validation + test) * n)
    parts = np.split(graph.triples[order], [first, second])
    return TripleSplit(graph, parts[2], parts[0], parts[1])
