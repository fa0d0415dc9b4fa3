"""What all commands share: the application, its output, its types."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a list of molecules to a checked quantum-chemistry training set, and a network "
    "trained on it.",
)
console = Console()
error_console = Console(stderr=True)

# Options that several commands have.
Workers = Annotated[
    int | None, typer.Option(min=1, help="Local worker processes [default: one a core].")
]
SchedulerAddress = Annotated[
    str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:port.")
]
SmilesColumn = Annotated[str | None, typer.Option(help="SMILES column of a csv file.")]
GuessOfDataset = Annotated[
    Path | None, typer.Option(help="model.ckpt, if the dataset was made with --guess.")
]
StorePath = Annotated[
    str,
    typer.Argument(help="A dataset, such as `qmgen generate` makes: a folder, or a URL."),
]


class Split(StrEnum):
    """Parts of a dataset, shared out by molecule."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def print_counts(store: str) -> None:
    """Say how much a dataset holds."""
    from qmgen.dataset import open_dataset

    counts = open_dataset(store).metadata.counts
    say(
        f"{store}: {counts.molecules} molecules, {counts.conformers} labelled conformers, "
        f"{counts.converged} of them converged, {counts.failures} failures and rejected lines"
    )
    for reason, number in counts.rejected.items():
        say(f"  rejected {number}: {reason}")


def print_failures(store: str, limit: int | None) -> None:
    """List what failed, all or so many."""
    from itertools import islice

    from qmgen.dataset import open_dataset

    dataset = open_dataset(store)
    total = dataset.metadata.counts.failures
    if not total:
        return
    shown = total if limit is None else min(limit, total)
    for f in islice(dataset.failures(), shown):
        which = f" conformer {f.conformer}" if f.conformer >= 0 else ""
        name = " ".join(part for part in (f.smile, f.source_id) if part)
        say(f"  line {f.line}{which} [{f.stage}] {name}: {f.reason}")
    if shown < total:
        say(f"  {total - shown} more: qmgen info {store} --failures")


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
