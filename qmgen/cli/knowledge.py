"""Commands about the knowledge graph of a dataset."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qmgen.cli.application import StorePath, say

knowledge = typer.Typer(no_args_is_help=True, help="Make and use the knowledge graph of a dataset.")


class Reduction(StrEnum):
    """Which number stands for a molecule."""

    LOWEST = "lowest"
    MEAN = "mean"


@knowledge.callback()
def commands() -> None:
    """Make and use the knowledge graph of a dataset."""


@knowledge.command()
def build(
    store: StorePath,
    output: Annotated[
        Path,
        typer.Argument(help="File to make: .nt or .parquet for everything, .tsv for edges only."),
    ],
    conformers: Annotated[
        Reduction,
        typer.Option(help="lowest: the conformer of lowest energy. mean: over conformers."),
    ] = Reduction.LOWEST,
    similarity: Annotated[
        float, typer.Option(help="Smallest Tanimoto similarity of molecules for similar_to.")
    ] = 0.6,
    bins: Annotated[int, typer.Option(min=2, help="Bins of the gap and of the dipole.")] = 8,
) -> None:
    """Make the graph of molecules, scaffolds, rings, groups, elements and bins of properties."""
    from qmgen.dataset import open_dataset
    from qmgen.knowledge.molecular_graph import molecular_graph
    from qmgen.knowledge.triple_files import write_graph

    graph = molecular_graph(
        open_dataset(store), conformers=conformers.value, similarity=similarity, bins=bins
    )
    write_graph(graph, output)
    say(
        f"{output}: {len(graph.entities):,} entities, {len(graph.relations)} relations, "
        f"{len(graph.triples):,} edges, {len(graph.quantities)} quantities"
    )


GraphPath = Annotated[
    Path,
    typer.Argument(help="A graph of `qmgen knowledge build`, or any in .nt, .parquet or .tsv."),
]


@knowledge.command()
def questions(
    graph: GraphPath,
    output: Annotated[Path, typer.Argument(help="File to make, with a question a line, as JSON.")],
    per_template: Annotated[int, typer.Option(min=1, help="Questions of each template.")] = 10,
    template: Annotated[
        list[str] | None,
        typer.Option(help="(1), (2), (3), (1)(1), (2)(1), (1)(1)(1) or ((1)(1)) [default: all]."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
) -> None:
    """Make questions with all their answers and the edges that prove them."""
    import numpy as np

    from qmgen.dataset.output import check_output, written_beside
    from qmgen.knowledge.questions.question_files import write_questions
    from qmgen.knowledge.questions.synth_kgqa import make_questions
    from qmgen.knowledge.questions.templates import TEMPLATES, template_of
    from qmgen.knowledge.sparql import GraphStore
    from qmgen.knowledge.triple_files import read_graph

    check_output(output, ".jsonl")
    templates = tuple(map(template_of, template)) if template else TEMPLATES
    store = GraphStore.of(read_graph(graph))
    found = make_questions(store, np.random.default_rng(seed), per_template, templates=templates)
    with written_beside(output) as temporary:
        count = write_questions(temporary, found, store.graph)
    say(f"{output}: {count} questions")


@knowledge.command()
def ask(
    graph: GraphPath,
    question: Annotated[
        str,
        typer.Argument(
            help="Such as 'What has the group \"amide\" and has a gap in eV above 6?' or "
            "'What is the scaffold of what has the element \"N\"?'"
        ),
    ],
    predict: Annotated[
        bool,
        typer.Option(
            "--predict",
            help="Also guess at edges that the graph lacks, with a network trained on its other "
            "edges (a minute or two); guesses are marked, and not made at what follows from "
            "SMILES.",
        ),
    ] = False,
    nodes: Annotated[
        int, typer.Option(min=2, help="Entities around those asked about to guess among.")
    ] = 30_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the network.")] = 0,
) -> None:
    """Answer a question, and show what it was understood as and which edges prove the answer."""
    from functools import partial

    from qmgen.knowledge.answering.ultrag import ask as answer_to
    from qmgen.knowledge.answering.ultrag import explain
    from qmgen.knowledge.molecular_graph import FROM_SMILES
    from qmgen.knowledge.queries.invariant_training import trained_on_itself
    from qmgen.knowledge.triple_files import read_graph

    read = read_graph(graph)
    model = partial(trained_on_itself, seed=seed, complete=FROM_SMILES) if predict else None
    say(explain(answer_to(read, question, model=model, nodes=nodes), read))
