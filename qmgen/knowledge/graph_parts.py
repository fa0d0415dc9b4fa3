"""Parts of a graph: chosen entities and the edges between them."""

import numpy as np
from jaxtyping import Int

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, Quantity
from qmgen.knowledge.personalised_pagerank import around


def restrict(graph: KnowledgeGraph, kept: Int[np.ndarray, " kept"]) -> KnowledgeGraph:
    """The graph of some entities and the edges between them; all relations stay.

    Parameters
    ----------
    graph
        The graph.
    kept
        Numbers of the entities, in the order that the new graph shall have.
    """
    number = np.full(len(graph.entities), -1)
    number[kept] = np.arange(len(kept))
    heads, relations, tails = graph.triples.T
    triples = np.stack([number[heads], relations, number[tails]], axis=1)
    return KnowledgeGraph(
        tuple(graph.entities[i] for i in kept),
        graph.relations,
        triples[(triples[:, [0, 2]] >= 0).all(axis=1)],
        graph.types,
        graph.type_of[kept],
        tuple(Quantity(q.name, q.description, q.values[kept]) for q in graph.quantities),
        graph.notes,
    )


def sampled_part(graph: KnowledgeGraph, entities: int, rng: np.random.Generator) -> KnowledgeGraph:
    """Take random entities of the most frequent type, and those of other types joined to them.

    Of a molecular graph that is molecules and what they consist of, so that each bin of a property
    keeps its share of molecules. Of a graph with one type it is what is around a random entity by
    personalised PageRank.

    Parameters
    ----------
    graph
        The graph.
    entities
        How many of the most frequent type to take, all if they are fewer.
    rng
        Generator, which this advances.

    Raises
    ------
    InputError
        The graph has no edges.
    """
    if not len(graph.triples):
        raise InputError("a graph without edges has no part to learn from")
    if len(graph.types) == 1:
        start = np.zeros(len(graph.entities))
        start[rng.choice(graph.triples[:, 0])] = 1.0
        return restrict(graph, around(graph, start, entities))
    frequent = graph.of_type(graph.types[np.bincount(graph.type_of).argmax()])
    chosen = rng.choice(frequent, min(entities, len(frequent)), replace=False)
    heads, _, tails = graph.triples.T
    joined = [tails[np.isin(heads, chosen)], heads[np.isin(tails, chosen)]]
    others = np.setdiff1d(np.concatenate(joined), frequent)
    return restrict(graph, np.sort(np.concatenate([chosen, others])))
