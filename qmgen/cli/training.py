"""The commands that train a network and predict with it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qmgen.cli.application import Split, say
from qmgen.errors import InputError


class Target(StrEnum):
    """Labels that a network can learn."""

    ENERGY = "energy"
    FORCES = "forces"
    HOMO = "homo"
    LUMO = "lumo"
    GAP = "gap"
    DIPOLE = "dipole"


class Loss(StrEnum):
    """What a training lowers."""

    LABELS = "labels"
    DFT = "dft"


def train(
    source: Annotated[str, typer.Argument(help="A dataset; with --loss dft a file of molecules.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, metrics and plot.")],
    loss: Annotated[
        Loss,
        typer.Option(
            help="labels: errors of predicted labels. dft: the Kohn-Sham energy of predicted "
            "orbitals, which needs no dataset."
        ),
    ] = Loss.LABELS,
    config: Annotated[
        Path | None, typer.Option(help="YAML file; the other options override what it says.")
    ] = None,
    target: Annotated[
        list[Target] | None,
        typer.Option(help="Label to learn, may be given several times [default: gap]."),
    ] = None,
    representation: Annotated[
        str | None, typer.Option(help="schnet or painn [default: schnet].")
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(min=1, help="Most conformers to learn from [default: all].")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="model.ckpt whose weights to start from.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Conformers a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and shuffling.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu or gpu.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="32, bf16-mixed or 16-mixed [default: 32].")
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Also write errors for TensorBoard.")
    ] = None,
) -> None:
    """Train a network, split by molecule, and test it; the same command resumes.

    Errors are shown beside those of predicting the mean (zero, for forces and dipoles).
    """
    common = {
        "representation": representation,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "accelerator": accelerator,
    }
    of_labels = {
        "targets": dict.fromkeys((t.value for t in target), 1.0) if target else None,
        "train_size": train_size,
        "init_from": init_from,
        "precision": 32 if precision == "32" else precision,
        "tensorboard": tensorboard,
    }
    if loss is Loss.DFT:
        if given := [name for name, value in of_labels.items() if value is not None]:
            raise InputError(f"{', '.join(given)}: only --loss labels has these; leave them out")
        _train_hamiltonian(source, out, config, common)
        return
    from qmgen.training import load_train_config, train_model

    result = train_model(source, out, load_train_config(config, common | of_labels))
    say(
        f"{result.train.conformers} conformers of {result.train.molecules} molecules to train, "
        f"{result.test.conformers} of {result.test.molecules} others to test; "
        f"best epoch {result.best_epoch} of {result.epochs}"
    )
    for name in ("train", "val", "test"):
        size = getattr(result, name)
        if size.unlabelled or size.unseen:
            say(
                f"  left out of {name}: {size.unlabelled} conformers that lack a label, "
                f"{size.unseen} with an element that is not learnt"
            )
    for name, errors in result.errors.items():
        trivial, mae = errors.trivial
        say(
            f"{name}: test MAE {errors.test_mae:.4f} {errors.unit}, {trivial} {mae:.4f} "
            f"{errors.unit}"
        )
    say(f"checkpoint {result.checkpoint}; learning curve {result.plot}")


def _train_hamiltonian(
    source: str, out: Path, config: Path | None, overrides: dict[str, Any]
) -> None:
    from qmgen.training.hamiltonian import load_hamiltonian_config, train_hamiltonian

    result = train_hamiltonian(source, out, load_hamiltonian_config(config, overrides))
    test = result.test
    say(
        f"{result.train} molecules to train, {result.left_out} left out (left_out.csv); "
        f"best epoch {result.best_epoch} of {result.epochs}"
    )
    say(
        f"{test.conformers} test conformers against the SCF: energy "
        f"{test.energy_mha_per_atom:.4f} mHa an atom too high, gap MAE {test.gap_mae_ev:.4f} eV"
    )
    say(
        f"SCF cycles: {test.cycles_minao:.2f} from superposed atoms, "
        f"{test.cycles_predicted:.2f} from the prediction"
    )
    say(f"checkpoint {result.checkpoint}; learning curve {result.plot}")


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of a training run.")],
    source: Annotated[
        str, typer.Argument(help="Molecules in any format of `qmgen generate`, or a dataset.")
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
    """Predict the learnt labels; on a dataset, compare with the stored ones.

    Forces are written to a file beside the table, which ends in .xyz (extended XYZ).
    """
    from qmgen.molecules import ConformerConfig
    from qmgen.training import TARGETS, predict_file, write_predictions

    predictions = predict_file(
        checkpoint,
        source,
        split=None if split is None else split.value,
        conformers=ConformerConfig(per_molecule=conformers),
        seed=seed,
        smiles_column=smiles_column,
    )
    summary = write_predictions(predictions, out)
    say(f"{summary.predicted} predictions in {out}, {summary.skipped} rows without (reason there)")
    if summary.forces is not None:
        say(f"forces in {summary.forces}")
    for target, mae in summary.mae.items():
        say(
            f"{target}: MAE against {summary.compared[target]} stored labels "
            f"{mae:.4f} {TARGETS[target].unit}"
        )
