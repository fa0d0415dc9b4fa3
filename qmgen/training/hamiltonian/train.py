"""From a list of molecules to a network of Hamiltonians: one call, and no dataset."""

import csv
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qmgen.dataset import package_versions
from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.errors import ConfigError, InputError
from qmgen.training.hamiltonian.checkpoint import describe_hamiltonian, load_hamiltonian
from qmgen.training.hamiltonian.config import HamiltonianConfig
from qmgen.training.hamiltonian.data import ConformerProblems, ProblemLoader
from qmgen.training.hamiltonian.evaluation import HamiltonianErrors, evaluate_hamiltonian
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.hamiltonian.molecules import TrainingMolecules, read_training_molecules
from qmgen.training.hamiltonian.task import VAL_ENERGY, HamiltonianTask
from qmgen.training.interruption import interruptible, quiet_lightning
from qmgen.training.learning_curve import Row, keep_epochs, read_rows
from qmgen.training.recorder import COSTS_FILE, METRICS_FILE, MODEL_FILE, STATE_FILE, Recorder
from qmgen.training.resume import CONFIG_FILE, RESULT_FILE, find_unfinished

FAILURES_FILE = "left_out.csv"
PLOT_FILE = "learning_curve.png"
_PACKAGES = ("qmgen", "torch", "schnetpack", "pytorch-lightning", "jax", "pyscf", "rdkit", "numpy")
# Conformers whose own blocks the network's means are of.
_MEANS_OF = 64


@dataclass(frozen=True)
class HamiltonianResult:
    """Outcome of a training.

    Attributes
    ----------
    test : HamiltonianErrors
        Against self-consistent labels of the test molecules, which training never sees.
    best_epoch, epochs : int
        Epoch of the model, from 1; epochs trained.
    train, val, left_out : int
        Molecules of the splits, and those that could not be used.
    checkpoint, plot : Path
        Files.
    """

    test: HamiltonianErrors
    best_epoch: int
    epochs: int
    train: int
    val: int
    left_out: int
    checkpoint: Path
    plot: Path


def train_hamiltonian(
    source: str | Path,
    out_dir: str | os.PathLike[str],
    config: HamiltonianConfig,
) -> HamiltonianResult:
    """Train a network on the energies of the orbitals that it predicts; test it against the SCF.

    Interrupted, it goes on when it is called again in the same way, and on the CPU comes to the
    same result. The caller's random numbers are untouched.

    Parameters
    ----------
    source : path
        Molecules in any format of `qmgen.molecules.read_molecules`.
    out_dir : path
        Folder to write ``model.ckpt``, ``config.json``, ``metrics.csv``, ``metrics.json``,
        ``learning_curve.png`` and ``left_out.csv`` to, and until the end ``last.ckpt``.
    config : HamiltonianConfig
        What to train, and how.

    Raises
    ------
    InputError
        `source` can't be used, `out_dir` has a complete training or can't be made, or training
        diverged.
    ConfigError, StoreMismatchError
        `out_dir` has an interrupted training of another configuration, or of other molecules.
    KeyboardInterrupt
        The user interrupted the training.
    """
    out = Path(os.path.abspath(out_dir))
    use_compilation_cache()
    molecules = read_training_molecules(source, config)
    origin = {"source_sha256": molecules.sha256, "molecules": len(molecules.train)}
    unfinished = find_unfinished(out, config, origin)
    epochs_done = unfinished.recorded["epochs"] if unfinished else 0
    _prepare(out, config, molecules, epochs_done)
    with quiet_lightning(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = HamiltonianModel(config, molecules.elements)
        train = ConformerProblems(molecules.train, config, model.slots, training=True)
        val = ConformerProblems(molecules.val, config, model.slots, training=False)
        if unfinished is None:
            some = molecules.train[:_MEANS_OF]
            # Its conformers are not kept any longer than this.
            model.fit_means(ConformerProblems(some, config, model.slots, training=False))
        recorder = Recorder(out)
        description = describe_hamiltonian(model, origin, package_versions(_PACKAGES))
        task = HamiltonianTask(model, _total_steps(molecules, config), description)
        trainer = _trainer(config, recorder)
        if unfinished is not None:
            recorder.load_state_dict(unfinished.recorded)
        load = (config.batch_size, model.slots, lambda: recorder.epochs)
        if not recorder.finished:
            with interruptible(trainer):
                trainer.fit(
                    task,
                    ProblemLoader(train, *load, config.num_workers),
                    # Its conformers stay the same, and are kept.
                    ProblemLoader(val, *load),
                    ckpt_path=unfinished.state if unfinished else None,
                    weights_only=True if unfinished else None,
                )
    if not recorder.best_epoch:
        raise InputError(
            f"training diverged: no epoch has a finite energy; use a learning rate below "
            f"{config.learning_rate:g}"
        )
    best = load_hamiltonian(out / MODEL_FILE)
    result = HamiltonianResult(
        test=evaluate_hamiltonian(best, molecules.test, config.held_out, config.seed),
        best_epoch=recorder.best_epoch,
        epochs=recorder.epochs,
        train=len(molecules.train),
        val=len(molecules.val),
        left_out=len(molecules.left_out),
        checkpoint=out / MODEL_FILE,
        plot=out / PLOT_FILE,
    )
    _plot(read_rows(out / METRICS_FILE), result.plot)
    _write_result(result, out / RESULT_FILE)
    (out / STATE_FILE).unlink(missing_ok=True)
    return result


def _total_steps(molecules: TrainingMolecules, config: HamiltonianConfig) -> int:
    """About how many steps there will be; fewer conformers than asked for may be embedded."""
    conformers = len(molecules.train) * config.conformers.per_molecule * config.visits
    return config.epochs * math.ceil(conformers / config.batch_size)


def _prepare(
    out: Path, config: HamiltonianConfig, molecules: TrainingMolecules, epochs: int
) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        with (out / FAILURES_FILE).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("line", "text", "reason"))
            writer.writerows((r.line, r.text, r.reason) for r in molecules.left_out)
        # The logs may be an epoch ahead of the state.
        for name in (METRICS_FILE, COSTS_FILE):
            keep_epochs(out / name, epochs)
    except OSError as error:
        raise InputError(
            f"can't write to {out}: {error.strerror or error}; choose another output"
        ) from error


def _trainer(config: HamiltonianConfig, recorder: Recorder) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=1,
            # One process trains. A Slurm job's variables would make Lightning wait for others.
            plugins=[LightningEnvironment()],
            max_epochs=config.epochs,
            gradient_clip_val=config.gradient_clip,
            callbacks=[recorder],
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
        )
    except (ValueError, MisconfigurationException) as error:
        raise ConfigError(
            f"can't train on the accelerator {config.accelerator!r}: {error}; use auto or cpu"
        ) from error


def _write_result(result: HamiltonianResult, path: Path) -> None:
    """Write ``metrics.json``, which marks a training as complete, in one go."""
    content: Mapping[str, Any] = {
        name: value for name, value in asdict(result).items() if not isinstance(value, Path)
    }
    beside = path.with_suffix(".json.part")
    beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _plot(rows: list[Row], path: Path) -> None:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([row["epoch"] for row in rows], [row[VAL_ENERGY] for row in rows], marker="o")
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation energy above the guess' (millihartree an atom)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
