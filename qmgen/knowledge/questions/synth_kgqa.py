"""Questions with answers and the triples that prove them, from any knowledge graph.

SynthKGQA (Cattaneo et al., 2511.04473): a small part of the graph is drawn, something proposes a
question whose answer is in it, and the question is kept only if the graph itself, asked in SPARQL,
confirms it. Here a rule proposes, which places a template in the part; a language model may, in
its place.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, runtime_checkable

import numpy as np

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Query, anchors_of, keep_leaves
from qmgen.knowledge.queries.symbolic_execution import number_of
from qmgen.knowledge.questions.subgraphs import Neighbours, sample_subgraph
from qmgen.knowledge.questions.templates import TEMPLATES, Template, find_instance, has_shape
from qmgen.knowledge.questions.wording import Vocabulary, Wording
from qmgen.knowledge.sparql import GraphStore, Triple

MOST_ANSWERS = 10


@dataclass(frozen=True)
class Proposal:
    """A question that may be one: its query, one answer, and triples that prove that answer."""

    query: Query
    answer: int
    triples: tuple[Triple, ...]


@runtime_checkable
class Proposer(Protocol):
    """What proposes a question of a template from a part of a graph, or None."""

    def __call__(
        self,
        graph: KnowledgeGraph,
        part: tuple[Triple, ...],
        template: Template,
        rng: np.random.Generator,
    ) -> Proposal | None:
        """Propose a question."""
        ...


@dataclass(frozen=True)
class Question:
    """A question that the graph confirms.

    Attributes
    ----------
    text
        In words.
    query
        As a logical query.
    template
        Name of its shape.
    seeds
        Entities that the question names, in the query's order.
    answers
        All answers that the graph has, in ascending order.
    support
        Triples that prove one of them, one for each hop.
    evidence
        All triples that take part in proving any answer, of the minimal query.
    minimal
        The query with the fewest of its seeds that has the same answers: the query itself if no
        seed is redundant.
    """

    text: str
    query: Query
    template: str
    seeds: tuple[int, ...]
    answers: tuple[int, ...]
    support: tuple[Triple, ...]
    evidence: tuple[Triple, ...]
    minimal: Query

    @property
    def redundant(self) -> bool:
        """Whether fewer seeds would do."""
        return self.minimal != self.query


def propose_by_rule(
    graph: KnowledgeGraph,
    part: tuple[Triple, ...],
    template: Template,
    rng: np.random.Generator,
) -> Proposal | None:
    """Propose a random place of a template in a part."""
    instance = find_instance(part, template, rng)
    if instance is None:
        return None
    query = instance.query(graph.entities, graph.relations)
    return Proposal(query, instance.answer, instance.triples)


def minimal_query(store: GraphStore, query: Query, answers: frozenset[int]) -> Query:
    """The query with the fewest of its seeds that has no more answers (the first of several)."""
    seeds = len(anchors_of(query))
    for size in range(1, seeds):
        for kept in combinations(range(seeds), size):
            fewer = keep_leaves(query, frozenset(kept))
            if fewer is not None and store.answers(fewer) == answers:
                return fewer
    return query


def confirm(
    store: GraphStore,
    proposal: Proposal,
    template: Template,
    part: Iterable[Triple],
    wording: Wording,
    most_answers: int = MOST_ANSWERS,
) -> Question | None:
    """Make a question of a proposal if the graph confirms it, else None.

    It does if the query's names are of the graph, the triples are in the part and have the shape of
    the template, and the query in SPARQL finds the answer, and not too many.
    """
    names = anchors_of(proposal.query)
    try:
        seeds = tuple(number_of(name, store.graph.entities, "entity") for name in names)
    except InputError:
        return None
    if not set(proposal.triples) <= set(part):
        return None
    if not has_shape(proposal.triples, seeds, proposal.answer, template):
        return None
    answers = store.answers(proposal.query)
    if proposal.answer not in answers or len(answers) > most_answers:
        return None
    minimal = minimal_query(store, proposal.query, answers)
    return Question(
        text=wording(proposal.query),
        query=proposal.query,
        template=template.name,
        seeds=seeds,
        answers=tuple(sorted(answers)),
        support=proposal.triples,
        evidence=tuple(sorted(store.evidence(minimal))),
        minimal=minimal,
    )


def make_questions(
    store: GraphStore,
    rng: np.random.Generator,
    per_template: int,
    *,
    templates: tuple[Template, ...] = TEMPLATES,
    propose: Proposer = propose_by_rule,
    wording: Wording | None = None,
    tries: int = 100,
) -> Iterator[Question]:
    """Draw questions, each query at most once, until every template has so many.

    Parameters
    ----------
    store
        The graph, ready for SPARQL.
    rng
        Source of randomness.
    per_template
        Questions of each template.
    templates
        Shapes to ask in.
    propose
        What proposes them.
    wording
        What puts them into words; the plain English of `wording` by default.
    tries
        Parts of the graph to draw for each question before giving up.

    Raises
    ------
    InputError
        If the graph doesn't have so many questions of a template; those found come before.
    """
    neighbours = Neighbours.of(store.graph)
    wording = Vocabulary.of(store.graph).ask if wording is None else wording
    seen: set[Query] = set()
    for template in templates:
        found, left = 0, per_template * tries
        while found < per_template:
            if not left:
                raise InputError(
                    f"the graph gave only {found} of {per_template} questions of the template "
                    f"{template.name} in {per_template * tries} tries; ask for fewer, or leave "
                    "this template out"
                )
            left -= 1
            part = sample_subgraph(neighbours, rng)
            proposal = propose(store.graph, part, template, rng)
            if proposal is None or proposal.query in seen:
                continue
            question = confirm(store, proposal, template, part, wording)
            if question is not None:
                seen.add(question.query)
                found += 1
                yield question


def by_template(questions: Iterable[Question]) -> dict[str, int]:
    """Number of questions of each template."""
    return dict(Counter(question.template for question in questions))
