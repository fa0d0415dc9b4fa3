"""The seam to whatever predicts orbitals for the SCF to start from."""

from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import KohnShamProblem, problem_of_arrays
from qmgen.dft.program_arrays import ConformerArrays, MoleculeTables


@runtime_checkable
class OrbitalGuess(Protocol):
    """Predicts occupied orbitals of closed shells; it travels to worker processes."""

    @property
    def identity(self) -> dict[str, str]:
        """What determines its predictions, for provenance."""

    def __call__(
        self,
        atomic_numbers: Int[np.ndarray, " nat"],
        positions: Float[np.ndarray, "nat 3"],
        problem: KohnShamProblem,
    ) -> Float[np.ndarray, "nao nocc"] | None:
        """Give orthonormal orbitals over Löwdin's, without padding; None if it can't.

        Positions are in Bohr.
        """


def guessed_orbitals(
    guess: OrbitalGuess,
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    tables: MoleculeTables,
    arrays: ConformerArrays,
    orbitals: Float[np.ndarray, "nconf nao norb"],
    occupation: Float[np.ndarray, "nconf norb"],
) -> tuple[Float[np.ndarray, "nconf nao norb"], Float[np.ndarray, "nconf norb"]]:
    """Replace the orbitals and occupations of superposed atoms by what a guess predicts.

    Parameters
    ----------
    guess
        Predicts orbitals.
    atomic_numbers, positions
        Of the conformers, Bohr.
    config, tables, arrays
        Of the batch, whose first orbitals are those of superposed atoms.
    orbitals, occupation
        The same, without padding; those of conformers that the guess can't predict stay.
    """
    orbitals, occupation = orbitals.copy(), occupation.copy()
    nao = orbitals.shape[1]
    for i, place in enumerate(positions):
        conformer = jax.tree.map(lambda leaf, i=i: leaf[i], arrays)
        problem = problem_of_arrays(config, tables, conformer)
        predicted = guess(atomic_numbers, place, problem)
        if predicted is None or not np.isfinite(predicted).all():
            continue
        nocc = predicted.shape[1]
        orbitals[i], occupation[i] = 0.0, 0.0
        orbitals[i, :, :nocc] = np.asarray(problem.orthogonaliser)[:nao, :nao] @ predicted
        occupation[i, :nocc] = 2.0
    return orbitals, occupation
