from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, Quantity
from qmgen.knowledge.queries.logical_query import Anchor, Bound, Hop, parse_query
from qmgen.knowledge.queries.symbolic_execution import SymbolicExecutor, answers
from qmgen.knowledge.questions.reading import read_question
from qmgen.knowledge.questions.wording import Vocabulary
from qmgen.knowledge.sparql import GraphStore, to_sparql
from tests.knowledge.brute_force import random_query, solve


def with_gaps(graph: KnowledgeGraph, seed: int) -> KnowledgeGraph:
    gaps = np.random.default_rng(seed).normal(size=len(graph.entities))
    gaps[0] = np.nan
    return replace(graph, quantities=(Quantity("gap_ev", "gap", gaps),))


@pytest.mark.parametrize("seed", range(4))
def test_sparql_and_sparse_matrices_solve_as_sets_do(
    random_graph: Callable[..., KnowledgeGraph], seed: int
) -> None:
    graph = with_gaps(random_graph(seed, draws=40), seed)
    store, executor = GraphStore.of(graph), SymbolicExecutor.of(graph)
    vocabulary = Vocabulary.of(graph)
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(60):
        query = random_query(graph, rng)
        expected = solve(graph, query)
        sizes.append(len(expected))
        assert store.answers(query) == expected, to_sparql(query)
        assert answers(executor, query) == expected
        # English and the grammar lose nothing either.
        assert read_question(vocabulary.ask(query), vocabulary) == query
    assert min(sizes) == 0
    assert len(set(sizes)) > 3


@pytest.mark.parametrize("seed", range(3))
def test_evidence_is_what_answers_cannot_do_without(
    random_graph: Callable[..., KnowledgeGraph], seed: int
) -> None:
    graph = random_graph(seed, draws=25)
    store = GraphStore.of(graph)
    query = parse_query(f'"{graph.entities[0]}" -> r0 -> r1 inv')
    triples = {tuple(t) for t in graph.triples.tolist()}
    paths = [
        ((0, 0, x), (y, 1, x))
        for x in range(len(graph.entities))
        for y in range(len(graph.entities))
        if {(0, 0, x), (y, 1, x)} <= triples
    ]
    assert store.evidence(query) == {edge for path in paths for edge in path}
    for answer in store.answers(query):
        own = {edge for path in paths if path[1][0] == answer for edge in path}
        assert store.evidence(query, answer) == own


def test_own_queries_filter_numbers(random_graph: Callable[..., KnowledgeGraph]) -> None:
    graph = with_gaps(random_graph(1), 1)
    store = GraphStore.of(graph)
    rows = store.select(
        "SELECT ?who ?gap WHERE { ?who quantity:gap_ev ?gap; a type:entity FILTER(?gap > 0.1) }"
    )
    gaps = graph.quantities[0].values
    assert dict(rows) == {graph.entities[i]: gaps[i] for i in np.flatnonzero(gaps > 0.1)}
    assert store.select("SELECT (COUNT(*) AS ?n) WHERE { ?h relation:r0 ?t }") == [
        ((graph.triples[:, 1] == 0).sum(),)
    ]


def test_bad_queries_are_refused(random_graph: Callable[..., KnowledgeGraph]) -> None:
    graph = random_graph(0)
    store, executor = GraphStore.of(graph), SymbolicExecutor.of(graph)
    with pytest.raises(InputError, match="doesn't understand"):
        store.select("SELECT what")
    with pytest.raises(InputError, match="only SELECT"):
        store.select("ASK { ?a ?b ?c }")
    with pytest.raises(InputError, match="no entity"):
        store.entities_of("SELECT (1 AS ?one) WHERE {}")
    with pytest.raises(InputError, match="did you mean 'é 1/x'"):
        answers(executor, Anchor("é 1/y"))
    with pytest.raises(InputError, match="no relation 'r9'"):
        answers(executor, Hop(Anchor("é 1/x"), "r9"))
    with pytest.raises(InputError, match="no quantity"):
        answers(executor, Bound("gap", ">", 0.0))
