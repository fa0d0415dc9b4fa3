"""Which entities a mention in a question may mean, by how similar the names are.

UltRAG, 2603.28773: weights proportional to exp(-d^2 / (2 sigma^2)), where d is the distance between
two texts' vectors, here of the TF-IDF of characters' n-grams, which needs neither network nor
model.
Case counts, as it tells `c1ccccc1` (benzene) from `C1CCCCC1` (cyclohexane).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from qmgen.errors import InputError, MissingExtraError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Bound, Leaf
from qmgen.knowledge.queries.symbolic_execution import Leaves, Membership, bounded

try:
    from sklearn.feature_extraction.text import TfidfVectorizer
except ImportError as error:
    raise MissingExtraError(
        "linking names needs scikit-learn; install it with: pip install 'qmgen[knowledge]'"
    ) from error

SIGMA = 0.1
# Cosine below which two names have next to nothing in common.
LEAST_SIMILARITY = 0.3


@dataclass(frozen=True)
class Link:
    """What a mention was taken for.

    Attributes
    ----------
    mention
        Text in the question.
    entity
        The likeliest entity.
    similarity
        Cosine between the two, 1 if they are the same.
    """

    mention: str
    entity: int
    similarity: float


@dataclass(frozen=True)
class EntityLinker:
    """Finds entities by name.

    Attributes
    ----------
    graph
        The graph.
    numbers
        Entity of each name.
    vectoriser, vectors
        What makes vectors of texts, and those of the entities, of length 1, as rows.
    sigma
        Distance at which an entity's weight has fallen to exp(-1/2) of an exact one's.
    """

    graph: KnowledgeGraph
    numbers: dict[str, int]
    vectoriser: Any
    vectors: Any
    sigma: float = SIGMA

    @classmethod
    def of(cls, graph: KnowledgeGraph, sigma: float = SIGMA) -> "EntityLinker":
        """Learn the names of a graph's entities."""
        vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), lowercase=False)
        vectors = vectoriser.fit_transform(graph.entities)
        numbers = {name: i for i, name in enumerate(graph.entities)}
        return cls(graph, numbers, vectoriser, vectors, sigma)

    def similarities(self, mention: str) -> Float[np.ndarray, " entities"]:
        """Cosine between a mention and the name of each entity."""
        vector = self.vectoriser.transform([mention])
        return np.asarray((self.vectors @ vector.T).toarray()).ravel()

    def membership(self, mention: str) -> Membership:
        """Weight of each entity, 1 for the likeliest; an exact name is that entity alone.

        Raises
        ------
        InputError
            If no entity's name is similar.
        """
        if mention in self.numbers:
            exact = np.zeros(len(self.graph.entities))
            exact[self.numbers[mention]] = 1.0
            return exact
        similarities = self.similarities(mention)
        best = similarities.max(initial=0.0)
        if best < LEAST_SIMILARITY:
            raise InputError(
                f"no entity's name is like {mention!r}; the graph has, for example, "
                f"{', '.join(map(repr, self.graph.entities[:5]))}"
            )
        # d^2 = 2 - 2 cos between vectors of length 1.
        weights = np.exp((similarities - best) / self.sigma**2)
        return np.where(similarities >= LEAST_SIMILARITY, weights, 0.0)

    def link(self, mention: str) -> Link:
        """The likeliest entity of a mention; the first of several alike.

        Raises
        ------
        InputError
            If no entity's name is similar.
        """
        entity = int(self.membership(mention).argmax())
        exact = self.graph.entities[entity] == mention
        return Link(mention, entity, 1.0 if exact else float(self.similarities(mention)[entity]))

    def links(self, mentions: Iterable[str]) -> dict[str, Link]:
        """The likeliest entity of each mention.

        Raises
        ------
        InputError
            If no entity's name is similar to one of them.
        """
        return {mention: self.link(mention) for mention in mentions}

    def leaves(self) -> Leaves:
        """Leaves of queries as fuzzy sets of the entities that they may mean.

        They raise InputError for a mention that is like no entity's name.
        """

        def leaf(of: Leaf) -> Membership:
            return bounded(self.graph, of) if isinstance(of, Bound) else self.membership(of.name)

        return leaf
