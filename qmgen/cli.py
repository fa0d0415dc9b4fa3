"""The `qmgen` command: parses arguments, makes one call, prints the outcome."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from qmgen.errors import InputError, QmgenError

# Exit status when a run finished but molecules have elements that the basis lacks.
EXIT_UNSUITED = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a list of molecules to a checked quantum-chemistry training set, and a network "
    "trained on it.",
)
_console = Console()
_errors = Console(stderr=True)

StorePath = Annotated[Path, typer.Argument(help="A dataset that `qmgen generate` made.")]


class Target(StrEnum):
    """Labels that a network can learn."""

    GAP = "gap"
    HOMO = "homo"
    LUMO = "lumo"
    ENERGY = "energy"


class Split(StrEnum):
    """Parts of a dataset, shared out by molecule."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@app.command()
def generate(
    source: Annotated[
        Path, typer.Argument(help="Molecules: .smi, .csv, .sdf or .xyz, also with .gz appended.")
    ],
    output: Annotated[Path, typer.Argument(help="The Zarr store to make.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file; the other options override what it says.")
    ] = None,
    conformers: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Conformers per molecule [default: 8].")
    ] = None,
    functional: Annotated[
        str | None,
        typer.Option(
            help="hf, svwn, blyp, pbe, revpbe, pbe0, b3lyp, b3lyp5, b3lypg or wb97x "
            "[default: b3lyp]."
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option(help="Any all-electron basis by name, or a file [default: sto-3g]."),
    ] = None,
    grid_level: Annotated[
        int | None, typer.Option(min=0, max=9, help="PySCF's grid level [default: 3].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="mixed, float64 or float32 [default: mixed].")
    ] = None,
    forces: Annotated[
        bool | None,
        typer.Option("--forces/--no-forces", help="Also nuclear forces [default: no]."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run [default: 0].")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Local worker processes [default: one a core].")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler, tcp://host:port.")
    ] = None,
    smiles_column: Annotated[str | None, typer.Option(help="SMILES column of a csv file.")] = None,
) -> None:
    """Label conformers of every molecule; the same command resumes an interrupted run."""
    from qmgen.generate import Progress, load_config
    from qmgen.generate import generate as run

    overrides: dict[str, dict[str, Any]] = {
        "": {"seed": seed},
        "conformers": {"per_molecule": conformers},
        "dft": {
            "functional": functional,
            "basis": basis,
            "grid_level": grid_level,
            "precision": precision,
        },
        "labels": {"forces": forces},
        "cluster": {"workers": workers, "scheduler": scheduler},
    }
    settings = load_config(config, overrides)
    for note in settings.notes():
        _errors.print(
            f"qmgen: warning: {note}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    summary = run(
        source,
        output,
        settings,
        smiles_column=smiles_column,
        progress=Progress(_console),
    )
    if summary.already_complete:
        _say(f"{output} is complete already")
    elif summary.resumed_batches:
        _say(f"{summary.resumed_batches} of {summary.batches} batches were done before")
    _print_counts(output)
    _print_failures(output, limit=20)
    _say(f"next: qmgen validate {output}; qmgen train {output} --out run/")
    if summary.unsuited_molecules:
        from qmgen.dft.basis_file import basis_title

        title = basis_title(settings.dft.basis)
        _errors.print(
            f"qmgen: basis {title} lacks elements of "
            f"{summary.unsuited_molecules} molecules, which have no labels (listed above); all "
            "others are labelled. Choose a basis that covers them with --basis",
            style="red",
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_UNSUITED)


@app.command(name="import-qm9")
def import_qm9(
    output: Annotated[Path, typer.Argument(help="The Zarr store to make.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules, chosen at random [default: all].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice and of the split.")] = 0,
    exclude: Annotated[
        Path | None,
        typer.Option(help="A dataset whose molecules are left out, such as one to pre-train on."),
    ] = None,
) -> None:
    """Make a dataset of the published QM9: its geometries and labels, from the package qm9pack."""
    from qmgen.generate.qm9 import import_qm9 as run
    from qmgen.generate.qm9 import qm9_files

    run(qm9_files(), output, limit=limit, seed=seed, exclude=exclude)
    _print_counts(output)
    _print_failures(output, limit=20)


@app.command()
def validate(
    store: StorePath,
    sample: Annotated[int, typer.Option(min=1, help="Conformers to recompute.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    energy_tolerance: Annotated[
        float | None,
        typer.Option(help="Largest accepted energy error, Hartree [default: by precision]."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that run PySCF [default: one a core].")
    ] = None,
) -> None:
    """Recompute a random sample with PySCF itself and compare every label."""
    from dataclasses import replace

    from rich.progress import track

    from qmgen.dataset import open_dataset
    from qmgen.errors import ValidationError
    from qmgen.generate.cluster import available_cores
    from qmgen.generate.validate import default_tolerances, stored_config
    from qmgen.generate.validate import validate as check

    dataset = open_dataset(store)
    tolerances = default_tolerances(stored_config(dataset))
    if energy_tolerance is not None:
        tolerances = replace(tolerances, energy=energy_tolerance)
    total = min(sample, len(dataset.indices(converged_only=True)))
    steps = iter(track(range(total), "PySCF", console=_console, transient=True))
    report = check(
        dataset,
        sample,
        seed=seed,
        tolerances=tolerances,
        workers=min(workers or available_cores(), total),
        progress=lambda _: next(steps, None),
    )
    table = Table(title=f"{report.conformers} conformers of {store} against PySCF")
    for column in ("label", "unit", "mean |error|", "max |error|", "tolerance", "worst row", ""):
        table.add_column(column, justify="left" if column in ("label", "unit") else "right")
    for e in report.errors:
        verdict = "ok" if e.passed else "[red]FAIL"
        numbers = (f"{x:.2e}" for x in (e.mean_absolute, e.maximum, e.tolerance))
        table.add_row(e.label, e.unit, *numbers, str(e.worst_row), verdict)
    _console.print(table)
    if report.not_converged:
        _say(f"PySCF itself did not converge for {report.not_converged} of them")
    if not report.passed:
        raise ValidationError(
            f"labels of {store} differ from PySCF by more than the tolerance; `qmgen info {store}` "
            "shows how they were made"
        )
    _say("all labels are within tolerance")


@app.command()
def info(
    store: StorePath,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every failure and rejected line.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the checksum of every file.")
    ] = False,
) -> None:
    """Show counts, failures by reason, ranges and provenance of a dataset."""
    from qmgen.dataset import open_dataset
    from qmgen.dataset.summary import label_ranges

    dataset = open_dataset(store)
    if verify:
        dataset.verify()
        _say("every file has its checksum")
    _print_counts(store)
    table = Table(title="ranges over converged conformers")
    for column in ("label", "unit", "minimum", "mean", "maximum"):
        table.add_column(column, justify="left" if column in ("label", "unit") else "right")
    for r in label_ranges(dataset):
        table.add_row(r.label, r.unit, f"{r.minimum:.6g}", f"{r.mean:.6g}", f"{r.maximum:.6g}")
    _console.print(table)
    provenance = dataset.metadata.provenance
    for name, value in provenance.model_dump(mode="json").items():
        _say(f"{name}: {value}")
    _say(f"created: {dataset.metadata.created}")
    if dataset.metadata.optional_labels:
        _say(f"optional labels: {', '.join(dataset.metadata.optional_labels)}")
    for note in dataset.metadata.notes:
        _say(f"note: {note}")
    _print_failures(store, limit=None if failures else 0)


@app.command()
def export(
    store: StorePath, parquet: Annotated[Path, typer.Argument(help="Parquet file to make.")]
) -> None:
    """Write the columns of the published QM1B dataset, in its units, to a Parquet file."""
    from qmgen.dataset import export_qm1b, open_dataset

    counts = export_qm1b(open_dataset(store), parquet)
    _say(
        f"{counts.written} rows written to {parquet}, {counts.skipped} skipped (not converged "
        "or without gap)"
    )


@app.command()
def train(
    store: StorePath,
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, metrics and plot.")],
    target: Annotated[Target, typer.Option(help="Label to learn.")] = Target.GAP,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Conformers a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and shuffling.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
) -> None:
    """Train SchNet on a dataset, split by molecule, and test it against the mean predictor."""
    from pydantic import ValidationError as PydanticError

    from qmgen.training import TrainConfig, train_model

    options = {
        "target": target.value,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "accelerator": accelerator,
    }
    try:
        config = TrainConfig(**{name: v for name, v in options.items() if v is not None})
    except PydanticError as error:
        raise InputError(f"training options: {error}") from error
    result = train_model(store, out, config)
    _say(
        f"{result.train.conformers} conformers of {result.train.molecules} molecules to train, "
        f"{result.test.conformers} of {result.test.molecules} others to test; "
        f"best epoch {result.best_epoch} of {result.epochs}"
    )
    _say(f"test MAE {result.test_mae_ev:.4f} eV, mean predictor {result.baseline_mae_ev:.4f} eV")
    _say(f"checkpoint {result.checkpoint}; learning curve {result.plot}")


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of a training run.")],
    source: Annotated[
        Path, typer.Argument(help="Molecules in any format of `qmgen generate`, or a dataset.")
    ],
    out: Annotated[Path, typer.Option(help="CSV file to make.")],
    split: Annotated[
        Split | None, typer.Option(help="Which split of a dataset [default: all].")
    ] = None,
    conformers: Annotated[
        int, typer.Option(min=1, max=1000, help="Conformers per molecule without geometry.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the conformers.")] = 0,
    smiles_column: Annotated[str | None, typer.Option(help="SMILES column of a csv file.")] = None,
) -> None:
    """Predict the learnt label, in eV; on a dataset, compare with the stored one."""
    from qmgen.molecules import ConformerConfig
    from qmgen.training import predict_file, write_predictions_csv

    rows = predict_file(
        checkpoint,
        source,
        split=None if split is None else split.value,
        conformers=ConformerConfig(per_molecule=conformers),
        seed=seed,
        smiles_column=smiles_column,
    )
    summary = write_predictions_csv(rows, out)
    _say(f"{summary.predicted} predictions in {out}, {summary.skipped} rows without (reason there)")
    if summary.mae_ev is not None:
        _say(f"MAE against {summary.compared} stored labels: {summary.mae_ev:.4f} eV")


def _print_counts(store: Path) -> None:
    from qmgen.dataset import open_dataset

    counts = open_dataset(store).metadata.counts
    _say(
        f"{store}: {counts.molecules} molecules, {counts.conformers} labelled conformers, "
        f"{counts.converged} of them converged, {counts.failures} failures and rejected lines"
    )
    for reason, number in counts.rejected.items():
        _say(f"  rejected {number}: {reason}")


def _print_failures(store: Path, limit: int | None) -> None:
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
        _say(f"  line {f.line}{which} [{f.stage}] {name}: {f.reason}")
    if shown < total:
        _say(f"  {total - shown} more: qmgen info {store} --failures")


def _say(text: str) -> None:
    _console.print(text, highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command; mistakes of the user end in one message and a non-zero status."""
    try:
        app(standalone_mode=True)
    except QmgenError as error:
        # Messages of other libraries, which may be part of it, come with line breaks.
        text = " ".join(str(error).split())
        _errors.print(f"qmgen: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as stop:
        # Typer turns an interrupt into this status without a word.
        if stop.code == EXIT_INTERRUPTED:
            _errors.print(
                "qmgen: interrupted; finished batches are kept and the same command goes on",
                markup=False,
                soft_wrap=True,
            )
        raise


if __name__ == "__main__":
    main()
