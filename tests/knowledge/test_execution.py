from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, distinct_triples
from qmgen.knowledge.queries.fuzzy_execution import FuzzyExecutor
from qmgen.knowledge.queries.invariant_training import (
    InvariantTails,
    pack,
    train_invariant,
)
from qmgen.knowledge.queries.logical_query import Anchor, And, Bound, Hop, Leaf, Query, parse_query
from qmgen.knowledge.queries.ranking import filtered_ranks, mean_reciprocal_rank
from qmgen.knowledge.queries.relation_graph import KINDS, relation_graph, with_inverses
from qmgen.knowledge.queries.relation_invariant import (
    RelationInvariantNetwork,
    relation_vectors_of_all,
)
from qmgen.knowledge.queries.rotation_embedding import train_rotation
from qmgen.knowledge.queries.symbolic_execution import SymbolicExecutor, answers, exact_leaves
from tests.knowledge.brute_force import random_query, solve


@dataclass(frozen=True)
class Table:
    """Probabilities by relation, direction, head and tail."""

    values: np.ndarray

    def __call__(self, sources: np.ndarray, relation: int, inverse: bool) -> np.ndarray:
        return self.values[relation, int(inverse), sources]


def memberships(graph: KnowledgeGraph, query: Query, table: np.ndarray, leaf: Callable) -> list:
    """The definition, entity by entity."""
    n = len(graph.entities)
    if isinstance(query, Anchor | Bound):
        return leaf(query).tolist()
    if isinstance(query, And):
        parts = [memberships(graph, part, table, leaf) for part in query.parts]
        return [np.prod([part[v] for part in parts]) for v in range(n)]
    start = memberships(graph, query.start, table, leaf)
    relation = graph.relations.index(query.relation)
    edges = {(h, t) for h, r, t in graph.triples.tolist() if r == relation}
    if query.inverse:
        edges = {(t, h) for h, t in edges}
    p = table[relation, int(query.inverse)]
    return [
        max(start[u] * (1.0 if (u, v) in edges else p[u, v]) for u in range(n)) for v in range(n)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_fuzzy_sets_follow_the_best_edges(
    random_graph: Callable[..., KnowledgeGraph], seed: int
) -> None:
    graph = random_graph(seed, draws=20)
    rng = np.random.default_rng(seed)
    table = rng.random((3, 2, 8, 8)) ** 3
    weights = rng.random((8, 8)) * (rng.random((8, 8)) < 0.6)

    def leaf(of: Leaf) -> np.ndarray:
        assert isinstance(of, Anchor)
        return weights[graph.entities.index(of.name)]

    stored = SymbolicExecutor.of(graph)
    for _ in range(20):
        query = random_query(graph, rng)
        fuzzy = FuzzyExecutor(stored, Table(table))(query, leaf)
        np.testing.assert_allclose(fuzzy, memberships(graph, query, table, leaf), rtol=1e-12)
        none = np.zeros_like(table)
        expected = memberships(graph, query, none, leaf)
        np.testing.assert_allclose(stored(query, leaf), expected, rtol=1e-12)
        np.testing.assert_array_equal(FuzzyExecutor(stored, Table(none))(query, leaf), expected)


def test_ranks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    membership = rng.integers(0, 5, 30) / 4
    for answer in range(30):
        expected = rankdata(-membership)[answer]
        assert filtered_ranks(membership, {answer}) == [expected]
    right = {int(i) for i in np.flatnonzero(membership == membership.max())}
    assert mean_reciprocal_rank(membership, right) == 1.0
    with pytest.raises(InputError, match="without answers"):
        filtered_ranks(membership, set())


@pytest.mark.parametrize("seed", range(3))
def test_relations_meet_as_their_sets_of_entities_do(
    random_graph: Callable[..., KnowledgeGraph], seed: int
) -> None:
    graph = random_graph(seed, draws=7, entities=12)
    ends = {end: [set[int]() for _ in range(6)] for end in "ht"}
    for h, r, t in graph.triples.tolist():
        for relation, head, tail in ((r, h, t), (r + 3, t, h)):
            ends["h"][relation].add(head)
            ends["t"][relation].add(tail)
    found = relation_graph(graph)
    for kind, matrix in zip(KINDS, found, strict=True):
        one, other = kind.split("2")
        expected = [[bool(a & b) for b in ends[other]] for a in ends[one]]
        np.testing.assert_array_equal(matrix, expected)
    assert 0 < found.sum() < found.size


def test_neither_numbers_nor_padding_change_the_network(
    random_graph: Callable[..., KnowledgeGraph],
) -> None:
    graph = random_graph(3, draws=30, entities=10)
    network = RelationInvariantNetwork(8, 2, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    entity, relation = rng.permutation(10), rng.permutation(3)
    heads, relations, tails = graph.triples.T
    triples = np.stack([entity[heads], relation[relations], entity[tails]], axis=1)
    moved = replace(graph, triples=distinct_triples(triples))
    ours, theirs = (InvariantTails.of(network, g, batch=4) for g in (graph, moved))
    sources = np.array([1, 4, 7, 8, 9])
    for inverse in (False, True):
        one = ours(sources, 2, inverse)
        other = theirs(entity[sources], int(relation[2]), inverse)
        # Sums in another order, in float32.
        np.testing.assert_allclose(one, other[:, entity], rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(one.sum(axis=1), 1.0, rtol=1e-5)
        assert one.std() > 1e-3
    packed = pack([graph, random_graph(4, draws=60, entities=14, relations=5)])
    asked = jnp.full(5, 2)
    meeting = packed.meeting[0]
    scores = eqx.filter_jit(
        lambda: network(
            relation_vectors_of_all(network, meeting)[asked],
            jnp.asarray(sources),
            asked,
            packed.edges[0],
            packed.present[0],
            14,
        )[:, :10]
    )()
    np.testing.assert_allclose(
        jax.nn.softmax(scores, axis=1), ours(sources, 2, False), rtol=2e-4, atol=1e-7
    )


def test_training_needs_edges(random_graph: Callable[..., KnowledgeGraph]) -> None:
    graph = random_graph(0)
    for graphs in ([], [graph, replace(graph, triples=graph.triples[:0])]):
        with pytest.raises(InputError, match="edges in each"):
            train_invariant(graphs, jax.random.key(0))


def circle(entities: int, steps: tuple[int, ...]) -> KnowledgeGraph:
    edges = [(i, r, (i + s) % entities) for r, s in enumerate(steps) for i in range(entities)]
    return KnowledgeGraph(
        tuple(f"e{i}" for i in range(entities)),
        tuple(f"r{r}" for r in range(len(steps))),
        distinct_triples(np.array(edges)),
        ("place",),
        np.zeros(entities, dtype=np.int64),
    )


@pytest.mark.slow
def test_both_models_find_what_was_hidden_also_on_a_circle_not_trained_on() -> None:
    full = circle(80, (1, 7, 18, 29, 33))
    rng = np.random.default_rng(0)
    kept = rng.permutation(len(full.triples))[: int(0.8 * len(full.triples))]
    part = replace(full, triples=full.triples[np.sort(kept)])
    # Circles of other sizes, with other relations and other numbers of them.
    others = [circle(30, (1, 4, 11)), circle(40, (3, 5, 9, 17)), circle(45, (2, 9, 16, 20))]
    network, _ = train_invariant(others, jax.random.key(0), steps=300)
    embedding, _ = train_rotation(part, jax.random.key(1))
    stored = SymbolicExecutor.of(part)
    executors = {
        "symbolic": stored,
        "rotation": FuzzyExecutor(stored, embedding),
        "invariant": FuzzyExecutor(stored, InvariantTails.of(network, part)),
    }
    exact, leaves = SymbolicExecutor.of(full), exact_leaves(full)
    texts = [f"e{i} -> r{i % 5} -> r{(i + 1) % 5} inv -> r{(i + 2) % 5}" for i in range(40)]
    mrr = {}
    for name, executor in executors.items():
        queries = [parse_query(text) for text in texts]
        found = [mean_reciprocal_rank(executor(q, leaves), answers(exact, q)) for q in queries]
        mrr[name] = np.mean(found)
    assert mrr["symbolic"] < 0.7
    # All three edges of a path are there in half of the cases. An embedding of so small a circle
    # finds most of the others (0.82 in all); the benchmark has a larger one, and 0.95.
    assert mrr["rotation"] > mrr["symbolic"] + 0.15
    assert mrr["invariant"] > 0.9


def test_rotation_learns_a_short_circle() -> None:
    graph = circle(12, (1, 5))
    model, losses = train_rotation(graph, jax.random.key(0), width=8, steps=300, batch=48)
    assert losses[-1] < 0.1 * losses[0]
    for relation in (0, 1):
        for inverse in (False, True):
            found = model(np.arange(12), relation, inverse).argmax(axis=1)
            for source, tail in enumerate(found.tolist()):
                query = Hop(Anchor(f"e{source}"), f"r{relation}", inverse)
                assert {tail} == solve(graph, query)


def test_inverse_edges_follow_the_others() -> None:
    graph = circle(5, (1,))
    np.testing.assert_array_equal(with_inverses(graph)[5:, [2, 0]], graph.triples[:, [0, 2]])
    assert set(with_inverses(graph)[5:, 1].tolist()) == {1}
