"""The part of a large graph around some entities, by personalised PageRank."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, diags_array

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph

# UltRAG, 2603.28773: damping, steps, and entities kept.
ALPHA, STEPS, NODES = 0.85, 5, 30_000


def personalised_pagerank(
    graph: KnowledgeGraph,
    start: Float[np.ndarray, " entities"],
    alpha: float = ALPHA,
    steps: int = STEPS,
) -> Float[np.ndarray, " entities"]:
    """Where a walk is that returns to its start with probability 1 - alpha at each step.

    It goes along edges of any relation in either direction, parallel edges counting as many, and
    from entities without edges back to the start.

    Parameters
    ----------
    graph
        The graph.
    start
        Weight of each entity to start from, one above zero at least.
    alpha, steps
        Probability to go on, and number of steps.

    Raises
    ------
    InputError
        If no weight is above zero, or one is below.
    """
    if not (start >= 0).all() or not start.any():
        raise InputError("PageRank needs weights to start from, at least one of them above zero")
    size = len(graph.entities)
    heads, _, tails = graph.triples.T
    ends = np.concatenate([heads, tails]), np.concatenate([tails, heads])
    edges = csr_array((np.ones(len(ends[0])), ends), (size, size))
    degrees = np.asarray(edges.sum(axis=1)).ravel()
    walk = diags_array(1.0 / np.maximum(degrees, 1.0)) @ edges
    start = start / start.sum()
    rank = start
    for _ in range(steps):
        lost = rank[degrees == 0].sum()
        rank = alpha * (walk.T @ rank + lost * start) + (1 - alpha) * start
    return rank


def around(
    graph: KnowledgeGraph, start: Float[np.ndarray, " entities"], nodes: int = NODES
) -> Int[np.ndarray, " kept"]:
    """Numbers of so many entities of highest personalised PageRank, ascending; all if fewer.

    Raises
    ------
    InputError
        If there is no entity to start from.
    """
    if len(graph.entities) <= nodes:
        return np.arange(len(graph.entities))
    return np.sort(np.argsort(-personalised_pagerank(graph, start), kind="stable")[:nodes])
