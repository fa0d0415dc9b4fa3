"""A knowledge graph: named entities and relations, and triples of their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64

from qmgen.errors import InputError

UNTYPED = "entity"
"""Type of entities whose kind nobody states."""


@dataclass(frozen=True)
class Quantity:
    """A number that entities may have, such as a molecule's gap.

    Attributes
    ----------
    name
        Field's name, with the unit in it, such as `gap_ev`.
    description
        What it is and where it comes from (method, basis), in words.
    values
        One for each entity of the graph; NaN where an entity has none.
    """

    name: str
    description: str
    values: Float[np.ndarray, " entities"]


@dataclass(frozen=True)
class KnowledgeGraph:
    """Directed edges with names between entities.

    Attributes
    ----------
    entities, relations
        Names, each at most once; a number below is a place in them.
    triples
        Head, relation and tail of each edge, each edge at most once.
    types
        Names of the kinds of entity.
    type_of
        Kind of each entity.
    quantities
        Numbers that entities have.
    notes
        What a user of the graph should know, such as how edges were made; a sentence each.

    Raises
    ------
    InputError
        If a name occurs twice, or a number stands for nothing.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    triples: Int[np.ndarray, "n 3"]
    types: tuple[str, ...]
    type_of: Int[np.ndarray, " entities"]
    quantities: tuple[Quantity, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, names in (("entity", self.entities), ("relation", self.relations)):
            if len(set(names)) != len(names):
                raise InputError(f"the graph names an {what} twice")
        sizes = np.array([len(self.entities), len(self.relations), len(self.entities)])
        if self.triples.size and not ((self.triples >= 0) & (self.triples < sizes)).all():
            raise InputError("a triple of the graph has a number that no entity or relation has")
        if self.type_of.shape != (len(self.entities),):
            raise InputError("the graph must give one type for each entity")
        if self.type_of.size and not ((self.type_of >= 0) & (self.type_of < len(self.types))).all():
            raise InputError("an entity of the graph has a type without a name")

    def of_type(self, name: str) -> Int64[np.ndarray, " n"]:
        """Give the numbers of the entities of a type, ascending.

        Raises
        ------
        InputError
            The graph has no such type.
        """
        if name not in self.types:
            raise InputError(f"the graph has no type {name!r}; it has {', '.join(self.types)}")
        return np.flatnonzero(self.type_of == self.types.index(name))


def graph_from_names(
    heads: Sequence[str],
    relations: Sequence[str],
    tails: Sequence[str],
    kinds: Mapping[str, str] | None = None,
    quantities: Mapping[str, tuple[str, Mapping[str, float]]] | None = None,
    notes: Sequence[str] = (),
) -> KnowledgeGraph:
    """Make a graph of the names of its edges' ends.

    Entities come in the order of `kinds`, then of their first edge; relations and types in the
    order of their first use. An edge that is given twice is one edge.

    Parameters
    ----------
    heads, relations, tails
        Names for each edge.
    kinds
        Type of entities, which may have no edge; that of others is `entity`.
    quantities
        Description and values by entity of each quantity, by its name.
    notes
        Of the graph.

    Raises
    ------
    InputError
        The three have different lengths.
    """
    if not len(heads) == len(relations) == len(tails):
        raise InputError("heads, relations and tails must be as many as there are edges")
    kinds, quantities = kinds or {}, quantities or {}
    valued = (name for _, values in quantities.values() for name in values)
    ends = (name for edge in zip(heads, tails, strict=True) for name in edge)
    number = {name: i for i, name in enumerate(dict.fromkeys([*kinds, *ends, *valued]))}
    relation = {name: i for i, name in enumerate(dict.fromkeys(relations))}
    kind = [kinds.get(name, UNTYPED) for name in number]
    types = tuple(dict.fromkeys(kind))
    places = {name: i for i, name in enumerate(types)}
    edges = [
        (number[h], relation[r], number[t]) for h, r, t in zip(heads, relations, tails, strict=True)
    ]
    found = []
    for name, (description, by_entity) in quantities.items():
        values = np.full(len(number), np.nan)
        values[[number[entity] for entity in by_entity]] = list(by_entity.values())
        found.append(Quantity(name, description, values))
    return KnowledgeGraph(
        tuple(number),
        tuple(relation),
        distinct_triples(np.array(edges, dtype=np.int64).reshape(-1, 3)),
        types,
        np.array([places[k] for k in kind], dtype=np.int64),
        tuple(found),
        tuple(notes),
    )


def distinct_triples(triples: Int[np.ndarray, "n 3"]) -> Int64[np.ndarray, "m 3"]:
    """Give each triple once, sorted by relation, head and tail."""
    order = np.lexsort((triples[:, 2], triples[:, 0], triples[:, 1]))
    ordered = triples[order].astype(np.int64)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[new]
