"""From a question to an answer with its proof.

UltRAG (Georgiev et al., 2603.28773): the question becomes a logical query, its mentions fuzzy sets
of entities, the query is executed, and the 50 likeliest entities go to an arbiter. Here the query
is executed on stored edges first, with the likeliest entity of each mention. Whatever these answer
goes to the arbiter, and the 50 likeliest guesses of a model if one is given, always marked as
predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qmgen.knowledge.answering.candidates import Arbiter, Candidate, judge_by_rule
from qmgen.knowledge.answering.entity_linking import EntityLinker, Link
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.graph_parts import restrict
from qmgen.knowledge.personalised_pagerank import NODES, around
from qmgen.knowledge.queries.fuzzy_execution import FuzzyExecutor, TailModel
from qmgen.knowledge.queries.logical_query import Anchor, And, Hop, Query, leaves_of, print_query
from qmgen.knowledge.queries.symbolic_execution import SymbolicExecutor, answers, number_of
from qmgen.knowledge.questions.reading import read_question
from qmgen.knowledge.questions.wording import Vocabulary
from qmgen.knowledge.sparql import GraphStore

CANDIDATES = 50
# Guesses that are listed beside an answer: so many, and none that rounds to nothing.
GUESSES, LEAST_GUESS = 10, 0.01


@dataclass(frozen=True)
class Answer:
    """An answer and where it comes from.

    Attributes
    ----------
    question
        As it was asked.
    query
        What it was understood as, with names of entities in place of mentions.
    links
        What each mention was taken for.
    chosen
        The answers, best first.
    candidates
        All that the arbiter chose from.
    proof
        Triples by name that prove the chosen answers that are stored.
    """

    question: str
    query: Query
    links: tuple[Link, ...]
    chosen: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    proof: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        """The answer as a line or two."""
        stored = [c.name for c in self.chosen if c.stored]
        guessed = [f"{c.name} ({c.probability:.2f})" for c in self.chosen if not c.stored]
        lines = []
        if stored:
            lines.append(f"in the graph: {', '.join(stored)}")
        if guessed:
            lines.append(f"predicted, not certain: {', '.join(guessed)}")
        return "\n".join(lines) or "no answer in this graph, which may lack it"


def ask(
    graph: KnowledgeGraph,
    question: str,
    *,
    read: Callable[[str], Query] | None = None,
    model: Callable[[KnowledgeGraph], TailModel] | None = None,
    judge: Arbiter = judge_by_rule,
    candidates: int = CANDIDATES,
    nodes: int = NODES,
) -> Answer:
    """Answer a question.

    Parameters
    ----------
    graph
        Where to look.
    question
        In words that `read` understands.
    read
        From words to a query; the plain English of `questions.reading` by default.
    model
        Makes a model of missing edges for a graph; without, only stored edges count.
    judge
        What chooses the answers.
    candidates
        Most guesses that it sees, beside all stored answers.
    nodes
        Entities around those of the question that a model works on, by personalised PageRank.

    Raises
    ------
    InputError
        If the question isn't understood, or names what the graph lacks.
    """
    if read is None:
        vocabulary = Vocabulary.of(graph)
        query = read_question(question, vocabulary)
    else:
        query = read(question)
    linker = EntityLinker.of(graph)
    edges = SymbolicExecutor.of(graph)
    links: list[Link] = []
    exact = _linked(query, linker, edges, np.ones(len(graph.entities), bool), links)
    stored = answers(edges, exact)
    membership = np.zeros(len(graph.entities))
    if model is not None:
        leaves = linker.leaves()
        start = sum((leaves(leaf) for leaf in leaves_of(query)), np.zeros(len(graph.entities)))
        kept = around(graph, start, nodes)
        part = restrict(graph, kept)
        executor = FuzzyExecutor(SymbolicExecutor.of(part), model(part))
        membership[kept] = executor(query, lambda leaf: leaves(leaf)[kept])
    membership[sorted(stored)] = 1.0
    found = _candidates(graph, membership, stored, candidates)
    chosen = judge(question, found)
    return Answer(question, exact, tuple(links), chosen, found, _proof(graph, exact, chosen))


def _linked(
    query: Query,
    linker: EntityLinker,
    edges: SymbolicExecutor,
    suited: np.ndarray,
    links: list[Link],
) -> Query:
    """A query with the likeliest entity's name in place of each mention, which `links` gets.

    An entity is suited if it has an edge of the relation that follows it.
    """
    if isinstance(query, Hop):
        relation = number_of(query.relation, linker.graph.relations, "relation")
        has_edge = edges.matrices[relation].sum(axis=0 if query.inverse else 1) > 0
        start = _linked(query.start, linker, edges, has_edge, links)
        return Hop(start, query.relation, query.inverse)
    if isinstance(query, And):
        return And(tuple(_linked(part, linker, edges, suited, links) for part in query.parts))
    if isinstance(query, Anchor):
        links.append(linker.link(query.name, suited))
        return Anchor(linker.graph.entities[links[-1].entity])
    return query


def _candidates(
    graph: KnowledgeGraph, membership: np.ndarray, stored: frozenset[int], most: int
) -> tuple[Candidate, ...]:
    """All stored answers, then the likeliest others; those impossible are left out."""
    is_stored = np.isin(np.arange(len(membership)), sorted(stored))
    order = np.lexsort((-membership, ~is_stored))[: len(stored) + most]
    return tuple(
        Candidate(int(i), graph.entities[i], float(membership[i]), bool(is_stored[i]))
        for i in order
        if membership[i] > 0
    )


def _proof(
    graph: KnowledgeGraph, query: Query, chosen: tuple[Candidate, ...]
) -> tuple[tuple[str, str, str], ...]:
    store = GraphStore.of(graph) if any(c.stored for c in chosen) else None
    found = dict.fromkeys(
        triple
        for candidate in chosen
        if store is not None and candidate.stored
        for triple in sorted(store.evidence(query, candidate.entity))
    )
    return tuple((graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in found)


def explain(answer: Answer, graph: KnowledgeGraph, most: int = 20) -> str:
    """What was asked, understood, found and why, as lines of text.

    Guesses that were not chosen come last, with what the graph notes about itself.

    Parameters
    ----------
    answer
        Of `ask`.
    graph
        That was asked.
    most
        Triples of the proof to list.
    """
    lines = [answer.text, f"query: {print_query(answer.query)}"]
    lines += [
        f"took {link.mention!r} for {graph.entities[link.entity]} "
        f"(similarity of names {link.similarity:.2f})"
        for link in answer.links
        if graph.entities[link.entity] != link.mention
    ]
    lines += [f"  {h} -> {r} -> {t}" for h, r, t in answer.proof[:most]]
    if len(answer.proof) > most:
        lines.append(f"  and {len(answer.proof) - most} more edges")
    guesses = [c for c in answer.candidates if not c.stored and c.probability >= LEAST_GUESS]
    others = [c for c in guesses if c not in answer.chosen][:GUESSES]
    if others:
        listed = ", ".join(f"{c.name} ({c.probability:.2f})" for c in others)
        lines.append(f"further guesses, predicted, not certain: {listed}")
    if guesses:
        lines += [f"note: {note}" for note in graph.notes]
    return "\n".join(lines)
