"""The command that adds to a dataset."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from qmgen.errors import ConfigError

if TYPE_CHECKING:
    from qmgen.generate import RunConfig


def append(
    store: StorePath,
    source: Annotated[
        Path | None,
        typer.Argument(help="Further molecules, labelled as the dataset's own were."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label to compute at another level; may be given several times."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with the level: method, dft and labels; and cluster."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="dft or mmff94, of the level.")] = None,
    functional: Annotated[
        str | None, typer.Option(help="Of the level [default: the dataset's].")
    ] = None,
    basis: Annotated[
        str | None, typer.Option(help="Of the level [default: the dataset's].")
    ] = None,
    grid_level: Annotated[
        int | None, typer.Option(min=0, max=9, help="Of the level [default: the dataset's].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the level: mixed, float64 or float32.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the level [default: functional, basis and grid level]."),
    ] = None,
    workers: Workers = None,
    scheduler: SchedulerAddress = None,
    smiles_column: SmilesColumn = None,
    guess: GuessOfDataset = None,
    log: Annotated[
        Path | None, typer.Option(help="File to append events to, as lines of JSON.")
    ] = None,
) -> None:
    """Add molecules to a dataset, or labels at another level; the same command resumes."""
    from qmgen.generate import Progress, append_labels, append_molecules

    theory = {
        "functional": functional,
        "basis": basis,
        "grid_level": grid_level,
        "precision": precision,
    }
    level: dict[str, dict[str, Any]] = {
        "": {"method": method},
        "dft": theory,
        "cluster": {"workers": workers, "scheduler": scheduler},
    }
    progress = Progress(console)
    if source is None:
        if not label:
            raise ConfigError(
                "say what to append: a file of molecules, or labels, such as --label forces "
                "--basis def2-svp"
            )
        if guess is not None or smiles_column is not None:
            raise ConfigError("--guess and --smiles-column go with a file of molecules only")
        settings = _level(store, config, level)
        done = append_labels(store, label, settings, name=name, progress=progress, log=log)
    else:
        given = {"method": method, **theory, "label": label or None, "name": name}
        other = sorted(option for option, value in given.items() if value is not None)
        if other:
            raise ConfigError(
                f"--{other[0].replace('_', '-')} goes with --label and without a file; molecules "
                "are labelled as the dataset's own were"
            )
        done = append_molecules(
            store,
            source,
            _level(store, config, level, own=False).cluster,
            smiles_column=smiles_column,
            progress=progress,
            guess=_guess(store, guess),
            log=log,
        )
    if done.already_complete:
        say(f"{store} has that already")
    elif source is None:
        at = done.metadata.levels[-1]
        names = ", ".join(f"{one}@{at.name}" for one in at.labels)
        say(f"{names} of {done.metadata.counts.conformers} conformers, {done.failures} failures")
    else:
        say(
            f"{done.molecules} molecules with {done.conformers} conformers added, "
            f"{done.duplicates} that it had left out, {done.failures} failures and rejected lines"
        )
    print_counts(store)


def _level(
    store: str, config: Path | None, overrides: dict[str, dict[str, Any]], *, own: bool = True
) -> "RunConfig":
    """Configuration of a file, or else the dataset's own, with what the command line says."""
    from qmgen.generate.config import load_config
    from qmgen.generate.origin import level_overrides

    given = overrides if config is not None or not own else level_overrides(store, overrides)
    return load_config(config, given)


def _guess(store: str, guess: Path | None) -> Any:
    if guess is None:
        return None
    from qmgen.dataset import open_dataset
    from qmgen.generate.validate import stored_config
    from qmgen.training.hamiltonian import network_guess

    return network_guess(guess, stored_config(open_dataset(store)))
