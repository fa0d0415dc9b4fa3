"""Exact execution of logical queries on the edges that a graph has.

A set of entities is a membership in [0, 1] of each. A hop takes the best membership over the edges
into an entity, and an intersection the product, so that sets of zeros and ones stay such.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Anchor, Bound, Hop, Leaf, Query

# Membership of each entity.
Membership = Float[np.ndarray, " entities"]
# Membership by leaf of a query.
Leaves = Callable[[Leaf], Membership]


@runtime_checkable
class Executor(Protocol):
    """What gives the membership of each entity in the answer of a query."""

    def __call__(self, query: Query, leaves: Leaves) -> Membership:
        """Execute a query on the sets of its leaves."""
        ...


def number_of(name: str, names: tuple[str, ...], what: str) -> int:
    """Place of a name among others.

    Raises
    ------
    InputError
        If it is none of them, with those that look like it.
    """
    try:
        return names.index(name)
    except ValueError:
        near = difflib.get_close_matches(name, names, n=3) or names[:10]
        raise InputError(
            f"the graph has no {what} {name!r}; did you mean {', '.join(map(repr, near))}?"
            if near
            else f"the graph has no {what} {name!r}, and none at all"
        ) from None


def bounded(graph: KnowledgeGraph, bound: Bound) -> Membership:
    """1 for entities whose quantity is beyond a value, and 0 for those without the quantity."""
    names = tuple(quantity.name for quantity in graph.quantities)
    values = graph.quantities[number_of(bound.quantity, names, "quantity")].values
    # Comparisons with NaN are false.
    beyond = values > bound.value if bound.comparison == ">" else values < bound.value
    return beyond.astype(float)


def exact_leaves(graph: KnowledgeGraph) -> Leaves:
    """Leaves that hold exactly the entity of their name.

    They raise InputError if the graph has no entity or quantity of a name.
    """

    def leaf(of: Leaf) -> Membership:
        if isinstance(of, Bound):
            return bounded(graph, of)
        membership = np.zeros(len(graph.entities))
        membership[number_of(of.name, graph.entities, "entity")] = 1.0
        return membership

    return leaf


def execute(
    query: Query,
    leaves: Leaves,
    project: Callable[[Membership, str, bool], Membership],
) -> Membership:
    """Execute a query, with sets of leaves and the projection along a relation given."""
    if isinstance(query, Anchor | Bound):
        return leaves(query)
    if isinstance(query, Hop):
        start = execute(query.start, leaves, project)
        return project(start, query.relation, query.inverse)
    parts = [execute(part, leaves, project) for part in query.parts]
    return np.prod(np.stack(parts), axis=0)


@dataclass(frozen=True)
class SymbolicExecutor:
    """Executes queries on stored edges only.

    Attributes
    ----------
    graph
        The graph.
    matrices
        Edges of each relation as a sparse matrix of head and tail.
    """

    graph: KnowledgeGraph
    matrices: tuple[csr_array, ...]

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> "SymbolicExecutor":
        """Sort a graph's edges by relation."""
        shape = (len(graph.entities), len(graph.entities))
        matrices = []
        for relation in range(len(graph.relations)):
            heads, _, tails = graph.triples[graph.triples[:, 1] == relation].T
            matrices.append(csr_array((np.ones(len(heads)), (heads, tails)), shape))
        return cls(graph, tuple(matrices))

    def project(self, start: Membership, relation: str, inverse: bool) -> Membership:
        """Best membership of a head over the edges into each entity.

        Raises
        ------
        InputError
            If the graph has no such relation.
        """
        matrix = self.matrices[number_of(relation, self.graph.relations, "relation")]
        into = matrix if inverse else matrix.T
        if not into.nnz:
            return np.zeros_like(start)
        return into.multiply(start[None, :]).max(axis=1).toarray().ravel()

    def __call__(self, query: Query, leaves: Leaves) -> Membership:
        """Execute a query on the sets of its leaves."""
        return execute(query, leaves, self.project)


def answers(executor: SymbolicExecutor, query: Query) -> frozenset[int]:
    """Numbers of the entities that answer a query exactly.

    Raises
    ------
    InputError
        If the graph has no entity, relation or quantity of a name.
    """
    membership = executor(query, exact_leaves(executor.graph))
    return frozenset(np.flatnonzero(membership > 0).tolist())
