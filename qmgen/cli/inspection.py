"""The commands that look at a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from qmgen.cli.application import StorePath, say


def report(
    store: StorePath,
    out: Annotated[Path, typer.Option(help="HTML file to make; it needs no other file.")],
    validation: Annotated[
        Path | None, typer.Option(help="Outcome of `qmgen validate --out` to show.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="Log of the run, by `qmgen generate --log`, to show how fast it went."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
) -> None:
    """Write a page of molecules, distributions of labels, failures and provenance."""
    from qmgen.dataset import open_dataset
    from qmgen.dataset.validation import read_validation
    from qmgen.inspection import read_run_history, write_report

    dataset = open_dataset(store)
    agreement = None if validation is None else read_validation(validation, dataset)
    history = None if log is None else read_run_history(log, dataset)
    write_report(dataset, out, validation=agreement, history=history, seed=seed)
    say(f"report in {out}")


def browse(
    store: StorePath,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port on this machine.", show_default="a free one"),
    ] = 0,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Show the page in the web browser.")
    ] = True,
) -> None:
    """Search molecules and turn their conformers in a web page, for this machine only."""
    from qmgen.dataset import open_dataset
    from qmgen.inspection import browse as run

    run(
        open_dataset(store),
        port=port,
        open_page=open_page,
        announce=lambda address: say(f"{store} at {address}; Ctrl-C ends it"),
    )
