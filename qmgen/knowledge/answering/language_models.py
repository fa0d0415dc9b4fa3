"""Language models in place of the rules that word, read and judge.

qmgen ships no language model: one is any function from a prompt to its completion. What it returns
is checked, and it is asked again with the error, a few times, before that error is raised.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from qmgen.errors import InputError
from qmgen.knowledge.answering.candidates import Arbiter, Candidate
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import Query, anchors_of, parse_query, relations_of
from qmgen.knowledge.questions.wording import Wording

Result = TypeVar("Result")
ATTEMPTS = 3


@runtime_checkable
class LanguageModel(Protocol):
    """What completes a text."""

    def __call__(self, prompt: str) -> str:
        """Completion of a prompt."""
        ...


def _asked(
    model: LanguageModel, prompt: str, understand: Callable[[str], Result], attempts: int
) -> Result:
    """What a completion says, asking again with the error where it can't be understood."""
    said = prompt
    for _ in range(attempts - 1):
        reply = model(said)
        try:
            return understand(reply)
        except InputError as error:
            said = f"{prompt}\nYou answered: {reply}\nThat was wrong: {error}\n"
    return understand(model(said))


def reader_of(
    model: LanguageModel, graph: KnowledgeGraph, attempts: int = ATTEMPTS
) -> Callable[[str], Query]:
    """A function from a question to its logical query.

    The model sees the grammar and the names of relations and quantities, but no edge. The function
    raises InputError if no completion is a query of these names.
    """
    quantities = ", ".join(q.name for q in graph.quantities) or "none"
    grammar = (
        "Translate the question to a query on a knowledge graph.\n"
        'query := term ("->" relation ["inv"])*\n'
        'term := "AND(" query ("," query)+ ")" | entity | quantity ("<" | ">") number\n'
        "`E -> P` are the tails of edges P from E; `E -> P inv` are the heads of edges P to E.\n"
        'Put names of entities in double quotes, as in AND("amide" -> has_group inv, gap > 5).\n'
        f"Relations: {', '.join(graph.relations)}\nQuantities: {quantities}\n"
    )

    def understand(reply: str) -> Query:
        query = parse_query(reply.strip())
        for name in relations_of(query):
            if name not in graph.relations:
                raise InputError(f"there is no relation {name!r}")
        return query

    def read(question: str) -> Query:
        return _asked(model, f"{grammar}Question: {question}\nQuery:", understand, attempts)

    return read


def wording_of(model: LanguageModel, plain: Wording, attempts: int = ATTEMPTS) -> Wording:
    """Questions that a model rephrases from plain ones.

    They raise InputError if no completion has all names of the query's entities.
    """

    def ask(query: Query) -> str:
        names = anchors_of(query)

        def understand(reply: str) -> str:
            missing = [name for name in names if name not in reply]
            if missing:
                raise InputError(f"the question must have the name {missing[0]!r} as it is")
            return reply.strip()

        prompt = f"Rephrase in natural English and keep all names as they are: {plain(query)}\n"
        return _asked(model, prompt, understand, attempts)

    return ask


def arbiter_of(model: LanguageModel, attempts: int = ATTEMPTS) -> Arbiter:
    """A model that picks answers among candidates by their numbers.

    It raises InputError if no completion is a list of their numbers, or `none`.
    """

    def judge(question: str, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        def understand(reply: str) -> tuple[Candidate, ...]:
            if reply.strip().lower() == "none":
                return ()
            try:
                places = [int(word) for word in reply.replace(",", " ").split()]
            except ValueError:
                places = []
            if not places or not all(1 <= place <= len(candidates) for place in places):
                raise InputError(f"answer with numbers from 1 to {len(candidates)}, or none")
            return tuple(candidates[place - 1] for place in dict.fromkeys(places))

        rows = (
            f"{i}. {c.name}, probability {c.probability:.2f}, "
            f"{'in the graph' if c.stored else 'predicted'}"
            for i, c in enumerate(candidates, 1)
        )
        prompt = "\n".join((f"Question: {question}", *rows, "Numbers of the right ones, or none:"))
        return _asked(model, prompt, understand, attempts)

    return judge
