"""How a graph's relations meet at entities: all that a relation-invariant model knows of them.

ULTRA (Galkin et al., 2310.04562): relations, and their inverses, are nodes, and two are joined by
up to four kinds of edges, as they share an entity as head and head, tail and tail, head and tail,
or tail and head.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from qmgen.knowledge.graph import KnowledgeGraph

# Kinds of edges in the order of `relation_graph`.
KINDS = ("h2h", "t2t", "h2t", "t2h")


def with_inverses(graph: KnowledgeGraph) -> Int[np.ndarray, "twice_edges 3"]:
    """All triples, and then each the other way round under its inverse relation's number."""
    heads, relations, tails = graph.triples.T
    inverses = np.stack([tails, relations + len(graph.relations), heads], axis=1)
    return np.concatenate([graph.triples, inverses])


def relation_graph(
    graph: KnowledgeGraph,
) -> Float[np.ndarray, "4 twice_relations twice_relations"]:
    """Whether one relation (second axis) meets another (third) in each way, as 0 or 1.

    Kind `h2t` is 1 where a head of the one is a tail of the other.
    """
    triples = with_inverses(graph)
    relations, entities = 2 * len(graph.relations), len(graph.entities)
    ones = np.ones(len(triples))

    def incidence(column: int) -> csr_array:
        shape = (relations, entities)
        matrix = csr_array((ones, (triples[:, 1], triples[:, column])), shape)
        matrix.data[:] = 1.0
        return matrix

    heads, tails = incidence(0), incidence(2)
    pairs = ((heads, heads), (tails, tails), (heads, tails), (tails, heads))
    return np.stack([((one @ other.T).toarray() > 0).astype(float) for one, other in pairs])
