"""Questions as lines of JSON, with names in place of numbers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.queries.logical_query import parse_query, print_query
from qmgen.knowledge.questions.synth_kgqa import Question
from qmgen.knowledge.questions.templates import template_of
from qmgen.knowledge.sparql import GraphStore, Triple, to_sparql


def _named(triples: tuple[Triple, ...], graph: KnowledgeGraph) -> list[list[str]]:
    return [[graph.entities[h], graph.relations[r], graph.entities[t]] for h, r, t in triples]


def write_questions(path: Path, questions: Iterable[Question], graph: KnowledgeGraph) -> int:
    """Write questions as they come, and return how many there were."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            line = {
                "question": question.text,
                "template": question.template,
                "query": print_query(question.query),
                "sparql": to_sparql(question.query),
                "seeds": [graph.entities[seed] for seed in question.seeds],
                "answers": [graph.entities[answer] for answer in question.answers],
                "support": _named(question.support, graph),
                "evidence": _named(question.evidence, graph),
                "redundant_seeds": question.redundant,
                "minimal_query": print_query(question.minimal),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            written += 1
    return written


def read_questions(path: Path, store: GraphStore) -> list[Question]:
    """Read questions, and check the answers of each against the graph.

    Raises
    ------
    InputError
        If a line is no question, names what the graph lacks, or has other answers than the graph.
    """
    graph = store.graph
    entities = {name: number for number, name in enumerate(graph.entities)}
    relations = {name: number for number, name in enumerate(graph.relations)}

    def numbered(triples: Any) -> tuple[Triple, ...]:
        return tuple((entities[h], relations[r], entities[t]) for h, r, t in triples)

    questions = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            where = f"line {number} of {path}"
            try:
                line = json.loads(text)
                question = Question(
                    text=str(line["question"]),
                    query=parse_query(line["query"]),
                    template=template_of(line["template"]).name,
                    seeds=tuple(entities[name] for name in line["seeds"]),
                    answers=tuple(sorted(entities[name] for name in line["answers"])),
                    support=numbered(line["support"]),
                    evidence=numbered(line["evidence"]),
                    minimal=parse_query(line["minimal_query"]),
                )
            except KeyError as error:
                raise InputError(
                    f"{where}: {error} is neither a field of the line nor a name of the graph; "
                    "read questions with the graph that they were made from"
                ) from error
            except (ValueError, TypeError) as error:
                raise InputError(f"{where} is no question: {error}") from error
            if store.answers(question.query) != frozenset(question.answers):
                raise InputError(
                    f"{where}: the graph has other answers than the file; read questions with the "
                    "graph that they were made from"
                )
            questions.append(question)
    return questions
