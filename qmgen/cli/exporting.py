"""The command that writes a dataset for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qmgen.cli.application import Split, StorePath, say
from qmgen.errors import InputError


class Format(StrEnum):
    """What a dataset can be written as."""

    QM1B = "qm1b"
    EXTXYZ = "extxyz"
    ASE = "ase"
    HUGGINGFACE = "huggingface"


def export(
    store: StorePath,
    output: Annotated[
        Path, typer.Argument(help="File to make; with --format huggingface a folder.")
    ],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="qm1b: Parquet with the columns and units of the published QM1B. extxyz: "
            "extended XYZ. ase: the database of schnetpack and ASE, .db. huggingface: Parquet by "
            "split, and a dataset card.",
        ),
    ] = Format.QM1B,
    split: Annotated[
        Split | None, typer.Option(help="Which split, for extxyz and ase [default: all].")
    ] = None,
    license_id: Annotated[
        str | None,
        typer.Option("--license", help="For huggingface, such as cc-by-4.0 [default: unknown]."),
    ] = None,
) -> None:
    """Write the converged conformers of a dataset for other programs."""
    from qmgen.dataset import export_huggingface, export_qm1b, open_dataset

    frames = format_ in (Format.EXTXYZ, Format.ASE)
    if split is not None and not frames:
        raise InputError(f"--split is for extxyz and ase; leave it out with --format {format_}")
    if license_id is not None and format_ is not Format.HUGGINGFACE:
        raise InputError(f"--license is for huggingface; leave it out with --format {format_}")
    dataset = open_dataset(store)
    part = None if split is None else split.value
    if frames:
        from qmgen.training import export_ase_database, export_extxyz

        write = export_extxyz if format_ is Format.EXTXYZ else export_ase_database
        counts = write(dataset, output, split=part)
    elif format_ is Format.HUGGINGFACE:
        counts = export_huggingface(dataset, output, license_id=license_id or "unknown")
    else:
        counts = export_qm1b(dataset, output)
    reason = {
        Format.QM1B: "not converged or without gap",
        Format.ASE: "not converged, without a label or of another split",
        Format.EXTXYZ: "not converged or of another split",
        Format.HUGGINGFACE: "not converged",
    }[format_]
    say(f"{counts.written} rows written to {output}, {counts.skipped} skipped ({reason})")
