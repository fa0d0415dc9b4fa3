import pytest

from qmgen.errors import InputError
from qmgen.knowledge.queries.logical_query import (
    Anchor,
    And,
    Bound,
    Hop,
    Query,
    anchors_of,
    keep_leaves,
    parse_query,
    print_query,
    relations_of,
)

AMIDE = Hop(Anchor("group:amide"), "has_group", inverse=True)
NITROGEN = Hop(Anchor("N"), "has_element", inverse=True)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("a", Anchor("a")),
        ('"a b\\"\\\\c" -> p', Hop(Anchor('a b"\\c'), "p")),
        ('"C[C@H](O)N"->has_element', Hop(Anchor("C[C@H](O)N"), "has_element")),
        ("a->p->q inv", Hop(Hop(Anchor("a"), "p"), "q", True)),
        ("inv -> inv inv", Hop(Anchor("inv"), "inv", True)),
        ('"AND" -> p', Hop(Anchor("AND"), "p")),
        ("gap_ev<-2.5e1", Bound("gap_ev", "<", -25.0)),
        (
            "AND(group:amide -> has_group inv, N -> has_element inv, gap_ev > 5) -> has_scaffold",
            Hop(And((AMIDE, NITROGEN, Bound("gap_ev", ">", 5.0))), "has_scaffold"),
        ),
        ("(gap_ev > 5) -> q", Hop(Bound("gap_ev", ">", 5.0), "q")),
    ],
)
def test_text_is_read_as_meant_and_printed_back(text: str, query: Query) -> None:
    assert parse_query(text) == query
    assert parse_query(print_query(query)) == query


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected the name of an entity"),
        ("a ->", "expected the name of a relation"),
        ("a -> p q", "expected the end or '->' but found 'q' at place 8"),
        ("AND(a)", "two queries at least"),
        ("AND(a, b", "expected '\\)', ',' or '->' but found the end"),
        ("AND a", "expected '\\(' after AND"),
        ("(a -> p", "expected '\\)'"),
        ("a = b", "can't have '=' at place 3"),
        ('"a', "can't have '\"' at place 1"),
        ("gap > many", "expected a number but found 'many'"),
        ("(" * 60 + "a" + ")" * 60, "50 levels"),
    ],
)
def test_what_is_no_query_says_where(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_query(text)


def test_leaves_can_be_left_out() -> None:
    query = Hop(And((AMIDE, NITROGEN)), "has_scaffold")
    assert anchors_of(query) == ("group:amide", "N")
    assert relations_of(query) == ("has_group", "has_element", "has_scaffold")
    assert keep_leaves(query, frozenset({1})) == Hop(NITROGEN, "has_scaffold")
    assert keep_leaves(query, frozenset({0, 1})) == query
    assert keep_leaves(query, frozenset()) is None
