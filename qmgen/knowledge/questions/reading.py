"""Logical queries read from the English that `wording` writes, without a language model.

Names may lack their quotes where nothing in them looks like the words around, as in `What has the
group amide?`.
"""

import re
from collections.abc import Mapping

from qmgen.errors import InputError
from qmgen.knowledge.queries.logical_query import Anchor, And, Bound, Hop, Query
from qmgen.knowledge.questions.wording import Vocabulary

_DEEPEST = 50
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def read_question(text: str, vocabulary: Vocabulary) -> Query:
    """Read a question in the wording of a vocabulary.

    Raises
    ------
    InputError
        If the text isn't worded so, with what was expected and where.
    """
    return _Reader(text, vocabulary).question()


class _Reader:
    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text, self.vocabulary, self.place = text, vocabulary, 0

    def take(self, pattern: str) -> re.Match[str] | None:
        """Go past a pattern if it comes next, after blanks and up to the end of a word."""
        found = re.compile(rf"\s*{pattern}", re.IGNORECASE).match(self.text, self.place)
        if found:
            self.place = found.end()
        return found

    def error(self, expected: str) -> InputError:
        rest = self.text[self.place :].strip()
        return InputError(
            f"expected {expected} but found {rest[:40]!r} in the question {self.text!r}; "
            "it must be worded like 'What is the <relation> of \"<name>\"?' or 'What has the "
            f'<relation> "<name>"?\', with relations {self.known(self.vocabulary.relations)}'
        )

    @staticmethod
    def known(nouns: Mapping[str, str]) -> str:
        return ", ".join(nouns.values())

    def question(self) -> Query:
        if not self.take(r"(?:what|which|who)\b"):
            raise self.error("'What' at the beginning")
        parts = [self.clause(0)]
        while self.take(r"and\b"):
            parts.append(self.clause(0))
        self.take(r"[?.]")
        if self.text[self.place :].strip():
            raise self.error("'and' or the end")
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def clause(self, depth: int) -> Query:
        if depth > _DEEPEST:
            raise InputError("the question is nested too deep; ask for less at once")
        if self.take(r"both\b"):
            first = self.clause(depth + 1)
            if not self.take(r"and\b"):
                raise self.error("'and' after 'both'")
            second = self.clause(depth + 1)
            # `both A and both B and C` is one intersection of three.
            others = second.parts if isinstance(second, And) else (second,)
            return And((first, *others))
        if self.take(r"(?:is|are)\s+the\b"):
            relation = self.noun(self.vocabulary.relations, r"of\b", "relation")
            return Hop(self.which(depth), relation)
        if self.take(r"(?:is|are)\b"):
            return Anchor(self.name())
        if self.take(r"(?:has|have)\s+the\b"):
            relation = self.noun(self.vocabulary.relations, "", "relation")
            return Hop(self.which(depth), relation, inverse=True)
        if self.take(r"(?:has|have)\s+an?\b"):
            quantity = self.noun(self.vocabulary.quantities, r"(?=above\b|below\b)", "quantity")
            comparison = self.take(r"(above|below)\b")
            value = self.take(f"({_NUMBER})")
            if not comparison or not value:
                raise self.error("a number")
            above = comparison[1].lower() == "above"
            return Bound(quantity, ">" if above else "<", float(value[1]))
        raise self.error("'is the', 'has the', 'has a' or 'both'")

    def noun(self, nouns: Mapping[str, str], after: str, what: str) -> str:
        # The longest noun first, as one may begin with another.
        for name, noun in sorted(nouns.items(), key=lambda item: -len(item[1])):
            words = r"\s+".join(map(re.escape, noun.split()))
            if self.take(rf"{words}(?!\S)\s*{after}"):
                return name
        raise self.error(f"a {what}, one of: {self.known(nouns)},")

    def which(self, depth: int) -> Query:
        return self.clause(depth + 1) if self.take(r"what\b") else Anchor(self.name())

    def name(self) -> str:
        quoted = self.take(r'"((?:[^"\\]|\\.)*)"')
        if quoted:
            return re.sub(r"\\(.)", r"\1", quoted[1])
        bare = self.take(r"""([^\s"?](?:(?!\s+and\b)[^"])*?)(?=\s+and\b|\s*\?\s*$|\s*$)""")
        if not bare:
            raise self.error("a name")
        return bare[1].strip("'")
