"""How well a model ranks the missing ends of triples among all entities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64
from scipy import sparse

from qmgen.errors import InputError
from qmgen.knowledge.bess import Trained

End = Literal["head", "tail"]
Scorer = Callable[
    [Int[np.ndarray, " q"], Int[np.ndarray, " q"], End], Float[np.ndarray, "q entities"]
]
"""From the given ends, the relations, and which end is missing, a score of every entity for it."""


@dataclass(frozen=True)
class LinkRanks:
    """Ranks of the true entities among all others that are not known to be true as well.

    Attributes
    ----------
    head, tail
        For each triple, rank of its head and of its tail; 1 is best, and of those with the same
        score the mean.
    """

    head: Float64[np.ndarray, " n"]
    tail: Float64[np.ndarray, " n"]

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank over both ends."""
        return float(np.mean(1 / np.concatenate([self.head, self.tail])))

    def hits(self, k: int) -> float:
        """Share of ranks up to k."""
        return float(np.mean(np.concatenate([self.head, self.tail]) <= k))


def link_ranks(
    scorer: Scorer,
    triples: Int[np.ndarray, "n 3"],
    known: Int[np.ndarray, "m 3"],
    entities: int,
    *,
    chunk: int = 256,
) -> LinkRanks:
    """Rank both ends of triples, leaving out other entities that are true by `known`.

    Bordes et al., NeurIPS 2013 ("filtered"). Memory is that of `chunk` times `entities` scores.

    Parameters
    ----------
    scorer
        Gives the scores.
    triples
        What to rank.
    known
        All true triples, those to rank and those trained on among them.
    entities
        How many there are.
    chunk
        Triples at once.

    Raises
    ------
    InputError
        There are no triples to rank.
    """
    if not len(triples):
        raise InputError("there are no triples to rank")
    found = {}
    ends: tuple[tuple[End, int, int], ...] = (("head", 2, 0), ("tail", 0, 2))
    for end, given, missing in ends:
        answers = _AnswerTable(known, given, missing, entities)
        parts = []
        for start in range(0, len(triples), chunk):
            some = triples[start : start + chunk]
            # The last chunk is filled up, so that a compiled scorer sees one shape only.
            padded = np.resize(some, (min(chunk, len(triples)), 3)) if start else some
            scores = scorer(padded[:, given], padded[:, 1], end)[: len(some)]
            parts.append(_ranks(np.array(scores), some[:, missing], answers.of(some)))
        found[end] = np.concatenate(parts)
    return LinkRanks(found["head"], found["tail"])


def ranks_among(
    scores: Float[np.ndarray, "n candidates"], truth: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Rank true answers among candidates of which each query has one, such as bins of a property.

    Parameters
    ----------
    scores
        Of each candidate for each query; of a `Scorer`, the columns of entities of one type.
    truth
        Column of each query's answer.

    Returns
    -------
    Float64[n]
        1 is best, and of those with the same score the mean.

    Raises
    ------
    InputError
        A score is not finite.
    """
    nothing = np.empty(0, dtype=np.int64)
    return _ranks(np.array(scores, dtype=np.float64), truth, (nothing, nothing))


class _AnswerTable:
    """Which entities are true answers of a query, as a sparse matrix by query."""

    def __init__(self, known: np.ndarray, given: int, missing: int, entities: int) -> None:
        self._given, self._entities = given, entities
        keys, rows = np.unique(self._keys(known), return_inverse=True)
        self._queries = keys
        shape = (len(keys) + 1, entities)
        ones = np.ones(len(known), dtype=bool)
        self._answers = sparse.csr_array((ones, (rows, known[:, missing])), shape=shape)

    def _keys(self, triples: np.ndarray) -> Int64[np.ndarray, " n"]:
        return triples[:, 1].astype(np.int64) * self._entities + triples[:, self._given]

    def of(self, triples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of true answers."""
        keys = self._keys(triples)
        places = np.searchsorted(self._queries, keys)
        # The matrix has a row without answers at its end for queries that nothing is known of.
        unknown = np.append(self._queries, -1)[places] != keys
        chosen = self._answers[np.where(unknown, len(self._queries), places)]
        return np.repeat(np.arange(len(keys)), np.diff(chosen.indptr)), chosen.indices


def _ranks(
    scores: np.ndarray, truth: np.ndarray, answers: tuple[np.ndarray, np.ndarray]
) -> Float64[np.ndarray, " n"]:
    if not np.isfinite(scores).all():
        raise InputError("a score is not finite; train with a lower learning rate")
    own = scores[np.arange(len(truth)), truth][:, None]
    scores[answers] = -np.inf
    above = (scores > own).sum(axis=1)
    # Without itself, which may or may not be among the known.
    scores[np.arange(len(truth)), truth] = -np.inf
    same = (scores == own).sum(axis=1)
    return 1.0 + above + 0.5 * same


def scorer_of(trained: Trained) -> Scorer:
    """Score with trained embeddings; each device scores the entities that it has."""
    score, shards = trained.score, trained.shards

    def compute(entities: Array, relations: Array, rows: Array, kinds: Array, head: bool) -> Array:
        flat = entities.reshape(-1, entities.shape[-1])
        given, relation = flat[rows], relations[kinds]
        towards = (
            score.towards_head(relation, given) if head else score.towards_tail(given, relation)
        )
        return jax.vmap(lambda some: score.compare_all(towards, relation, some))(entities)

    compiled = jax.jit(compute, static_argnums=4)

    def scorer(given: np.ndarray, relations: np.ndarray, end: End) -> np.ndarray:
        by_shard = compiled(*trained.embeddings, shards.row[given], relations, end == "head")
        return np.asarray(by_shard)[shards.shard, :, shards.place].T

    return scorer
