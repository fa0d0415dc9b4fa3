"""A trained network of Hamiltonians as the start of the SCF."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import KohnShamProblem
from qmgen.errors import ConfigError, InputError
from qmgen.training.hamiltonian.checkpoint import load_hamiltonian
from qmgen.training.hamiltonian.inputs import batch_of, conformer_of
from qmgen.training.hamiltonian.model import HamiltonianModel
from qmgen.training.hamiltonian.orbital_layout import slot_places
from qmgen.training.neighbors import NeighborList


@dataclass(frozen=True)
class NetworkGuess:
    """Orbitals of a network's Hamiltonians, as `qmgen.dft.orbital_guess.OrbitalGuess`.

    Attributes
    ----------
    path : Path
        ``model.ckpt``, which every worker must be able to read.
    sha256 : str
        Of its content.
    """

    path: Path
    sha256: str

    @property
    def identity(self) -> dict[str, str]:
        """What determines the predictions."""
        return {"model_sha256": self.sha256}

    def __call__(
        self,
        atomic_numbers: Int[np.ndarray, " nat"],
        positions: Float[np.ndarray, "nat 3"],
        problem: KohnShamProblem,
    ) -> Float[np.ndarray, "nao nocc"] | None:
        """Give the occupied orbitals; None for elements that the network has not learnt."""
        model = _model(self.path, self.sha256)
        if not set(model.elements).issuperset(atomic_numbers.tolist()):
            return None
        basis = build_basis(atomic_numbers, model.config.dft.basis, model.config.dft.cartesian)
        places = torch.from_numpy(slot_places(basis, model.slots))
        neighbors = NeighborList(model.config.cutoff_angstrom)
        conformer = conformer_of(atomic_numbers, positions, places, problem, neighbors)
        with torch.no_grad():
            (H,) = model.hamiltonians(batch_of([conformer], model.slots))
        return np.linalg.eigh(H.numpy())[1][:, : int(problem.noccupied)]


def network_guess(path: Path, config: DFTConfig) -> NetworkGuess:
    """Make a guess of a trained network for a level of theory.

    Parameters
    ----------
    path : Path
        ``model.ckpt`` of ``qmgen train --loss dft``.
    config : DFTConfig
        What the SCF will be; the basis must be the network's.

    Raises
    ------
    InputError
        The file is no network of Hamiltonians.
    ConfigError
        The network was trained in another basis.
    """
    trained = load_hamiltonian(path).config.dft
    if (trained.basis, trained.cartesian) != (config.basis, config.cartesian):
        raise ConfigError(
            f"{path} was trained in another basis than the one asked for; give a network that was "
            "trained in it, or leave the guess out"
        )
    return NetworkGuess(path.resolve(), _sha256(path))


@lru_cache(maxsize=1)
def _model(path: Path, sha256: str) -> HamiltonianModel:
    if _sha256(path) != sha256:
        raise InputError(f"{path} has changed since the run began; put the network back")
    return load_hamiltonian(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
