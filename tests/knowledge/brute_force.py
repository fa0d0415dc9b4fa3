"""Logical queries by sets of Python, and random ones, to compare with."""

import numpy as np

from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Anchor, And, Bound, Hop, Query


def solve(graph: KnowledgeGraph, query: Query) -> set[int]:
    if isinstance(query, Anchor):
        return {graph.entities.index(query.name)}
    if isinstance(query, Bound):
        (quantity,) = (q for q in graph.quantities if q.name == query.quantity)
        sign = 1 if query.comparison == ">" else -1
        return {i for i, v in enumerate(quantity.values.tolist()) if sign * v > sign * query.value}
    if isinstance(query, And):
        return set.intersection(*(solve(graph, part) for part in query.parts))
    start, relation = solve(graph, query.start), graph.relations.index(query.relation)
    edges = [(h, t) for h, r, t in graph.triples.tolist() if r == relation]
    if query.inverse:
        return {h for h, t in edges if t in start}
    return {t for h, t in edges if h in start}


def random_query(graph: KnowledgeGraph, rng: np.random.Generator, depth: int = 3) -> Query:
    kind = rng.choice(["leaf", "hop", "hop", "and"]) if depth else "leaf"
    if kind == "hop":
        start = random_query(graph, rng, depth - 1)
        return Hop(start, str(rng.choice(graph.relations)), bool(rng.integers(2)))
    if kind == "and":
        # An intersection within another is one of more.
        parts: list[Query] = []
        while len(parts) < rng.integers(2, 4):
            part = random_query(graph, rng, depth - 1)
            if not isinstance(part, And):
                parts.append(part)
        return And(tuple(parts))
    if graph.quantities and rng.random() < 0.2:
        return Bound(
            str(rng.choice([q.name for q in graph.quantities])),
            "<" if rng.random() < 0.5 else ">",
            float(rng.normal()),
        )
    return Anchor(str(rng.choice(graph.entities)))
