import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph, graph_from_names
from qmgen.knowledge.queries.logical_query import keep_leaves, parse_query, relations_of
from qmgen.knowledge.questions.question_files import read_questions, write_questions
from qmgen.knowledge.questions.reading import read_question
from qmgen.knowledge.questions.retrieval_metrics import (
    answer_recall,
    answer_scores,
    triple_scores,
)
from qmgen.knowledge.questions.retrievers import shortest_path_triples, true_triples
from qmgen.knowledge.questions.splits import zero_shot_split
from qmgen.knowledge.questions.subgraphs import Neighbours, sample_subgraph
from qmgen.knowledge.questions.synth_kgqa import Proposal, Question, confirm, make_questions
from qmgen.knowledge.questions.templates import TEMPLATES, has_shape, template_of
from qmgen.knowledge.questions.wording import Vocabulary
from qmgen.knowledge.sparql import GraphStore
from tests.knowledge.brute_force import solve

PER_TEMPLATE = 6


@pytest.fixture(scope="module")
def graph(random_graph: Callable[..., KnowledgeGraph]) -> KnowledgeGraph:
    return random_graph(5, draws=150, entities=25, relations=3)


@pytest.fixture(scope="module")
def questions(graph: KnowledgeGraph) -> list[Question]:
    return list(make_questions(GraphStore.of(graph), np.random.default_rng(0), PER_TEMPLATE))


def test_questions_have_all_answers_and_their_proof(
    graph: KnowledgeGraph, questions: list[Question]
) -> None:
    vocabulary = Vocabulary.of(graph)
    triples = {tuple(t) for t in graph.triples.tolist()}
    assert Counter(q.template for q in questions) == {t.name: PER_TEMPLATE for t in TEMPLATES}
    assert len({q.query for q in questions}) == len(questions)
    for question in questions:
        template = template_of(question.template)
        assert set(question.answers) == solve(graph, question.query)
        assert len(question.seeds) == len(template.branches)
        assert len(question.support) == sum(template.branches) + template.after
        assert set(question.support) <= triples
        assert set(question.evidence) <= triples
        assert read_question(question.text, vocabulary) == question.query
        # The proof alone has the same answers, and without any edge of it some are lost.
        proof = np.array(question.evidence)
        assert solve(replace(graph, triples=proof), question.minimal) == set(question.answers)


def test_redundant_seeds_are_those_that_change_nothing(
    graph: KnowledgeGraph, questions: list[Question]
) -> None:
    several = [q for q in questions if len(q.seeds) > 1]
    assert 0 < sum(q.redundant for q in several) < len(several)
    for question in several:
        places = frozenset(range(len(question.seeds)))
        fewer = [keep_leaves(question.query, places - {place}) for place in places]
        without = [solve(graph, query) for query in fewer if query]
        assert question.redundant == (set(question.answers) in without)
        assert solve(graph, question.minimal) == set(question.answers)


def test_what_the_graph_does_not_confirm_is_no_question(graph: KnowledgeGraph) -> None:
    store, template = GraphStore.of(graph), template_of("(1)")
    head, relation, tail = graph.triples[0].tolist()
    query = parse_query(f'"{graph.entities[head]}" -> {graph.relations[relation]}')
    good = Proposal(query, tail, ((head, relation, tail),))
    part = [(head, relation, tail)]
    ask = Vocabulary.of(graph).ask
    assert confirm(store, good, template, part, ask)
    stranger = replace(good, query=parse_query("stranger -> r0"))
    assert confirm(store, stranger, template, part, ask) is None
    assert confirm(store, good, template, [], ask) is None
    assert confirm(store, good, template_of("(2)"), part, ask) is None
    assert confirm(store, replace(good, answer=head), template, part, ask) is None
    assert confirm(store, good, template, part, ask, most_answers=0) is None


def test_shapes_differ_in_seeds_and_answer() -> None:
    path = ((0, 0, 1), (2, 0, 1))
    assert has_shape(path, (0,), 2, template_of("(2)"))
    assert has_shape(path, (0, 2), 1, template_of("(1)(1)"))
    assert not has_shape(path, (1,), 2, template_of("(2)"))
    assert not has_shape((*path, (0, 1, 2)), (0,), 2, template_of("(2)"))
    join = ((0, 0, 2), (1, 0, 2), (2, 0, 3))
    assert has_shape(join, (0, 1), 3, template_of("((1)(1))"))
    assert not has_shape(join, (0, 3), 1, template_of("(2)(1)"))
    with pytest.raises(InputError, match=r"there are \(1\), \(2\)"):
        template_of("(4)")


def test_parts_are_connected_and_small(graph: KnowledgeGraph) -> None:
    neighbours, rng = Neighbours.of(graph), np.random.default_rng(0)
    triples = {tuple(t) for t in graph.triples.tolist()}
    for edges in (9, 30):
        for _ in range(20):
            part = sample_subgraph(neighbours, rng, nodes=10, edges=edges)
            shape = nx.Graph((h, t) for h, _, t in part)
            assert set(part) <= triples
            assert len(part) == len(set(part)) <= edges
            assert len(shape) <= 10
            assert nx.is_connected(shape)
    with pytest.raises(InputError, match="two nodes"):
        sample_subgraph(neighbours, rng, nodes=10, edges=8)


def test_hubs_are_drawn_less_often_than_by_chance() -> None:
    # A star of 9 leaves, each of them with a leaf of its own: the first neighbour of a leaf is the
    # hub or its own leaf, with logits 1/9 and 1.
    names = [("hub", f"a{i}") for i in range(9)] + [(f"a{i}", f"b{i}") for i in range(9)]
    star = graph_from_names([h for h, _ in names], ["r"] * 18, [t for _, t in names])
    neighbours, rng = Neighbours.of(star), np.random.default_rng(0)
    middle = star.entities.index("a0")
    drawn = []
    for _ in range(1500):
        (edge,) = sample_subgraph(neighbours, rng, nodes=2, edges=1)
        if edge[0] == middle or edge[2] == middle:
            drawn.append(star.entities.index("hub") in edge[::2])
    # Pairs of a0 begin at the hub (a0 is 1 of 9), at a0, or at b0 (always a0).
    hub = np.exp(1 / 9) / (np.exp(1 / 9) + np.e)
    expected = (1 / 9 + hub) / (1 / 9 + 1 + 1)
    # Three standard deviations of a binomial.
    spread = 3 * np.sqrt(expected * (1 - expected) / len(drawn))
    assert abs(np.mean(drawn) - expected) < spread


def test_too_many_questions_are_refused(random_graph: Callable[..., KnowledgeGraph]) -> None:
    store = GraphStore.of(random_graph(0, draws=3))
    with pytest.raises(InputError, match="leave this template out"):
        list(make_questions(store, np.random.default_rng(0), 20, tries=3))
    empty = GraphStore.of(graph_from_names([], [], [], {"a": "x"}))
    with pytest.raises(InputError, match="no edges"):
        list(make_questions(empty, np.random.default_rng(0), 1))


def test_files_of_questions(
    graph: KnowledgeGraph, questions: list[Question], tmp_path: Path
) -> None:
    store, path = GraphStore.of(graph), tmp_path / "questions.jsonl"
    assert write_questions(path, questions, graph) == len(questions)
    assert read_questions(path, store) == questions
    line = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert store.entities_of(line["sparql"]) == {graph.entities.index(n) for n in line["answers"]}
    for change, problem in (
        ({"answers": line["seeds"]}, "line 1 of .* other answers"),
        ({"seeds": ["stranger"]}, "'stranger' is neither"),
        ({"query": "a b"}, "line 1 of .* is no question"),
    ):
        path.write_text(json.dumps({**line, **change}), encoding="utf-8")
        with pytest.raises(InputError, match=problem):
            read_questions(path, store)


def test_nothing_held_out_is_in_training(questions: list[Question]) -> None:
    held, rng = {"templates": frozenset({"(3)"}), "relations": frozenset({"r2"})}, None
    rng = np.random.default_rng(0)
    split = zero_shot_split(questions, rng, **held, test_fraction=0.25)
    for question in (*split.train, *split.seen):
        assert question.template != "(3)"
        assert "r2" not in relations_of(question.query)
    assert {q.template for q in split.unseen_template} == {"(3)"}
    assert all("r2" in relations_of(q.query) for q in split.unseen_relation)
    parts = (split.train, split.seen, split.unseen_template, split.unseen_relation)
    assert all(parts)
    assert Counter(q for part in parts for q in part) == Counter(questions)
    with pytest.raises(InputError, match="no question is left"):
        zero_shot_split(questions, rng, relations=frozenset({"r0", "r1", "r2"}))


def test_shortest_paths_are_those_of_networkx(
    graph: KnowledgeGraph, questions: list[Question]
) -> None:
    neighbours = Neighbours.of(graph)
    shape = nx.Graph((h, t) for h, _, t in graph.triples.tolist())
    for question in questions:
        pairs = {
            frozenset(pair)
            for seed in question.seeds
            for answer in question.answers
            for path in nx.all_shortest_paths(shape, seed, answer)
            for pair in nx.utils.pairwise(path)
        }
        expected = {t for t in map(tuple, graph.triples.tolist()) if {t[0], t[2]} in pairs}
        found = shortest_path_triples(neighbours, question.seeds, question.answers)
        assert found == expected
        assert answer_recall(found, set(question.answers)) == 1.0


def test_scores_are_those_of_scikit_learn(questions: list[Question]) -> None:
    rng = np.random.default_rng(0)
    for question in questions:
        true = true_triples(question)
        found = {t for q in questions[:20] for t in q.evidence if rng.random() < 0.3} | {
            question.evidence[0]
        }
        union = sorted(found | true)
        precision, recall, f1, _ = precision_recall_fscore_support(
            [t in true for t in union], [t in found for t in union], average="binary"
        )
        scores = triple_scores(found, true)
        assert (scores.precision, scores.recall, scores.f1) == pytest.approx(
            (precision, recall, f1)
        )
        assert triple_scores(true, true) == triple_scores({*true}, true)
        assert triple_scores(true, true).f1 == 1.0
    assert answer_scores({1, 2}, {2, 3, 4}).hit == 1.0
    assert answer_scores({1, 2}, {2, 3, 4}).recall == pytest.approx(1 / 3)
    assert answer_scores(set(), {2}) == answer_scores({1}, {2})
    with pytest.raises(InputError, match="no meaning"):
        answer_scores({1}, set())
