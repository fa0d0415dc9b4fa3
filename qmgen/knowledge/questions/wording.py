"""Logical queries in plain English, word by word, so that the English has one meaning.

A question is `What ...?` with clauses that an answer fits:

    is the <noun> of <which>        edges from a set
    has the <noun> <which>          edges to a set
    has a <quantity> above 5        or below
    both <clause> and <clause>      an intersection within a path
    <clause> and <clause> and ...   an intersection at the top

where <which> is a name in double quotes or `what <clause>`. `reading` reads it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Anchor, And, Bound, Query


@runtime_checkable
class Wording(Protocol):
    """What puts a query into words, such as `Vocabulary.ask` or a language model."""

    def __call__(self, query: Query) -> str:
        """A question whose answers are those of the query."""
        ...


# Where a name of `molecular_graph` is no noun.
NOUNS = {
    "similar_to": "look-alike",
    "energy_hartree": "energy in Hartree",
    "homo_ev": "HOMO in eV",
    "lumo_ev": "LUMO in eV",
    "gap_ev": "gap in eV",
    "dipole_debye": "dipole in Debye",
}


@dataclass(frozen=True)
class Vocabulary:
    """Nouns of a graph's relations and quantities.

    Attributes
    ----------
    relations, quantities
        Noun by name, each at most once.
    """

    relations: Mapping[str, str]
    quantities: Mapping[str, str]

    @classmethod
    def of(cls, graph: KnowledgeGraph, nouns: Mapping[str, str] = NOUNS) -> "Vocabulary":
        """Make nouns of names: `has_ring_system` becomes `ring system`.

        Where two relations would have one noun, both keep their names, underscores as blanks.
        """
        return cls(
            _distinct(graph.relations, nouns),
            _distinct(tuple(quantity.name for quantity in graph.quantities), nouns),
        )

    def ask(self, query: Query) -> str:
        """A question for a query.

        Raises
        ------
        InputError
            If the query has a relation or quantity without a noun.
        """
        parts = query.parts if isinstance(query, And) else (query,)
        return f"What {' and '.join(self._clause(part) for part in parts)}?"

    def _clause(self, query: Query) -> str:
        if isinstance(query, Anchor):
            return f"is {_quoted(query.name)}"
        if isinstance(query, Bound):
            side = "above" if query.comparison == ">" else "below"
            return f"has a {_noun(self.quantities, query.quantity)} {side} {query.value!r}"
        if isinstance(query, And):
            first, *others = query.parts
            rest = others[0] if len(others) == 1 else And(tuple(others))
            return f"both {self._clause(first)} and {self._clause(rest)}"
        noun, start = _noun(self.relations, query.relation), self._which(query.start)
        return f"has the {noun} {start}" if query.inverse else f"is the {noun} of {start}"

    def _which(self, query: Query) -> str:
        return _quoted(query.name) if isinstance(query, Anchor) else f"what {self._clause(query)}"


def _noun(nouns: Mapping[str, str], name: str) -> str:
    if name not in nouns:
        raise InputError(f"there is no noun for {name!r}; known are {', '.join(nouns)}")
    return nouns[name]


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _distinct(names: tuple[str, ...], nouns: Mapping[str, str]) -> dict[str, str]:
    plain = {name: " ".join(name.replace("_", " ").lower().split()) for name in names}
    short = {name: nouns.get(name, plain[name].removeprefix("has ")) for name in names}
    chosen = list(short.values())
    return {name: short[name] if chosen.count(short[name]) == 1 else plain[name] for name in names}
