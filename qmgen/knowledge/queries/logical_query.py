r"""Logical queries: paths and intersections of sets of entities, and the text they are written in.

The grammar is that of UltRAG (Georgiev et al., 2603.28773), where an entity is followed by the
relations of a path, and sets are intersected:

    query := term ("->" name ["inv"])*
    term  := "AND" "(" query ("," query)+ ")" | "(" query ")" | name | name ("<" | ">") number
    name  := word | '"' anything, with \ before quotes and backslashes '"'

`gap_ev > 5`, the set of entities whose quantity is above a number, is an addition to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qmgen.errors import InputError

# Queries of questions have four levels at most; the parser calls itself.
_DEEPEST = 50
_TOKEN = re.compile(
    r'\s*(?:(?P<arrow>->)|(?P<mark>[(),<>])|"(?P<string>(?:[^"\\]|\\.)*)"'
    r"|(?P<word>(?:[\w.:/#+@]|-(?!>))+))"
)
_KEYWORDS = ("AND", "inv")


@dataclass(frozen=True)
class Anchor:
    """A set of one entity, by its name, or of those that a mention may mean."""

    name: str


@dataclass(frozen=True)
class Bound:
    """All entities whose quantity is above (`>`) or below (`<`) a value, both exclusive."""

    quantity: str
    comparison: Literal["<", ">"]
    value: float


@dataclass(frozen=True)
class Hop:
    """Tails of edges from a set, or heads of edges to it if inverse."""

    start: "Query"
    relation: str
    inverse: bool = False


@dataclass(frozen=True)
class And:
    """Intersection of sets, two at least.

    Raises
    ------
    InputError
        If there are fewer.
    """

    parts: tuple["Query", ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise InputError("AND needs two queries at least, as in AND(a -> p, b -> q)")


Leaf = Anchor | Bound
Query = Anchor | Bound | Hop | And


def leaves_of(query: Query) -> tuple[Leaf, ...]:
    """All leaves of a query from left to right."""
    if isinstance(query, Hop):
        return leaves_of(query.start)
    if isinstance(query, And):
        return tuple(leaf for part in query.parts for leaf in leaves_of(part))
    return (query,)


def anchors_of(query: Query) -> tuple[str, ...]:
    """Names of all entities in a query from left to right."""
    return tuple(leaf.name for leaf in leaves_of(query) if isinstance(leaf, Anchor))


def relations_of(query: Query) -> tuple[str, ...]:
    """Names of all relations in a query from left to right, each as often as it is there."""
    if isinstance(query, Hop):
        return (*relations_of(query.start), query.relation)
    if isinstance(query, And):
        return tuple(name for part in query.parts for name in relations_of(part))
    return ()


def keep_leaves(query: Query, kept: frozenset[int]) -> Query | None:
    """A query with some of its leaves, by place in `leaves_of`; None with none of them.

    An intersection of one set is that set.
    """
    return _keep(query, kept, iter(range(len(leaves_of(query)))))


def _keep(query: Query, kept: frozenset[int], places: Iterator[int]) -> Query | None:
    if isinstance(query, Hop):
        start = _keep(query.start, kept, places)
        return None if start is None else Hop(start, query.relation, query.inverse)
    if isinstance(query, And):
        parts = [_keep(part, kept, places) for part in query.parts]
        left = tuple(part for part in parts if part is not None)
        return And(left) if len(left) > 1 else (left[0] if left else None)
    return query if next(places) in kept else None


def print_query(query: Query) -> str:
    """A query as text, which `parse_query` reads back."""
    if isinstance(query, Anchor):
        return _printed_name(query.name)
    if isinstance(query, Bound):
        return f"{_printed_name(query.quantity)} {query.comparison} {query.value!r}"
    if isinstance(query, And):
        return f"AND({', '.join(print_query(part) for part in query.parts)})"
    start = print_query(query.start)
    if isinstance(query.start, Bound):
        start = f"({start})"
    return f"{start} -> {_printed_name(query.relation)}{' inv' if query.inverse else ''}"


def _printed_name(name: str) -> str:
    found = _TOKEN.fullmatch(name)
    if found and found["word"] == name and name not in _KEYWORDS:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_query(text: str) -> Query:
    """Read a query from text.

    Raises
    ------
    InputError
        If the text is none, with what was expected and where.
    """
    parser = _Parser(text)
    query = parser.query(0)
    if parser.kind != "end":
        raise parser.error("the end, '->' or ','" if parser.depth else "the end or '->'")
    return query


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.place, self.depth = text, 0, 0
        self.kind, self.value, self.start = "", "", 0
        self.advance()

    def advance(self) -> None:
        rest = self.text[self.place :]
        self.start = self.place + len(rest) - len(rest.lstrip())
        if not rest.strip():
            self.kind, self.value = "end", ""
            return
        found = _TOKEN.match(self.text, self.place)
        if found is None:
            raise InputError(
                f"a query can't have {self.text[self.start]!r} at place {self.start + 1} of "
                f'{self.text!r}; put names with such characters in "double quotes"'
            )
        self.place = found.end()
        self.kind = str(found.lastgroup)
        self.value = found[self.kind]
        if self.kind == "string":
            self.value = re.sub(r"\\(.)", r"\1", self.value)

    def error(self, expected: str) -> InputError:
        found = "the end" if self.kind == "end" else repr(self.value)
        return InputError(
            f"expected {expected} but found {found} at place {self.start + 1} of the query "
            f"{self.text!r}"
        )

    def mark(self, mark: str) -> bool:
        """Go past a mark if it is the next token."""
        if self.kind == "mark" and self.value == mark:
            self.advance()
            return True
        return False

    def name(self, what: str) -> str:
        if self.kind not in ("word", "string"):
            raise self.error(what)
        name = self.value
        self.advance()
        return name

    def query(self, depth: int) -> Query:
        if depth > _DEEPEST:
            raise InputError(f"a query may be nested {_DEEPEST} levels deep; write it flatter")
        query = self.term(depth)
        while self.kind == "arrow":
            self.advance()
            relation = self.name("the name of a relation")
            inverse = self.kind == "word" and self.value == "inv"
            if inverse:
                self.advance()
            query = Hop(query, relation, inverse)
        return query

    def term(self, depth: int) -> Query:
        if self.mark("("):
            query = self.query(depth + 1)
            if not self.mark(")"):
                raise self.error("')' or '->'")
            return query
        is_word = self.kind == "word"
        name = self.name("the name of an entity, or AND(...)")
        if is_word and name == "AND":
            return self.conjunction(depth)
        for comparison in ("<", ">"):
            if self.mark(comparison):
                return Bound(name, comparison, self.number())
        return Anchor(name)

    def conjunction(self, depth: int) -> Query:
        if not self.mark("("):
            raise self.error("'(' after AND")
        parts = [self.query(depth + 1)]
        while self.mark(","):
            parts.append(self.query(depth + 1))
        if not self.mark(")"):
            raise self.error("')', ',' or '->'")
        return And(tuple(parts))

    def number(self) -> float:
        text, error = self.value, self.error("a number")
        if self.kind != "word":
            raise error
        try:
            value = float(text)
        except ValueError:
            raise error from None
        self.advance()
        return value
