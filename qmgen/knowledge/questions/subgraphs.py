"""Small connected parts of a graph, drawn so that hubs don't crowd out all else.

SynthKGQA, 2511.04473: the node to grow from and its new neighbour are both drawn by the softmax of
1/degree.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.sparql import Triple

NODES, EDGES = 10, 30


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of each entity, over edges of any relation and direction.

    Attributes
    ----------
    graph
        The graph.
    matrix
        Symmetric; a row has an entity's neighbours.
    edges
        Triples in the order of `first`.
    first
        Where an entity's triples, as a head, begin among `edges`.
    degrees
        Edges at each entity, a loop counted twice.
    """

    graph: KnowledgeGraph
    matrix: csr_array
    edges: Int[np.ndarray, "n 3"]
    first: Int[np.ndarray, " entities_and_one"]
    degrees: Int[np.ndarray, " entities"]

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> "Neighbours":
        """Gather neighbours.

        Raises
        ------
        InputError
            If the graph has no edge.
        """
        if not len(graph.triples):
            raise InputError("the graph has no edges, so nothing can be drawn from it")
        size = len(graph.entities)
        edges = graph.triples[np.argsort(graph.triples[:, 0], kind="stable")]
        heads, tails = edges[:, 0], edges[:, 2]
        matrix = csr_array((np.ones(len(edges)), (heads, tails)), (size, size))
        return cls(
            graph,
            csr_array(matrix + matrix.T),
            edges,
            np.searchsorted(heads, np.arange(size + 1)),
            np.bincount(heads, minlength=size) + np.bincount(tails, minlength=size),
        )

    def around(self, entity: int) -> Int[np.ndarray, " neighbours"]:
        """Neighbours of an entity, itself only if it has a loop."""
        return self.matrix.indices[self.matrix.indptr[entity] : self.matrix.indptr[entity + 1]]

    def within(self, entities: list[int]) -> list[Triple]:
        """All triples between some entities."""
        inside = set(entities)
        return [
            (int(head), int(relation), int(tail))
            for entity in entities
            for head, relation, tail in self.edges[self.first[entity] : self.first[entity + 1]]
            if int(tail) in inside
        ]


def _by_degree(choices: np.ndarray, degrees: np.ndarray, rng: np.random.Generator) -> int:
    weights = np.exp(1.0 / degrees[choices])
    return int(rng.choice(choices, p=weights / weights.sum()))


def sample_subgraph(
    neighbours: Neighbours, rng: np.random.Generator, nodes: int = NODES, edges: int = EDGES
) -> tuple[Triple, ...]:
    """Triples of a random connected part with at most so many nodes and edges.

    Parameters
    ----------
    neighbours
        Of the graph.
    rng
        Source of randomness.
    nodes, edges
        Most that there may be; at least two nodes, and edges enough to connect them.

    Raises
    ------
    InputError
        If there are to be fewer.
    """
    if nodes < 2 or edges < nodes - 1:
        raise InputError("a part needs two nodes, and as many edges as nodes less one")
    degrees = neighbours.degrees
    start = int(rng.choice(np.flatnonzero(degrees)))
    chosen, growing, tree = [start], [start], []
    while growing and len(chosen) < nodes:
        node = _by_degree(np.array(growing), degrees, rng)
        new = np.setdiff1d(neighbours.around(node), chosen)
        if not new.size:
            growing.remove(node)
            continue
        neighbour = _by_degree(new, degrees, rng)
        chosen.append(neighbour)
        growing.append(neighbour)
        tree.append(frozenset((node, neighbour)))
    triples = neighbours.within(chosen)
    if len(triples) <= edges:
        return tuple(triples)
    # One edge for each step of growth keeps the part connected; the others are drawn.
    order = rng.permutation(len(triples)).tolist()
    place = {frozenset((triples[i][0], triples[i][2])): i for i in order}
    needed = {place[pair] for pair in tree}
    others = [i for i in order if i not in needed][: edges - len(needed)]
    return tuple(triples[i] for i in sorted(needed | set(others)))
