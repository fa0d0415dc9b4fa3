"""Rings: graphs of relations "so many places on" among the entities of a circle, and queries."""

import numpy as np

from qmgen.knowledge.graph import KnowledgeGraph, distinct_triples
from qmgen.knowledge.queries.logical_query import Query
from qmgen.knowledge.questions.templates import Template, find_instance

# Shapes of queries by their usual names: paths of one to three hops, and an intersection.
SHAPES = {
    "1p": Template("(1)", (1,)),
    "2p": Template("(2)", (2,)),
    "3p": Template("(3)", (3,)),
    "2i": Template("(1)(1)", (1, 1)),
}


def ring(entities: int, relations: int, rng: np.random.Generator) -> KnowledgeGraph:
    """A ring with random steps, each different from all others and their inverses."""
    steps = rng.choice(np.arange(1, (entities + 1) // 2), relations, replace=False)
    heads = np.arange(entities)
    triples = [
        np.stack([heads, np.full(entities, i), (heads + step) % entities], axis=1)
        for i, step in enumerate(steps)
    ]
    return KnowledgeGraph(
        tuple(f"e{i}" for i in range(entities)),
        tuple(f"plus {step}" for step in steps),
        distinct_triples(np.concatenate(triples)),
        ("place",),
        np.zeros(entities, dtype=np.int64),
    )


def without_edges(
    graph: KnowledgeGraph, fraction: float, rng: np.random.Generator
) -> KnowledgeGraph:
    """A graph that lacks a random fraction of another's edges."""
    count = len(graph.triples)
    kept = np.sort(rng.permutation(count)[round(fraction * count) :])
    return KnowledgeGraph(
        graph.entities, graph.relations, graph.triples[kept], graph.types, graph.type_of
    )


def queries(
    graph: KnowledgeGraph, shape: Template, count: int, rng: np.random.Generator
) -> list[Query]:
    """Random queries that have an answer in a graph."""
    # Of a graph this small every place is drawn from all edges.
    triples = [(int(h), int(r), int(t)) for h, r, t in graph.triples]
    found: list[Query] = []
    while len(found) < count:
        instance = find_instance(triples, shape, rng)
        assert instance is not None
        found.append(instance.query(graph.entities, graph.relations))
    return found
