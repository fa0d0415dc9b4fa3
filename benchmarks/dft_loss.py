"""Training on the Kohn-Sham energy against labelling first and training after.

Both ways have the same network, conformers, level of theory and device, and both are judged by the
energy of the predicted orbitals above the self-consistent one. What labelling costs is part of the
second way. Costs are those of one process, compilation apart. Tests are on unseen molecules (frames
of a trajectory), and of --source on unseen conformers of known molecules as well.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from trajectories import SMILES, write_trajectory

from qmgen.dft import DFTConfig, label_conformers
from qmgen.dft.compilation_cache import use_compilation_cache
from qmgen.molecules import ConformerConfig, embed_conformers
from qmgen.training.dft_loss import kohn_sham_energy, to_torch
from qmgen.training.hamiltonian import (
    HamiltonianConfig,
    HamiltonianErrors,
    HamiltonianResult,
    evaluate_hamiltonian,
    load_hamiltonian,
    train_hamiltonian,
)
from qmgen.training.hamiltonian.inputs import conformers_of
from qmgen.training.hamiltonian.molecules import read_training_molecules
from qmgen.training.hamiltonian.orbital_layout import slots_of_elements
from qmgen.training.neighbors import NeighborList
from qmgen.units import BOHR_PER_ANGSTROM

NAMES = {"energy": "Kohn-Sham energy as the loss", "fock": "labels first, then training"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecule", choices=SMILES, help="Frames of its dynamics at 300 K.")
    parser.add_argument("--source", type=Path, help="A file of molecules, in place of --molecule.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--records", type=int, default=None, help="Most records to train on.")
    parser.add_argument(
        "--conformers", type=int, nargs=2, default=(1, 1), help="Of each molecule, of the two ways."
    )
    parser.add_argument("--fresh", action="store_true", help="New ones each epoch, unlabelled.")
    parser.add_argument("--basis", default="sto-3g")
    parser.add_argument("--two-electron", default="exact", choices=("exact", "density_fitting"))
    parser.add_argument("--epochs", type=int, nargs=2, default=(20, 30), help="Of the two ways.")
    parser.add_argument("--visits", type=int, nargs=2, default=(2, 2), help="Of the two ways.")
    parser.add_argument("--learning-rate", type=float, nargs=2, default=(2e-3, 2e-3))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = arguments.source
    if source is None:
        source = arguments.out / "trajectory.xyz"
        write_trajectory(arguments.molecule, arguments.frames, source)
    tests: dict[str, dict[str, HamiltonianErrors]] = {}
    curves = {}
    for way, loss in enumerate(("energy", "fock")):
        config = HamiltonianConfig(
            loss=loss,
            dft=DFTConfig(
                functional="b3lyp",
                basis=arguments.basis,
                grid_level=0,
                two_electron=arguments.two_electron,
                precision="float32",
            ),
            conformers=ConformerConfig(per_molecule=arguments.conformers[way]),
            fresh_conformers=arguments.fresh and loss == "energy",
            window=128,
            cache_gib=8,
            split="record" if arguments.source is None else "molecule",
            fractions=(0.8, 0.1, 0.1),
            train_records=arguments.records,
            epochs=arguments.epochs[way],
            visits=arguments.visits[way],
            learning_rate=arguments.learning_rate[way],
        )
        # First, so that programs are compiled before anything is timed.
        offset = above_scf(source, config)
        result = train_hamiltonian(source, arguments.out / loss, config)
        tests[loss] = {"unseen": result.test}
        if arguments.source is not None:
            tests[loss]["known"] = known_molecules(source, config, result)
        curves[loss] = learning_curve(arguments.out / loss, offset)
    report(tests, curves, arguments.out)


def known_molecules(
    source: Path, config: HamiltonianConfig, result: HamiltonianResult
) -> HamiltonianErrors:
    """Errors of new conformers of as many training molecules as there are test molecules."""
    molecules = read_training_molecules(source, config)
    some = molecules.train[: len(molecules.test)]
    # No seed of the training.
    return evaluate_hamiltonian(
        load_hamiltonian(result.checkpoint), some, config.held_out, config.seed + 1
    )


def above_scf(source: Path, config: HamiltonianConfig) -> float:
    """Energy of the SCF below that of the guess on the validation split, millihartree an atom.

    It runs what training does once for each molecule, labels as well as steps on the energy.
    """
    use_compilation_cache()
    molecules = read_training_molecules(source, config)
    slots = slots_of_elements(molecules.elements, config.dft.basis)
    differences = []
    for molecule in molecules.val:
        z = molecule.atomic_numbers
        positions = embed_conformers(molecule, config.held_out, config.seed) * BOHR_PER_ANGSTROM
        labels = label_conformers(z, positions, config.dft, charge=molecule.charge)
        conformers = conformers_of(
            z, positions, config.dft, slots, NeighborList(5.0), molecule.charge
        )
        problems = [conformer.energy_problem for conformer in conformers]
        kohn_sham_energy("hamiltonian", problems, [to_torch(p.guess) for p in problems])
        for conformer, energy in zip(conformers, labels.energy, strict=True):
            differences.append(1e3 * (conformer.guess_energy - energy) / len(z))
    return float(np.mean(differences))


def learning_curve(out: Path, offset: float) -> dict[str, list[float]]:
    """Cost so far and error of the validation split by epoch."""
    with (out / "metrics.csv").open(newline="") as stream:
        error = [float(row["val_mha_per_atom"]) + offset for row in csv.DictReader(stream)]
    with (out / "costs.csv").open(newline="") as stream:
        costs = list(csv.DictReader(stream))
    return {
        "error_mha_per_atom": error,
        **{
            name: np.cumsum([float(row[name]) for row in costs]).tolist()
            for name in ("seconds", "core_seconds")
        },
    }


def report(tests: dict, curves: dict, out: Path) -> None:
    print("| way | core-seconds | molecules | mHa an atom | largest, mHa | gap MAE, eV | cycles |")
    print("|---|---|---|---|---|---|---|")
    for loss, of_loss in tests.items():
        for kind, test in of_loss.items():
            print(
                f"| {NAMES[loss]} | {curves[loss]['core_seconds'][-1]:.0f} | {kind} | "
                f"{test.energy_mha_per_atom:.4f} | {test.largest_energy_mha:.1f} | "
                f"{test.gap_mae_ev:.4f} | "
                f"{test.cycles_predicted:.2f}, from minao {test.cycles_minao:.2f} |"
            )
    print("\nCore-seconds until the validation error was below:")
    for level in (3.0, 1.0, 0.3, 0.1, 0.03, 0.01):
        reached = {}
        for loss, curve in curves.items():
            below = [
                cost
                for cost, error in zip(
                    curve["core_seconds"], curve["error_mha_per_atom"], strict=True
                )
                if error < level
            ]
            reached[loss] = f"{below[0]:.0f}" if below else "never"
        print(f"  {level:g} mHa an atom: {reached['energy']} and {reached['fock']}")
    (out / "curves.json").write_text(json.dumps(curves, indent=2) + "\n", encoding="utf-8")
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, cost in zip(
        figure.subplots(1, 2, sharey=True), ("core_seconds", "seconds"), strict=True
    ):
        for loss, curve in curves.items():
            axes.plot(curve[cost], curve["error_mha_per_atom"], marker="o", ms=3, label=NAMES[loss])
        axes.set(xscale="log", yscale="log", xlabel=cost.replace("_", " "))
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("energy above the SCF (millihartree an atom)")
    figure.axes[0].legend()
    figure.savefig(out / "curves.png", dpi=150)
    print(f"\nplot: {out / 'curves.png'}")


if __name__ == "__main__":
    main()
