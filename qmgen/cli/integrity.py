"""The commands that check datasets, mend them and join them."""

import json
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from qmgen.cli.application import StorePath, console, say

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
