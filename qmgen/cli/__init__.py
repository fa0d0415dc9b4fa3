"""The `qmgen` command: parses arguments, makes one call, prints the outcome."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from qmgen.cli import (
    appending,
    evaluation,
    exporting,
    inspection,
    integrity,
    knowledge,
    training,
)
from qmgen.cli.application import (
    SchedulerAddress,
    SmilesColumn,
    StorePath,
    Workers,
    app,
    console,
    error_console,
    print_counts,
    print_failures,
    say,
)
from qmgen.errors import QmgenError

# Exit status when a run finished but molecules have elements that the basis lacks.
EXIT_UNSUITED = 3
EXIT_INTERRUPTED = 130


@app.command()
def generate(
    source: Annotated[
        Path, typer.Argument(help="Molecules: .smi, .csv, .sdf or .xyz, also with .gz appended.")
    ],
    output: Annotated[
        str, typer.Argument(help="The Zarr store to make: a folder, or a URL such as s3://...")
    ],
    config: Annotated[
        Path | None, typer.Option(help="YAML file; the other options override what it says.")
    ] = None,
    conformers: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Conformers per molecule [default: 8].")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="dft or mmff94, a force field for trials [default: dft]."),
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
    workers: Workers = None,
    scheduler: SchedulerAddress = None,
    smiles_column: SmilesColumn = None,
    guess: Annotated[
        Path | None,
        typer.Option(help="model.ckpt of `qmgen train --loss dft`, for the SCF to start from."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="File to append events to, as lines of JSON.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the run's own files if the output is a URL [default: the output's "
            "name, followed by .qmgen-run, in the current directory]."
        ),
    ] = None,
) -> None:
    """Label conformers of every molecule; the same command resumes an interrupted run."""
    from qmgen.generate import Progress, load_config
    from qmgen.generate import generate as run

    overrides: dict[str, dict[str, Any]] = {
        "": {"seed": seed, "method": method},
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
        error_console.print(
            f"qmgen: warning: {note}",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    orbital_guess = None
    if guess is not None:
        from qmgen.training.hamiltonian import network_guess

        orbital_guess = network_guess(guess, settings.dft)
    summary = run(
        source,
        output,
        settings,
        smiles_column=smiles_column,
        progress=Progress(console),
        guess=orbital_guess,
        log=log,
        work=work,
    )
    if summary.already_complete:
        say(f"{output} is complete already")
    elif summary.resumed_batches:
        say(f"{summary.resumed_batches} of {summary.batches} batches were done before")
    print_counts(output)
    print_failures(output, limit=20)
    check = f"qmgen validate {output}; " if settings.method == "dft" else ""
    say(f"next: {check}qmgen train {output} --out run/")
    if summary.unsuited_molecules:
        from qmgen.dft.basis_file import basis_title

        title = basis_title(settings.dft.basis)
        error_console.print(
            f"qmgen: basis {title} lacks elements of "
            f"{summary.unsuited_molecules} molecules, which have no labels (listed above); all "
            "others are labelled. Choose a basis that covers them with --basis",
            style="red",
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_UNSUITED)


@app.command()
def plan(
    source: Annotated[
        Path, typer.Argument(help="Molecules: .smi, .csv, .sdf or .xyz, also with .gz appended.")
    ],
    config: Annotated[Path | None, typer.Option(help="YAML file of the run.")] = None,
    conformers: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Conformers per molecule [default: 8].")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="dft or mmff94, a force field for trials [default: dft].")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers, of one core each.")] = 1,
    sample: Annotated[int, typer.Option(min=1, help="Programs to time for the estimate.")] = 6,
    smiles_column: SmilesColumn = None,
) -> None:
    """Estimate what a run will cost in core-hours, time and disk, from a short calibration."""
    from qmgen.generate import estimate_run, load_config

    settings = load_config(
        config, {"": {"method": method}, "conformers": {"per_molecule": conformers}}
    )
    result = estimate_run(
        source, settings, sample=sample, smiles_column=smiles_column, progress=say
    )
    say(
        f"{result.molecules:,} molecules, {result.conformers:,} conformers, {result.programs} "
        f"compiled programs of which {result.calibrated} were timed, {result.rejected:,} records "
        "that can't be used"
    )
    say(
        f"{result.core_hours:.3g} core-hours ({result.label_core_seconds / 3600:.3g} for labels, "
        f"{result.compile_core_seconds / 3600:.3g} to compile programs that this machine lacked), "
        f"{result.wall_seconds(workers) / 3600:.3g} hours with {workers} workers of one core"
    )
    say(
        f"{result.store_bytes / 1e9:.3g} GB for the dataset, {result.working_bytes / 1e9:.3g} GB "
        "while it is being made"
    )


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
    out: Annotated[
        Path | None, typer.Option(help="JSON file of the outcome to make, for `qmgen report`.")
    ] = None,
) -> None:
    """Recompute a random sample with PySCF itself and compare every label."""
    from dataclasses import replace

    from rich.progress import track

    from qmgen.dataset import open_dataset
    from qmgen.dataset.output import check_output
    from qmgen.dataset.validation import write_validation
    from qmgen.errors import ValidationError
    from qmgen.generate.cluster import available_cores
    from qmgen.generate.validate import default_tolerances, stored_config
    from qmgen.generate.validate import validate as check

    if out is not None:
        # A slip should not cost the time that PySCF takes.
        check_output(out, ".json")
    dataset = open_dataset(store)
    tolerances = default_tolerances(stored_config(dataset))
    if energy_tolerance is not None:
        tolerances = replace(tolerances, energy=energy_tolerance)
    total = min(sample, len(dataset.indices(converged_only=True)))
    steps = iter(track(range(total), "PySCF", console=console, transient=True))
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
    console.print(table)
    if report.not_converged:
        say(f"PySCF itself did not converge for {report.not_converged} of them")
    if out is not None:
        write_validation(report, dataset, out)
        say(f"outcome in {out}")
    if not report.passed:
        raise ValidationError(
            f"labels of {store} differ from PySCF by more than the tolerance; `qmgen info {store}` "
            "shows how they were made"
        )
    say("all labels are within tolerance")


@app.command()
def info(
    store: StorePath,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every failure and rejected line.")
    ] = False,
) -> None:
    """Show counts, failures by reason, ranges and provenance of a dataset."""
    from qmgen.dataset import open_dataset
    from qmgen.dataset.summary import label_ranges

    dataset = open_dataset(store)
    print_counts(store)
    table = Table(title="ranges over converged conformers")
    for column in ("label", "unit", "minimum", "mean", "maximum"):
        table.add_column(column, justify="left" if column in ("label", "unit") else "right")
    for r in label_ranges(dataset):
        table.add_row(r.label, r.unit, f"{r.minimum:.6g}", f"{r.mean:.6g}", f"{r.maximum:.6g}")
    console.print(table)
    provenance = dataset.metadata.provenance
    for name, value in provenance.model_dump(mode="json").items():
        say(f"{name}: {value}")
    say(f"created: {dataset.metadata.created}")
    if dataset.metadata.optional_labels:
        say(f"optional labels: {', '.join(dataset.metadata.optional_labels)}")
    for level in dataset.metadata.levels:
        say(f"at the level {level.name}: {', '.join(level.labels)}; {level.config}")
    for name, bound in dataset.metadata.precision.items():
        say(f"rounded: {name} by at most {bound:g} {dataset.units(name)}")
    for part in dataset.metadata.parts:
        held = f"{part.counts.molecules} molecules, {part.counts.conformers} conformers"
        say(f"part: {part.source.name}: {held}, {part.duplicates} duplicates left out")
    for note in dataset.metadata.notes:
        say(f"note: {note}")
    print_failures(store, limit=None if failures else 0)


app.command()(exporting.export)
app.command()(integrity.verify)
app.command()(integrity.repair)
app.command()(integrity.merge)
app.command()(appending.append)
app.command()(training.train)
app.command()(training.predict)
app.command(name="import-qm9")(evaluation.import_qm9)
app.command()(evaluation.evaluate)
app.command()(evaluation.scaling_law)
app.command()(inspection.report)
app.command()(inspection.browse)
app.add_typer(knowledge.knowledge, name="knowledge")


def main() -> None:
    """Run the command; mistakes of the user end in one message and a non-zero status."""
    for name in ("aiobotocore", "botocore"):
        # schnetpack has every library say what it does.
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except QmgenError as error:
        # Messages of other libraries, which may be part of it, come with line breaks.
        text = " ".join(str(error).split())
        error_console.print(
            f"qmgen: {text}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(1)
    except SystemExit as stop:
        # Typer turns an interrupt into this status without a word.
        if stop.code == EXIT_INTERRUPTED:
            error_console.print(
                "qmgen: interrupted; what is finished is kept and the same command goes on",
                markup=False,
                soft_wrap=True,
            )
        raise
