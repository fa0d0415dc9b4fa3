"""The commands that check datasets, mend them and join them."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from qmgen.cli.application import (
    GuessOfDataset,
    SchedulerAddress,
    SmilesColumn,
    StorePath,
    Workers,
    console,
    print_counts,
    say,
)

if TYPE_CHECKING:
    from qmgen.dataset import Verification

_SHOWN = 20


def verify(
    store: StorePath,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Compare every byte with what was written; exit status 1 if anything is damaged."""
    from qmgen.dataset import verify_store

    found = verify_store(store)
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(found)
    if not found.intact:
        raise typer.Exit(1)


def repair(
    store: StorePath,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="The input file of the run that made the dataset; several of parts."),
    ] = None,
    workers: Workers = None,
    scheduler: SchedulerAddress = None,
    smiles_column: SmilesColumn = None,
    guess: GuessOfDataset = None,
) -> None:
    """Label just the damaged molecules again and put them in place; mend metadata."""
    from qmgen.generate import Progress
    from qmgen.generate import repair as mend
    from qmgen.generate.config import ClusterConfig

    orbital_guess = None
    if guess is not None:
        from qmgen.dataset import open_dataset
        from qmgen.generate.validate import stored_config
        from qmgen.training.hamiltonian import network_guess

        orbital_guess = network_guess(guess, stored_config(open_dataset(store)))
    done = mend(
        store,
        sources or (),
        ClusterConfig(workers=workers, scheduler=scheduler),
        smiles_column=smiles_column,
        progress=Progress(console),
        guess=orbital_guess,
    )
    for name in done.extra:
        say(f"{name} is not the dataset's; delete it if nobody needs it")
    if not done.files:
        say(f"{store}: nothing is damaged")
        return
    say(f"{', '.join(done.files)} made again; {done.molecules} molecules were labelled for that")
    if done.exact:
        say("every file has the checksum that it had when it was written")
    else:
        say("not bit for bit as it was, which a note in the dataset's metadata says")


def merge(
    output: Annotated[str, typer.Argument(help="The dataset to make.")],
    stores: Annotated[list[str], typer.Argument(help="Datasets of one configuration.")],
) -> None:
    """Join datasets of one configuration; molecules that a part before has are left out."""
    from qmgen.generate import merge as join

    done = join(output, stores)
    print_counts(output)
    for part in done.metadata.parts:
        held = f"{part.counts.molecules} molecules, {part.counts.conformers} conformers"
        say(f"  {part.source.name}: {held}; {part.duplicates} duplicates left out")
    if done.moved:
        say(f"{done.moved} molecules have the split of the same SMILES in a part before")


def _plain(found: "Verification") -> dict[str, object]:
    return {
        "store": str(found.path),
        "schema_version": found.metadata and found.metadata.schema_version,
        "intact": found.intact,
        "files": found.files,
        "bytes": found.size,
        "damaged": [file._asdict() for file in found.damaged],
        "contradictions": found.contradictions,
        "molecules": [molecule._asdict() for molecule in found.affected()],
        "limits": found.limits,
    }


def _print(found: "Verification") -> None:
    for limit in found.limits:
        say(f"note: {limit}")
    if found.intact:
        say(f"{found.path}: {found.files} files, {found.size} bytes, all as they were written")
        return
    if found.damaged:
        table = Table(title=f"damaged files of {found.path}")
        for column in ("file", "problem", "elements lost"):
            table.add_column(column, overflow="fold")
        for file in found.damaged:
            lost = ", ".join(f"{rows.start} to {rows.stop - 1}" for rows in file.rows)
            table.add_row(file.name, file.problem, lost)
        console.print(table)
    for contradiction in found.contradictions:
        say(f"contradiction: {contradiction}")
    say(f"{found.num_molecules} molecules have values in what is lost")
    for row, line, smile in islice(found.affected(), _SHOWN):
        say(f"  molecule {row}, line {'unknown' if line is None else line}: {smile or ''}")
    if found.num_molecules > _SHOWN:
        say(f"  {found.num_molecules - _SHOWN} more: qmgen verify {found.path} --json")
    if found.damaged:
        say(f"next: qmgen repair {found.path} INPUT")
