"""Execution of logical queries with edges that a graph lacks but a model expects.

A hop takes x'[v] = max over u of x[u] p(v | u, r), where p is 1 on stored edges and a model's
probability elsewhere, and an intersection takes the product.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from qmgen.knowledge.queries.logical_query import Query
from qmgen.knowledge.queries.symbolic_execution import (
    Leaves,
    Membership,
    SymbolicExecutor,
    execute,
    number_of,
)

# Entities of a set that a model is asked about; the others go along stored edges only.
SOURCES = 32


@runtime_checkable
class TailModel(Protocol):
    """What a model of missing edges has to give."""

    def __call__(
        self, sources: Int[np.ndarray, " k"], relation: int, inverse: bool
    ) -> Float[np.ndarray, "k entities"]:
        """Probability of each entity to be a relation's tail of each source, or head if inverse."""
        ...


@dataclass(frozen=True)
class FuzzyExecutor:
    """Executes queries on stored edges and those that a model expects.

    Attributes
    ----------
    stored
        The stored edges.
    model
        Probabilities of others.
    sources
        Entities of a set, from its best membership on, that the model is asked about.
    """

    stored: SymbolicExecutor
    model: TailModel
    sources: int = SOURCES

    def project(self, start: Membership, relation: str, inverse: bool) -> Membership:
        """Best product of membership and probability over all heads.

        Raises
        ------
        InputError
            If the graph has no such relation.
        """
        stored = self.stored.project(start, relation, inverse)
        number = number_of(relation, self.stored.graph.relations, "relation")
        best = np.argsort(-start, kind="stable")[: self.sources]
        best = best[start[best] > 0]
        if not best.size:
            return stored
        predicted = np.asarray(self.model(best, number, inverse), dtype=float)
        return np.maximum(stored, (start[best, None] * predicted).max(axis=0))

    def __call__(self, query: Query, leaves: Leaves) -> Membership:
        """Execute a query on the sets of its leaves."""
        return execute(query, leaves, self.project)
