"""Which entities a mention in a question may mean, by how similar the names are.

UltRAG, 2603.28773: weights proportional to exp(-d^2 / (2 sigma^2)), where d is the distance between
two texts' vectors, here of the TF-IDF of characters' n-grams, which needs neither network nor
model. Case counts, as it tells `c1ccccc1` (benzene) from `C1CCCCC1` (cyclohexane).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

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
    """Finds entities by name, or by what follows the colon in names such as `ring:c1ccccc1`.

    Attributes
    ----------
    graph
        The graph.
    named
        Entities by name and by label, which is what follows the colon.
    vectoriser
        Makes vectors of texts.
    vectors
        Those of names, and those of labels, of length 1, as rows.
    sigma
        Distance at which an entity's weight has fallen to exp(-1/2) of an exact one's.
    """

    graph: KnowledgeGraph
    named: tuple[dict[str, list[int]], dict[str, list[int]]]
    vectoriser: Any
    vectors: tuple[Any, Any]
    sigma: float = SIGMA

    @classmethod
    def of(cls, graph: KnowledgeGraph, sigma: float = SIGMA) -> "EntityLinker":
        """Learn the names of a graph's entities.

        Raises
        ------
        InputError
            If the graph has no entity.
        """
        if not graph.entities:
            raise InputError("the graph has no entities, so there is nothing to ask about")
        labels = tuple(name.partition(":")[2] or name for name in graph.entities)
        vectoriser = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), lowercase=False).fit(
            graph.entities + labels
        )
        vectors = tuple(vectoriser.transform(texts) for texts in (graph.entities, labels))
        return cls(graph, (_places(graph.entities), _places(labels)), vectoriser, vectors, sigma)

    def similarities(self, mention: str) -> Float[np.ndarray, " entities"]:
        """Cosine between a mention and the name or label of each entity, whichever is larger."""
        vector = self.vectoriser.transform([mention])
        both = [(known @ vector.T).toarray().ravel() for known in self.vectors]
        for cosines, places in zip(both, self.named, strict=True):
            # N-grams forget some of the order.
            cosines[cosines > 1 - 1e-9] = 1 - 1e-9
            cosines[places.get(mention, [])] = 1.0
        return np.maximum(*both)

    def membership(self, mention: str) -> Membership:
        """Weight of each entity, 1 for the likeliest; those of the exact name or label alone.

        Raises
        ------
        InputError
            If no entity's name is similar.
        """
        for places in self.named:
            if mention in places:
                exact = np.zeros(len(self.graph.entities))
                exact[places[mention]] = 1.0
                return exact
        similarities = self.similarities(mention)
        best = similarities.max()
        if best < LEAST_SIMILARITY:
            raise InputError(
                f"no entity's name is like {mention!r}; the graph has, for example, "
                f"{', '.join(map(repr, self.graph.entities[:5]))}"
            )
        # d^2 = 2 - 2 cos between vectors of length 1.
        weights = np.exp((similarities - best) / self.sigma**2)
        return np.where(similarities >= LEAST_SIMILARITY, weights, 0.0)

    def link(self, mention: str, suited: Bool[np.ndarray, " entities"]) -> Link:
        """The likeliest entity of a mention, the first of several alike.

        Parameters
        ----------
        mention
            Text.
        suited
            Entities that could be meant by what is asked about them; others are taken only if the
            mention is like none of these.

        Raises
        ------
        InputError
            If no entity's name is similar.
        """
        weights = self.membership(mention)
        among = np.where(suited, weights, 0.0)
        entity = int((among if among.any() else weights).argmax())
        return Link(mention, entity, float(self.similarities(mention)[entity]))

    def leaves(self) -> Leaves:
        """Leaves of queries as fuzzy sets of the entities that they may mean.

        They raise InputError for a mention that is like no entity's name.
        """

        def leaf(of: Leaf) -> Membership:
            return bounded(self.graph, of) if isinstance(of, Bound) else self.membership(of.name)

        return leaf


def _places(texts: tuple[str, ...]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    return places
