"""A knowledge graph: named entities and relations, and triples of their numbers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from qmgen.errors import InputError


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
