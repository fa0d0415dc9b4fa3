"""The seven shapes of questions of SynthKGQA (Cattaneo et al., 2511.04473).

A shape is named by its branches, as the number of hops from each seed to where branches meet:
(2)(1) is a seed two hops and another one hop from the answer, and ((1)(1)) two seeds one hop from
an entity that the answer is a hop from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from qmgen.errors import InputError
from qmgen.knowledge.queries.logical_query import Anchor, And, Hop, Query
from qmgen.knowledge.sparql import Triple


@dataclass(frozen=True)
class Template:
    """A shape of a question.

    Attributes
    ----------
    name
        Name in the paper.
    branches
        Hops from each seed to where branches meet.
    after
        Hops from there to the answer.
    """

    name: str
    branches: tuple[int, ...]
    after: int = 0

    @property
    def hops(self) -> int:
        """Hops from the farthest seed to the answer."""
        return max(self.branches) + self.after


TEMPLATES = (
    Template("(1)", (1,)),
    Template("(2)", (2,)),
    Template("(3)", (3,)),
    Template("(1)(1)", (1, 1)),
    Template("(2)(1)", (2, 1)),
    Template("(1)(1)(1)", (1, 1, 1)),
    Template("((1)(1))", (1, 1), after=1),
)


def template_of(name: str) -> Template:
    """The template of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    for template in TEMPLATES:
        if template.name == name:
            return template
    known = ", ".join(template.name for template in TEMPLATES)
    raise InputError(f"no template is called {name!r}; there are {known}")


@dataclass(frozen=True)
class Step:
    """An edge, and whether it's walked from head to tail."""

    triple: Triple
    forward: bool

    @property
    def start(self) -> int:
        """Entity that the step starts from."""
        return self.triple[0] if self.forward else self.triple[2]

    @property
    def end(self) -> int:
        """Entity that the step leads to."""
        return self.triple[2] if self.forward else self.triple[0]


@dataclass(frozen=True)
class Instance:
    """Where a template is in a graph: the steps of each branch, from its seed, and those after."""

    branches: tuple[tuple[Step, ...], ...]
    after: tuple[Step, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Entity that each branch starts from."""
        return tuple(branch[0].start for branch in self.branches)

    @property
    def answer(self) -> int:
        """Entity that the last step leads to."""
        return (self.after or self.branches[0])[-1].end

    @property
    def triples(self) -> tuple[Triple, ...]:
        """All edges."""
        steps = (step for path in (*self.branches, self.after) for step in path)
        return tuple(step.triple for step in steps)

    def query(self, entities: tuple[str, ...], relations: tuple[str, ...]) -> Query:
        """The query that asks for the answer."""

        def walk(start: Query, steps: tuple[Step, ...]) -> Query:
            for step in steps:
                start = Hop(start, relations[step.triple[1]], not step.forward)
            return start

        paths = tuple(
            walk(Anchor(entities[seed]), branch)
            for seed, branch in zip(self.seeds, self.branches, strict=True)
        )
        return walk(paths[0] if len(paths) == 1 else And(paths), self.after)


def find_instance(
    triples: Iterable[Triple], template: Template, rng: np.random.Generator
) -> Instance | None:
    """A random place of a template among triples, with no entity in two roles; None without one."""
    steps: Steps = {}
    for triple in triples:
        steps.setdefault(triple[2], []).append(Step(triple, True))
        steps.setdefault(triple[0], []).append(Step(triple, False))
    for answer in rng.permutation(sorted(steps)).tolist():
        for after, used in _into(steps, answer, template.after, frozenset((answer,)), rng):
            meeting = after[0].start if after else answer
            for branches in _branches(steps, meeting, template.branches, used, rng):
                return Instance(branches, after)
    return None


Steps = dict[int, list[Step]]


def _into(
    steps: Steps, end: int, hops: int, used: frozenset[int], rng: np.random.Generator
) -> Iterator[tuple[tuple[Step, ...], frozenset[int]]]:
    """Paths of so many hops to an entity that keep off used ones, and what is used with them."""
    if not hops:
        yield (), used
        return
    for place in rng.permutation(len(steps[end])).tolist():
        last = steps[end][place]
        if last.start not in used:
            for path, seen in _into(steps, last.start, hops - 1, used | {last.start}, rng):
                yield (*path, last), seen


def _branches(
    steps: Steps, end: int, lengths: tuple[int, ...], used: frozenset[int], rng: np.random.Generator
) -> Iterator[tuple[tuple[Step, ...], ...]]:
    """Paths of given lengths to an entity that share no other."""
    if not lengths:
        yield ()
        return
    for path, seen in _into(steps, end, lengths[0], used, rng):
        for others in _branches(steps, end, lengths[1:], seen, rng):
            yield (path, *others)


def has_shape(
    triples: Iterable[Triple], seeds: tuple[int, ...], answer: int, template: Template
) -> bool:
    """Whether triples look like a template.

    They do if their graph without directions, its nodes coloured as seed, answer and other, is
    isomorphic to the template's.
    """

    def coloured(edges: Iterable[tuple[object, object]], seeds: set, answer: object) -> nx.Graph:
        shape = nx.Graph(edges)
        colours = {
            node: "answer" if node == answer else "seed" if node in seeds else "other"
            for node in shape
        }
        nx.set_node_attributes(shape, colours, "colour")
        return shape

    last = [("after", i) for i in range(template.after + 1)]
    edges: list[tuple[object, object]] = [*pairwise(last)]
    for branch, hops in enumerate(template.branches):
        path = [*((branch, hop) for hop in range(hops)), ("after", 0)]
        edges += pairwise(path)
    starts: set = {(branch, 0) for branch in range(len(template.branches))}
    expected = coloured(edges, starts, ("after", template.after))
    found = coloured([(head, tail) for head, _, tail in triples], set(seeds), answer)
    same = nx.algorithms.isomorphism.categorical_node_match("colour", None)
    return bool(nx.is_isomorphic(found, expected, node_match=same))
