"""A knowledge graph in an RDF store, for exact queries in SPARQL 1.1 (through pyoxigraph).

IRIs are those of N-Triples files (`triple_files`); a quantity is a literal of type `xsd:double`, so
that a FILTER on it compares numbers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np
import pyoxigraph

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Anchor, Bound, Hop, Query
from qmgen.knowledge.triple_files import NAMESPACE, iri

# Prefixes that queries may use as they are.
PREFIXES = {kind: f"{NAMESPACE}{kind}:" for kind in ("entity", "relation", "quantity", "type")}
_IS_A = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"

# Head, relation and tail.
Triple = tuple[int, int, int]


def to_pattern(query: Query) -> str:
    """Pattern of a WHERE clause that binds each answer of a query to `?answer`."""
    numbers = iter(range(1, 10**6))
    return " ".join(_patterns(query, "?answer", numbers))


def _patterns(query: Query, variable: str, numbers: Iterator[int]) -> Iterator[str]:
    """Patterns in which a variable is bound to the answers of a query."""
    if isinstance(query, Anchor):
        yield f"VALUES {variable} {{ <{iri('entity', query.name)}> }}"
    elif isinstance(query, Bound):
        value = f"?number{next(numbers)}"
        yield f"{variable} <{iri('quantity', query.quantity)}> {value} ."
        yield f"FILTER({value} {query.comparison} {query.value!r})"
    elif isinstance(query, Hop):
        if isinstance(query.start, Anchor):
            start = f"<{iri('entity', query.start.name)}>"
        else:
            start = f"?step{next(numbers)}"
            yield from _patterns(query.start, start, numbers)
        head, tail = (variable, start) if query.inverse else (start, variable)
        yield f"{head} <{iri('relation', query.relation)}> {tail} ."
    else:
        for part in query.parts:
            yield from _patterns(part, variable, numbers)


def to_sparql(query: Query) -> str:
    """A query for all answers of a logical query."""
    return f"SELECT DISTINCT ?answer WHERE {{ {to_pattern(query)} }}"


@dataclass(frozen=True)
class GraphStore:
    """A graph in a store of triples.

    Attributes
    ----------
    graph
        The graph.
    store
        The store, in memory.
    """

    graph: KnowledgeGraph
    store: pyoxigraph.Store = field(default_factory=pyoxigraph.Store, repr=False)
    _entity_numbers: dict[str, int] = field(default_factory=dict, repr=False)
    _relation_numbers: dict[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> "GraphStore":
        """Fill a store with a graph's triples, types and quantities."""
        store = cls(graph)
        store._entity_numbers.update({name: i for i, name in enumerate(graph.entities)})
        store._relation_numbers.update({name: i for i, name in enumerate(graph.relations)})
        store.store.bulk_extend(_quads(graph))
        return store

    def select(self, text: str) -> list[tuple[str | float | bool | None, ...]]:
        """Rows of a SELECT query, with names in place of IRIs and numbers in place of literals.

        Prefixes `entity:`, `relation:`, `quantity:` and `type:` are known.

        Raises
        ------
        InputError
            If the text is no SELECT query.
        """
        found = self._query(text)
        if not isinstance(found, pyoxigraph.QuerySolutions):
            raise InputError("only SELECT queries give rows; begin the query with SELECT")
        return [tuple(_value(term) for term in row) for row in found]

    def entities_of(self, text: str) -> frozenset[int]:
        """Numbers of the entities in the first column of a SELECT query.

        Raises
        ------
        InputError
            If the text is no SELECT query, or its first column isn't one of entities.
        """
        names = [row[0] for row in self.select(text)]
        strangers = [name for name in names if name not in self._entity_numbers]
        if strangers:
            raise InputError(f"the query's first column has {strangers[0]!r}, which is no entity")
        return frozenset(self._entity_numbers[str(name)] for name in names)

    def answers(self, query: Query) -> frozenset[int]:
        """Numbers of the entities that answer a logical query, all of them and no others."""
        return self.entities_of(to_sparql(query))

    def evidence(self, query: Query, answer: int | None = None) -> frozenset[Triple]:
        """All triples that take part in a solution of a query, with one answer or all."""
        pattern = to_pattern(query)
        if answer is not None:
            name = self.graph.entities[answer]
            pattern += f" VALUES ?answer {{ <{iri('entity', name)}> }}"
        edges = " ".join(p for p in _patterns(query, "?answer", iter(range(1, 10**6))) if _edge(p))
        if not edges:
            return frozenset()
        found = self._query(f"CONSTRUCT {{ {edges} }} WHERE {{ {pattern} }}")
        assert isinstance(found, pyoxigraph.QueryTriples)
        return frozenset(
            (
                self._entity_numbers[str(_value(t.subject))],
                self._relation_numbers[str(_value(t.predicate))],
                self._entity_numbers[str(_value(t.object))],
            )
            for t in found
        )

    def _query(
        self, text: str
    ) -> pyoxigraph.QuerySolutions | pyoxigraph.QueryTriples | pyoxigraph.QueryBoolean:
        try:
            return self.store.query(text, prefixes=PREFIXES)
        except (SyntaxError, ValueError) as error:
            raise InputError(f"SPARQL doesn't understand the query: {error}") from error


def _edge(pattern: str) -> bool:
    """Whether a pattern is one of an edge between entities."""
    return f"<{PREFIXES['relation']}" in pattern


def _quads(graph: KnowledgeGraph) -> Iterable[pyoxigraph.Quad]:
    entities = [pyoxigraph.NamedNode(iri("entity", name)) for name in graph.entities]
    relations = [pyoxigraph.NamedNode(iri("relation", name)) for name in graph.relations]
    types = [pyoxigraph.NamedNode(iri("type", name)) for name in graph.types]
    is_a = pyoxigraph.NamedNode(_IS_A)
    for head, relation, tail in graph.triples.tolist():
        yield pyoxigraph.Quad(entities[head], relations[relation], entities[tail])
    for entity, of_type in zip(entities, graph.type_of.tolist(), strict=True):
        yield pyoxigraph.Quad(entity, is_a, types[of_type])
    for quantity in graph.quantities:
        predicate = pyoxigraph.NamedNode(iri("quantity", quantity.name))
        for place in np.flatnonzero(~np.isnan(quantity.values)).tolist():
            value = pyoxigraph.Literal(float(quantity.values[place]))
            yield pyoxigraph.Quad(entities[place], predicate, value)


def _value(term: object) -> str | float | bool | None:
    if isinstance(term, pyoxigraph.NamedNode):
        for prefix in PREFIXES.values():
            if term.value.startswith(prefix):
                return unquote(term.value.removeprefix(prefix))
        return term.value
    if isinstance(term, pyoxigraph.Literal):
        kind = term.datatype.value.rpartition("#")[2]
        if kind == "boolean":
            return term.value == "true"
        return float(term.value) if kind in ("double", "decimal", "integer") else term.value
    return None
