from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from typer.testing import CliRunner

from qmgen.cli import app
from qmgen.errors import InputError
from qmgen.knowledge.answering.candidates import Candidate
from qmgen.knowledge.answering.entity_linking import EntityLinker
from qmgen.knowledge.answering.language_models import arbiter_of, reader_of, wording_of
from qmgen.knowledge.answering.ultrag import ask, explain
from qmgen.knowledge.graph import KnowledgeGraph, graph_from_names
from qmgen.knowledge.graph_parts import restrict, sampled_part
from qmgen.knowledge.personalised_pagerank import around, personalised_pagerank
from qmgen.knowledge.queries.logical_query import Anchor, And, Bound, Hop, parse_query
from qmgen.knowledge.questions.question_files import read_questions
from qmgen.knowledge.questions.reading import read_question
from qmgen.knowledge.questions.wording import Vocabulary
from qmgen.knowledge.sparql import GraphStore
from qmgen.knowledge.triple_files import write_graph

EDGES = [
    ("molecule:Cc1ccccc1", "has_ring", "ring:c1ccccc1"),
    ("molecule:NC1CCCCC1", "has_ring", "ring:C1CCCCC1"),
    ("molecule:Nc1ccccc1", "has_ring", "ring:c1ccccc1"),
    ("molecule:NC1CCCCC1", "has_group", "group:primary amine"),
    ("molecule:Nc1ccccc1", "has_group", "group:primary amine"),
    ("molecule:CO", "has_group", "group:alcohol"),
    ("molecule:CO", "similar_to", "molecule:CCO"),
]
GAPS = {"molecule:Cc1ccccc1": 6.0, "molecule:Nc1ccccc1": 5.0, "molecule:NC1CCCCC1": 8.0}


@pytest.fixture(scope="module")
def graph() -> KnowledgeGraph:
    return graph_from_names(
        *map(list, zip(*EDGES, strict=True)), quantities={"gap_ev": ("gap in eV", GAPS)}
    )


def names(graph: KnowledgeGraph, question: str) -> set[str]:
    return {candidate.name for candidate in ask(graph, question).chosen}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ('What has the ring "c1ccccc1"?', {"molecule:Cc1ccccc1", "molecule:Nc1ccccc1"}),
        ("Which has the ring c1ccccc1 and has a gap in eV above 5.5?", {"molecule:Cc1ccccc1"}),
        ("what has the ring C1CCCCC1", {"molecule:NC1CCCCC1"}),
        ("What has the group primary amines and has a gap in ev below 6?", {"molecule:Nc1ccccc1"}),
        (
            'What is the ring of what both has the group "primary amine" and '
            "has a gap in eV above 6?",
            {"ring:C1CCCCC1"},
        ),
        ('What is the look-alike of "CO"?', {"molecule:CCO"}),
        ("What has a gap in eV above 9?", set()),
    ],
)
def test_stored_answers_come_with_their_proof(
    graph: KnowledgeGraph, question: str, expected: set[str]
) -> None:
    answer = ask(graph, question)
    assert {candidate.name for candidate in answer.chosen} == expected
    assert all(candidate.stored for candidate in answer.chosen)
    assert set(answer.proof) <= set(EDGES)
    assert all(any(name in triple for triple in answer.proof) for name in expected)
    assert ("no answer in this graph" in answer.text) == (not expected)


def test_what_a_mention_was_taken_for_is_said(graph: KnowledgeGraph) -> None:
    answer = ask(graph, "What has the ring c1ccccc1?")
    lines = explain(answer, graph).splitlines()
    assert lines[0] == "in the graph: molecule:Cc1ccccc1, molecule:Nc1ccccc1"
    assert lines[1] == "query: ring:c1ccccc1 -> has_ring inv"
    assert lines[2] == "took 'c1ccccc1' for ring:c1ccccc1 (similarity of names 1.00)"
    assert lines[3:] == [f"  {h} -> {r} -> {t}" for h, r, t in (EDGES[0], EDGES[2])]
    assert explain(answer, graph, most=1).splitlines()[-1] == "  and 1 more edges"


class Expects:
    """Expects one edge that the graph lacks."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self.graph = graph

    def __call__(self, sources: np.ndarray, relation: int, inverse: bool) -> np.ndarray:
        table = np.zeros((len(self.graph.entities),) * 2)
        head = self.graph.entities.index("molecule:CCO")
        tail = self.graph.entities.index("group:alcohol")
        if self.graph.relations[relation] == "has_group":
            table[(tail, head) if inverse else (head, tail)] = 0.8
        return table[sources]


def test_predictions_are_marked_and_no_answer_beats_a_stored_one(graph: KnowledgeGraph) -> None:
    guessed = ask(graph, 'What is the group of "CCO"?', model=Expects)
    assert guessed.text == "predicted, not certain: group:alcohol (0.80)"
    assert guessed.chosen[0].probability == 0.8
    assert not guessed.chosen[0].stored
    assert guessed.proof == ()
    assert ask(graph, 'What is the group of "CCO"?').chosen == ()
    both = ask(graph, 'What has the group "alcohol"?', model=Expects)
    assert both.text == "in the graph: molecule:CO"
    assert [(c.name, c.stored) for c in both.candidates] == [
        ("molecule:CO", True),
        ("molecule:CCO", False),
    ]
    # Around the question alone, with fewer entities than the graph has.
    assert ask(graph, 'What is the group of "CCO"?', model=Expects, nodes=3).text == guessed.text


def test_guesses_come_beside_stored_answers(graph: KnowledgeGraph) -> None:
    noted = replace(graph, notes=("Groups follow from SMILES.",))
    question = 'What has the group "alcohol"?'
    lines = explain(ask(noted, question, model=Expects), noted).splitlines()
    assert lines[0] == "in the graph: molecule:CO"
    assert lines[-2:] == [
        "further guesses, predicted, not certain: molecule:CCO (0.80)",
        "note: Groups follow from SMILES.",
    ]
    assert "note" not in explain(ask(noted, question), noted)
    assert "further" not in explain(ask(noted, 'What is the group of "CCO"?', model=Expects), noted)


def test_no_stored_answer_is_left_out() -> None:
    heads = [f"m{i}" for i in range(120)]
    many = graph_from_names(heads, ["bin"] * 120, ["x"] * 120)
    assert {c.name for c in ask(many, 'What has the bin "x"?').chosen} == set(heads)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("Tell me", "expected 'What'"),
        ("What has the colour red?", "expected a relation, one of: ring, group, look-alike"),
        ("What has a gap in eV above all?", "expected a number"),
        ("What has the ring ?", "expected a name"),
        ('What has the ring "c1ccccc1" or so?', "expected 'and' or the end"),
        ("What both has the ring x?", "expected 'and' after 'both'"),
        ("What has the ring 7777?", "no entity's name is like '7777'"),
    ],
)
def test_questions_not_understood_say_why(
    graph: KnowledgeGraph, question: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        ask(graph, question)


def test_relations_of_one_noun_keep_their_names() -> None:
    graph = graph_from_names(["a", "a"], ["has_ring", "ring"], ["b", "c"])
    vocabulary = Vocabulary.of(graph)
    assert vocabulary.relations == {"has_ring": "has ring", "ring": "ring"}
    for relation in graph.relations:
        query = Hop(Anchor("a"), relation)
        assert read_question(vocabulary.ask(query), vocabulary) == query


def test_weights_of_a_mention_fall_with_the_distance_of_names(graph: KnowledgeGraph) -> None:
    linker = EntityLinker.of(graph)
    vectors = linker.vectoriser.transform(["primary amin", *graph.entities]).toarray()
    distances = np.linalg.norm(vectors[1:] - vectors[0], axis=1)
    labels = linker.vectoriser.transform([n.partition(":")[2] for n in graph.entities]).toarray()
    distances = np.minimum(distances, np.linalg.norm(labels - vectors[0], axis=1))
    weights = np.exp(-(distances**2) / (2 * 0.1**2))
    found = linker.membership("primary amin")
    linked = found > 0
    np.testing.assert_allclose(found[linked], (weights / weights.max())[linked], rtol=1e-6)
    assert graph.entities[int(found.argmax())] == "group:primary amine"
    assert linker.membership("CO").sum() == 1


def test_pagerank_is_that_of_networkx(random_graph: Callable[..., KnowledgeGraph]) -> None:
    graph = random_graph(2, draws=60, entities=20)
    # Without loops, which networkx counts once.
    triples = graph.triples[graph.triples[:, 0] != graph.triples[:, 2]]
    graph = replace(graph, triples=triples)
    shape = nx.MultiGraph((h, t) for h, _, t in triples.tolist())
    shape.add_nodes_from(range(20))
    start = np.zeros(20)
    start[[3, 4]] = 1.0, 3.0
    expected = nx.pagerank(shape, 0.85, personalization={3: 1.0, 4: 3.0}, tol=1e-12)
    found = personalised_pagerank(graph, start, steps=200)
    np.testing.assert_allclose(found, [expected[i] for i in range(20)], atol=1e-10)
    kept = around(graph, start, 6)
    assert len(kept) == 6
    assert {3, 4} <= set(kept.tolist())
    part = restrict(graph, kept)
    inside = [t for t in triples.tolist() if t[0] in kept and t[2] in kept]
    named = {(part.entities[h], r, part.entities[t]) for h, r, t in part.triples.tolist()}
    assert named == {(graph.entities[h], r, graph.entities[t]) for h, r, t in inside}
    with pytest.raises(InputError, match="weights to start from"):
        personalised_pagerank(graph, np.zeros(20))


def test_a_sample_keeps_what_its_molecules_are_joined_to(graph: KnowledgeGraph) -> None:
    kinds = {name: name.partition(":")[0] for name in graph.entities}
    whole = graph_from_names(*map(list, zip(*EDGES, strict=True)), kinds=kinds)
    part = sampled_part(whole, 3, np.random.default_rng(0))
    chosen = {name for name in part.entities if kinds[name] == "molecule"}
    assert len(chosen) == 3
    inside = {
        (h, r, t) for h, r, t in EDGES if h in chosen and (t in chosen or kinds[t] != kinds[h])
    }
    found = {(part.entities[h], part.relations[r], part.entities[t]) for h, r, t in part.triples}
    assert found == inside
    assert set(part.entities) == chosen | {t for _, _, t in inside}
    assert sampled_part(whole, 99, np.random.default_rng(0)).entities == whole.entities
    untyped = sampled_part(graph, 3, np.random.default_rng(0))
    assert len(untyped.entities) == 3
    assert len(untyped.triples)
    with pytest.raises(InputError, match="without edges"):
        sampled_part(replace(graph, triples=graph.triples[:0]), 3, np.random.default_rng(0))


class Scripted:
    """A language model with its replies written down."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.prompts = list(replies), []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return self.replies.pop(0)


def test_a_language_model_may_read_judge_and_word(graph: KnowledgeGraph) -> None:
    model = Scripted("ring -> of", "AND(alcohol -> has_colour", "alcohol -> has_group inv")
    answer = ask(graph, "Any alcohols?", read=reader_of(model, graph))
    assert [candidate.name for candidate in answer.chosen] == ["molecule:CO"]
    assert "has_ring, has_group, similar_to" in model.prompts[0]
    assert "molecule:CO" not in model.prompts[0]
    assert "there is no relation 'of'" in model.prompts[1]
    with pytest.raises(InputError, match="expected"):
        reader_of(Scripted("?", "?", ")"), graph)("Any?")

    candidates = [Candidate(i, f"e{i}", 0.5, False) for i in range(3)]
    judge = arbiter_of(Scripted("7", "3, 1"))
    assert judge("Which?", candidates) == (candidates[2], candidates[0])
    assert arbiter_of(Scripted("None"))("Which?", candidates) == ()

    plain = Vocabulary.of(graph).ask
    query = parse_query("alcohol -> has_group inv")
    wording = wording_of(Scripted("Which ones?", "Which is an alcohol?"), plain)
    assert wording(query) == "Which is an alcohol?"


def test_commands(graph: KnowledgeGraph, tmp_path: Path) -> None:
    file, out = tmp_path / "graph.nt", tmp_path / "questions.jsonl"
    write_graph(graph, file)
    question = "What has the ring c1ccccc1 and has a gap in eV above 5.5?"
    result = CliRunner().invoke(app, ["knowledge", "ask", str(file), question])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("in the graph: molecule:Cc1ccccc1\n")
    command = ["knowledge", "questions", str(file), str(out), "--per-template", "2"]
    shapes = ["--template", "(1)", "--template", "(1)(1)"]
    result = CliRunner().invoke(app, [*command, *shapes])
    assert result.exit_code == 0, result.output
    questions = read_questions(out, GraphStore.of(graph))
    assert [q.template for q in questions] == ["(1)", "(1)", "(1)(1)", "(1)(1)"]
    result = CliRunner().invoke(app, [*command[:3], str(tmp_path / "more.jsonl")])
    assert isinstance(result.exception, InputError)
    assert not list(tmp_path.glob("more*"))


def test_bounds_join_anchors(graph: KnowledgeGraph) -> None:
    vocabulary = Vocabulary.of(graph)
    ring = Hop(Anchor("c1ccccc1"), "has_ring", inverse=True)
    query = And((ring, Bound("gap_ev", "<", -1.5e-7), Bound("gap_ev", ">", 2.0)))
    assert read_question(vocabulary.ask(query), vocabulary) == query
    assert read_question(vocabulary.ask(Hop(query, "has_group")), vocabulary).start == query
