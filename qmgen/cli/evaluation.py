"""The commands that import, evaluate and compare."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from qmgen.cli.application import (
    Split,
    StorePath,
    console,
    print_counts,
    print_failures,
    say,
)
from qmgen.errors import InputError

if TYPE_CHECKING:
    from qmgen.training import GroupErrors, ScalingPoint

# Rows of a table of groups; its file has all.
_SHOWN_GROUPS = 20


class Grouping(StrEnum):
    """What the conformers of a group have in common."""

    MOLECULE = "molecule"
    HEAVY_ATOMS = "heavy-atoms"
    SCAFFOLD = "scaffold"


def import_qm9(
    output: Annotated[str, typer.Argument(help="The Zarr store to make.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules, chosen at random [default: all].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and of the split.")] = 0,
    exclude: Annotated[
        Path | None,
        typer.Option(
            help="A dataset or file whose molecules are left out, such as one to pre-train on."
        ),
    ] = None,
) -> None:
    """Make a dataset of the published QM9: its geometries and labels, from the package qm9pack."""
    from qmgen.generate.qm9 import import_qm9 as run
    from qmgen.generate.qm9 import qm9_files

    run(qm9_files(), output, limit=limit, seed=seed, exclude=exclude)
    print_counts(output)
    print_failures(output, limit=20)


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of a training run.")],
    store: StorePath,
    split: Annotated[Split, typer.Option(help="Which split.")] = Split.TEST,
    by: Annotated[
        Grouping, typer.Option(help="What makes a group of conformers.")
    ] = Grouping.HEAVY_ATOMS,
    out: Annotated[Path | None, typer.Option(help="CSV file of all groups to make.")] = None,
) -> None:
    """Show where a model errs: by molecule, by number of heavy atoms or by scaffold."""
    from qmgen.training import evaluate as run
    from qmgen.training import write_evaluation

    result = run(checkpoint, store, by.value, split.value)
    if out is not None:
        write_evaluation(result, out)
    for total in result.total:
        table = Table(title=f"errors of {total.target}, {total.unit}, {split.value} split")
        table.add_column(by.value, overflow="fold")
        for column in ("molecules", "conformers", "MAE", "RMSE", "bias", "largest"):
            table.add_column(column, justify="right")
        groups = [group for group in result.groups if group.target == total.target]
        for g in groups[:_SHOWN_GROUPS]:
            table.add_row(*_cells(g))
        table.add_section()
        table.add_row(*_cells(total))
        console.print(table)
    if len(result.groups) > _SHOWN_GROUPS * len(result.total):
        say(f"the first {_SHOWN_GROUPS} groups are shown; --out writes all")
    if result.unseen:
        say(f"left out: {result.unseen} conformers with an element that is not learnt")


def scaling_law(
    store: StorePath,
    sizes: Annotated[
        str, typer.Option(help="Conformers to learn from, such as 250,500,1000: two or more.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the trainings, tables and plot.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of the training at the largest size.")
    ] = None,
) -> None:
    """Train at several sizes and fit the test error's power law; the same command goes on."""
    from qmgen.training import load_train_config
    from qmgen.training import scaling_law as run

    try:
        numbers = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise InputError(
            f"--sizes {sizes!r}: whole numbers with commas between are expected, such as 250,500"
        ) from error
    law = run(store, out, load_train_config(config), numbers, progress=_print_point)
    for target, fit in law.fits.items():
        margin = "" if fit.exponent_error is None else f" +- {fit.exponent_error:.3f}"
        say(f"{target}: test MAE = {fit.factor:.4g} n^-b, b = {fit.exponent:.3f}{margin}")
        if target in law.with_floor:
            bent = law.with_floor[target]
            say(
                f"  with a floor: {bent.factor:.4g} n^-{bent.exponent:.3f} + {bent.floor:.4g} "
                f"(+- {bent.floor_error:.2g})"
            )
    say(f"{law.csv}, {law.json}, {law.plot}")


def _print_point(point: "ScalingPoint") -> None:
    errors = ", ".join(f"{target} {error:.4f}" for target, error in point.test_mae.items())
    say(
        f"{point.conformers} conformers of {point.molecules} molecules: test MAE {errors} "
        f"(best epoch {point.best_epoch} of {point.epochs}, {point.steps} steps, "
        f"{point.seconds:.0f} s)"
    )


def _cells(errors: "GroupErrors") -> tuple[str, ...]:
    numbers = (f"{x:.4f}" for x in (errors.mae, errors.rmse, errors.bias, errors.largest))
    return (errors.group, str(errors.molecules), str(errors.conformers), *numbers)
