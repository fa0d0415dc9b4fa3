"""What a network of Hamiltonians says of conformers: energies, orbital energies, densities."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import KohnShamProblem, OrbitalLabels, labels_of_orbitals
from qmgen.dft.orbital_projection import orbitals_of_hamiltonian
from qmgen.dft.precision import double_precision
from qmgen.dft.scf import closed_shell_density
from qmgen.dft.shared_programs import shared_program
from qmgen.errors import InputError
from qmgen.training.dft_loss import to_jax
from qmgen.training.hamiltonian.inputs import batch_of, conformers_of
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.neighbors import NeighborList

_AT_A_TIME = 8


@dataclass(frozen=True, eq=False)
class HamiltonianPrediction:
    """Labels of the predicted orbitals of a molecule's conformers, atomic units.

    Attributes
    ----------
    energy : Float64[nconf]
        Total Kohn-Sham energy, an upper bound of the self-consistent one, Hartree.
    homo, lumo, gap : Float64[nconf]
        Of the Fock matrix of the predicted density, Hartree.
    density : Float64[nconf, nao, nao]
        Predicted density matrices over the atomic orbitals.
    """

    energy: Float[np.ndarray, " nconf"]
    homo: Float[np.ndarray, " nconf"]
    lumo: Float[np.ndarray, " nconf"]
    gap: Float[np.ndarray, " nconf"]
    density: Float[np.ndarray, "nconf nao nao"]


def predict_conformers(
    model: HamiltonianModel,
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    *,
    charge: int = 0,
    config: DFTConfig | None = None,
) -> HamiltonianPrediction:
    """Predict the orbitals of a molecule's conformers and evaluate their energies.

    Parameters
    ----------
    model : HamiltonianModel
        On the CPU.
    atomic_numbers
        Nuclear charges.
    positions
        Of the nuclei, Bohr.
    charge
        Of the molecule, elementary charges.
    config
        Level of theory of the energies; the model's own by default, in float64.

    Raises
    ------
    InputError
        An element that the model was not trained on, or a conformer of no finite energy.
    UnsupportedMoleculeError
        An open shell, or too large a molecule.
    """
    atomic_numbers = np.asarray(atomic_numbers, np.int32)
    if unseen := sorted(set(atomic_numbers.tolist()) - set(model.elements)):
        raise InputError(
            f"the model has not been trained on atomic numbers {unseen}; train on molecules that "
            "have them"
        )
    if config is None:
        config = model.config.dft.model_copy(update={"precision": "float64"})
    neighbor_list = NeighborList(model.config.cutoff_angstrom)
    parts: list[tuple[OrbitalLabels, np.ndarray]] = []
    for start in range(0, len(positions), _AT_A_TIME):
        chunk = positions[start : start + _AT_A_TIME]
        conformers = conformers_of(
            atomic_numbers, chunk, config, model.slots, neighbor_list, charge
        )
        if len(conformers) < len(chunk):
            raise InputError("a conformer has no finite energy: do two of its atoms coincide?")
        with torch.no_grad():
            hamiltonians = model.hamiltonians(batch_of(conformers, model.slots))
        with double_precision():
            for conformer, H in zip(conformers, hamiltonians, strict=True):
                more = conformer.energy_problem.guess.shape[-1] - len(H)
                padded = torch.nn.functional.pad(H, (0, more, 0, more))
                labels, density = _labels(conformer.energy_problem, to_jax(padded))
                nao = len(H)
                parts.append((labels, np.asarray(density)[:nao, :nao]))
    columns = {
        name: np.array([float(getattr(labels, name)) for labels, _ in parts])
        for name in ("energy", "homo", "lumo", "gap")
    }
    return HamiltonianPrediction(**columns, density=np.stack([density for _, density in parts]))


@shared_program()
def _labels(
    problem: KohnShamProblem, hamiltonian: Float[Array, "nao nao"]
) -> tuple[OrbitalLabels, Float[Array, "nao nao"]]:
    orbitals = orbitals_of_hamiltonian(
        hamiltonian.astype(jnp.float64), problem.nslot, problem.noccupied, problem.real_orbital
    )
    density = closed_shell_density(problem.orthogonaliser @ orbitals)
    return labels_of_orbitals(problem, orbitals), density
