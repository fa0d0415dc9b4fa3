"""Forces on the nuclei at the converged density.

The analytic gradient of the Kohn-Sham energy with the energy-weighted (Pulay) term. Derivatives of
the integrals and their contraction are PySCF's, with the orbitals that the engine found.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from pyscf import dft

from qmgen.dft.basis import build_basis
from qmgen.dft.cartesian import cartesian_to_orbitals, mixes_kinds
from qmgen.dft.config import DFTConfig
from qmgen.dft.interop import pyscf_calculation
from qmgen.dft.label import ConformerLabels


def nuclear_forces(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    labels: ConformerLabels,
    *,
    charge: int = 0,
    grid_response: bool = False,
) -> Float[np.ndarray, "nconf nat 3"]:
    """Minus the gradient of the energy, Hartree / Bohr; NaN where the energy is no number.

    Parameters
    ----------
    atomic_numbers, positions, charge
        Of the conformers that were labelled; Bohr, elementary charges.
    config
        Level of theory of the labels.
    labels
        Their Fock matrices give the orbitals.
    grid_response
        Whether the weights and points of the grid count as functions of the positions. Only then
        are the forces the derivative of the energy on a coarse grid.
    """
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    nelectron = int(np.sum(atomic_numbers)) - charge
    forces = np.full(positions.shape, np.nan)
    for row in np.flatnonzero(np.isfinite(labels.energy)):
        calculation = pyscf_calculation(atomic_numbers, positions[row], config, charge)
        S = calculation.get_ovlp()
        T = cartesian_to_orbitals(basis).toarray() if mixes_kinds(basis) else np.eye(len(S))
        energies, C = scipy.linalg.eigh(labels.fock[row], T.T @ S @ T)
        calculation.mo_energy, calculation.mo_coeff = energies, T @ C
        calculation.mo_occ = np.where(np.arange(len(energies)) < nelectron // 2, 2.0, 0.0)
        gradient = calculation.nuc_grad_method()
        if isinstance(calculation, dft.rks.RKS):
            gradient.grid_response = grid_response
        forces[row] = -gradient.kernel()
    return forces
