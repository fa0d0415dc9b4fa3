"""A model's guesses at missing edges without those that the stored edges speak against.

A softmax over all entities gives most of its weight to edges that are stored already, and shares
the rest among as many as there may be answers. Where a relation has one tail for each head, as a
molecule's bin of a property, what has none is asked for its tail instead: that is one answer among
few, whose probability means something by itself.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.fuzzy_execution import TailModel
from qmgen.knowledge.queries.symbolic_execution import SymbolicExecutor


@dataclass(frozen=True)
class PlausibleTails:
    """Probabilities of another model, restricted to what a graph's edges leave possible.

    An edge's end is of a type that stored edges of the relation have there. Where no stored head
    has two tails, a head that has one gets no further one; likewise for tails.

    Attributes
    ----------
    model
        Gives the probabilities.
    ends
        Entities of a possible type: heads (0) or tails (1), by relation.
    edges
        Stored edges by relation.
    """

    model: TailModel
    ends: Bool[np.ndarray, "2 relations entities"]
    edges: tuple[csr_array, ...]

    @classmethod
    def of(
        cls, model: TailModel, graph: KnowledgeGraph, complete: Collection[str] = ()
    ) -> "PlausibleTails":
        """Take from a graph what is possible.

        Parameters
        ----------
        model
            Gives the probabilities.
        graph
            Its edges.
        complete
            Names of relations that lack no edge, which it need not have.
        """
        seen = np.zeros((2, len(graph.relations), len(graph.types)), dtype=bool)
        heads, relations, tails = graph.triples.T
        seen[0, relations, graph.type_of[heads]] = True
        seen[1, relations, graph.type_of[tails]] = True
        seen[:, [name in complete for name in graph.relations]] = False
        return cls(model, seen[:, :, graph.type_of], SymbolicExecutor.of(graph).matrices)

    def __call__(
        self, sources: Int[np.ndarray, " k"], relation: int, inverse: bool
    ) -> Float[np.ndarray, "k entities"]:
        """Probability of each entity to be a further tail of each source, or head if inverse."""
        matrix = self.edges[relation]
        tails_of, heads_of = (np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0))
        of_source, of_end = (heads_of, tails_of) if inverse else (tails_of, heads_of)
        possible = self.ends[int(not inverse), relation]
        if of_source.max() <= 1:
            found = self._shared_out(sources, relation, inverse)
            return np.where(of_source[sources, None] > 0, 0.0, found)
        if of_end.max() <= 1:
            found = np.zeros((len(sources), len(possible)))
            free = np.flatnonzero(possible & (of_end == 0))
            if free.size:
                found[:, free] = self._shared_out(free, relation, not inverse)[:, sources].T
            return found
        return self._shared_out(sources, relation, inverse)

    def _shared_out(
        self, sources: Int[np.ndarray, " k"], relation: int, inverse: bool
    ) -> Float[np.ndarray, "k entities"]:
        """Probabilities among possible ends alone."""
        among = self.model(sources, relation, inverse) * self.ends[int(not inverse), relation]
        return among / np.maximum(among.sum(axis=1, keepdims=True), np.finfo(float).tiny)
