"""Cattaneo et al., 2511.04473: questions on the graph of 300 molecules of QM9, and two retrievers.

Every query's answers by SPARQL are compared with a join of tables by pandas; retrievers are the
truth and shortest paths. Prints a table, draws it, and can write the questions. Run as
`make benchmark-knowledge`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from qmgen.dataset import open_dataset
from qmgen.generate.qm9 import import_qm9, qm9_files
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.molecular_graph import molecular_graph
from qmgen.knowledge.queries.logical_query import Anchor, Hop, Query, keep_leaves, leaves_of
from qmgen.knowledge.questions.question_files import write_questions
from qmgen.knowledge.questions.retrieval_metrics import answer_recall, triple_scores
from qmgen.knowledge.questions.retrievers import shortest_path_triples, true_triples
from qmgen.knowledge.questions.subgraphs import Neighbours
from qmgen.knowledge.questions.synth_kgqa import Question, make_questions
from qmgen.knowledge.questions.templates import TEMPLATES
from qmgen.knowledge.sparql import GraphStore


def joined(edges: pd.DataFrame, query: Query) -> set[str]:
    """Answers of a query by joins of tables, apart from both SPARQL and our own executor."""

    def table(query: Query) -> pd.DataFrame:
        if isinstance(query, Anchor):
            return pd.DataFrame({"answer": [query.name]})
        if isinstance(query, Hop):
            start, end = ("tail", "head") if query.inverse else ("head", "tail")
            of_relation = edges[edges["relation"] == query.relation]
            found = table(query.start).merge(of_relation, left_on="answer", right_on=start)
            return found[[end]].rename(columns={end: "answer"}).drop_duplicates()
        first, *others = map(table, query.parts)
        for other in others:
            first = first.merge(other, on="answer")
        return first

    return set(table(query)["answer"])


def differing(graph: KnowledgeGraph, questions: Sequence[Question]) -> tuple[int, int]:
    """Queries of questions and all their parts whose answers differ, and how many there are."""
    store = GraphStore.of(graph)
    heads, relations, tails = graph.triples.T
    entities, names = np.array(graph.entities), np.array(graph.relations)
    edges = pd.DataFrame(
        {"head": entities[heads], "relation": names[relations], "tail": entities[tails]}
    )
    queries: set[Query] = set()
    for question in questions:
        queries |= {question.query, question.minimal}
        for place in range(len(leaves_of(question.query))):
            part = keep_leaves(question.query, frozenset({place}))
            while isinstance(part, Hop):
                queries.add(part)
                part = part.start
    differ = sum(
        {graph.entities[i] for i in store.answers(query)} != joined(edges, query)
        for query in queries
    )
    return differ, len(queries)


def qm9_graph(molecules: int) -> KnowledgeGraph:
    """The graph of random molecules of QM9, with its published gaps and dipoles."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "qm9.zarr")
        import_qm9(qm9_files(), store, limit=molecules)
        return molecular_graph(open_dataset(store))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=300)
    parser.add_argument("--questions", type=int, default=40, help="of each template")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figures", type=Path, default=Path("benchmarks/figures"))
    parser.add_argument("--out", type=Path, help="file for the questions, a line of JSON each")
    arguments = parser.parse_args()

    graph = qm9_graph(arguments.molecules)
    print(
        f"{arguments.molecules} molecules, {len(graph.entities)} entities, "
        f"{len(graph.relations)} relations, {len(graph.triples)} triples"
    )
    start = perf_counter()
    rng = np.random.default_rng(arguments.seed)
    questions = list(make_questions(GraphStore.of(graph), rng, arguments.questions))
    print(f"{len(questions)} questions in {perf_counter() - start:.1f} s")
    if arguments.out:
        write_questions(arguments.out, questions, graph)
    differ, compared = differing(graph, questions)
    print(f"SPARQL differs from a join of tables on {differ} of {compared} queries")
    assert not differ

    neighbours = Neighbours.of(graph)
    print()
    columns = ("template", "answers", "redundant seeds", "retriever")
    measures = ("triple recall", "precision", "F1", "answer recall")
    print(f"| {' | '.join((*columns, *measures))} |")
    print("| --- " * 8 + "|")
    recalls = {}
    for template in TEMPLATES:
        of_template = [q for q in questions if q.template == template.name]
        for retriever in ("truth", "shortest paths"):
            rows = []
            for q in of_template:
                found = (
                    true_triples(q)
                    if retriever == "truth"
                    else shortest_path_triples(neighbours, q.seeds, q.answers)
                )
                scores = triple_scores(found, true_triples(q))
                answered = answer_recall(found, set(q.answers))
                rows.append((scores.recall, scores.precision, scores.f1, answered))
            means = np.mean(rows, axis=0)
            recalls[retriever, template.name] = means[0]
            numbers = " | ".join(f"{value:.2f}" for value in means)
            about = (
                f"{np.mean([len(q.answers) for q in of_template]):.1f}",
                f"{np.mean([q.redundant for q in of_template]):.0%}",
            )
            print(f"| {template.name} | {' | '.join(about)} | {retriever} | {numbers} |")
    print()
    examples = {q.template: q for q in reversed(questions)}
    for q in examples.values():
        print(f"{q.template}: {q.text} -> {', '.join(graph.entities[a] for a in q.answers)}")

    paths = [recalls["shortest paths", name] for name in ("(1)", "(2)", "(3)")]
    assert all(recalls["truth", t.name] == 1.0 for t in TEMPLATES)
    assert paths[0] > paths[1] > paths[2], paths
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.bar([t.name for t in TEMPLATES], [recalls["shortest paths", t.name] for t in TEMPLATES])
    axes.axhline(1.0, color="k", lw=0.8, ls="--", label="truth")
    axes.set(ylabel="recall of true triples", title="shortest paths from seeds to answers")
    axes.legend(loc="lower left")
    figure.savefig(arguments.figures / "synth_kgqa.png", dpi=120)


if __name__ == "__main__":
    main()
