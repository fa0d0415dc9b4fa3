"""How far the predictions of a network of Hamiltonians are from self-consistency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qmgen.dft import label_conformers
from qmgen.molecules import ConformerConfig, Molecule, embed_conformers
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.hamiltonian.prediction import predict_conformers
from qmgen.units import BOHR_PER_ANGSTROM, EV_PER_HARTREE


@dataclass(frozen=True)
class HamiltonianErrors:
    """Means over conformers, against the self-consistent labels of the same level of theory.

    Attributes
    ----------
    conformers : int
        How many converged, with a finite prediction.
    energy_mha_per_atom : float
        Energy above the self-consistent one, millihartree an atom.
    energy_mha : float
        The same in millihartree.
    largest_energy_mha : float
        The largest of them.
    homo_mae_ev, lumo_mae_ev, gap_mae_ev : float
        Absolute errors of orbital energies, eV.
    cycles_minao, cycles_predicted : float
        SCF cycles from superposed atoms, and from the predicted density.
    """

    conformers: int
    energy_mha_per_atom: float
    energy_mha: float
    largest_energy_mha: float
    homo_mae_ev: float
    lumo_mae_ev: float
    gap_mae_ev: float
    cycles_minao: float
    cycles_predicted: float


def evaluate_hamiltonian(
    model: HamiltonianModel,
    molecules: Sequence[Molecule],
    conformers: ConformerConfig,
    seed: int,
) -> HamiltonianErrors:
    """Compare predictions with self-consistent labels, conformer by conformer.

    Parameters
    ----------
    model : HamiltonianModel
        On the CPU.
    molecules : sequence of Molecule
        Of which conformers are made.
    conformers : ConformerConfig
        How.
    seed : int
        Of the conformers.
    """
    config = model.config.dft.model_copy(update={"precision": "float64"})
    rows = []
    for molecule in molecules:
        z = molecule.atomic_numbers
        positions = embed_conformers(molecule, conformers, seed) * BOHR_PER_ANGSTROM
        predicted = predict_conformers(model, z, positions, charge=molecule.charge)
        for i, place in enumerate(positions[:, None]):
            # One by one: conformers of a call start from each other.
            plain = label_conformers(z, place, config, charge=molecule.charge)
            started = label_conformers(
                z,
                place,
                config,
                charge=molecule.charge,
                initial_density=predicted.density[i : i + 1],
            )
            if not (plain.converged[0] and started.converged[0]):
                continue
            energy_mha = 1e3 * (predicted.energy[i] - plain.energy[0])
            orbital_ev = [
                EV_PER_HARTREE * abs(getattr(predicted, name)[i] - getattr(plain, name)[0])
                for name in ("homo", "lumo", "gap")
            ]
            cycles = int(plain.iterations[0]), int(started.iterations[0])
            rows.append((energy_mha / len(z), energy_mha, *orbital_ev, *cycles))
    if not rows:
        return HamiltonianErrors(0, *([math.nan] * 8))
    table = np.array(rows, dtype=np.float64)
    per_atom, energy, *rest = table.mean(axis=0).tolist()
    return HamiltonianErrors(len(table), per_atom, energy, float(table[:, 1].max()), *rest)
