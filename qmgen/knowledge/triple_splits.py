"""Graphs whose edges are cut in parts to train on and to test with."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.symbolic_execution import number_of


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


def split_by_head(
    graph: KnowledgeGraph,
    relation: str,
    validation: Int[np.ndarray, " v"],
    test: Int[np.ndarray, " t"],
) -> TripleSplit:
    """Hide one relation of some entities, such as a property of molecules of other scaffolds.

    All other edges of these entities are for training, so hide what tells their answers first.

    Parameters
    ----------
    graph
        What to cut.
    relation
        Name of the relation whose edges are cut.
    validation, test
        Entities whose edges of the relation go to these parts.

    Raises
    ------
    InputError
        There is no such relation, or an entity is in both parts.
    """
    number = number_of(relation, graph.relations, "relation")
    if np.intersect1d(validation, test).size:
        raise InputError("an entity's edges can't be both for validation and for test")
    heads, relations, _ = graph.triples.T
    parts = [(relations == number) & np.isin(heads, chosen) for chosen in (validation, test)]
    rest = ~(parts[0] | parts[1])
    return TripleSplit(graph, *(graph.triples[part] for part in (rest, *parts)))
