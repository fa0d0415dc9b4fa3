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
