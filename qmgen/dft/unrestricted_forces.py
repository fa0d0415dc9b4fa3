"""Forces on the nuclei of open shells at the converged density.

Derivatives of the integrals and their contraction are PySCF's, with the orbitals that the engine
found.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from pyscf import dft

from qmgen.dft.basis import build_basis
from qmgen.dft.cartesian import cartesian_to_orbitals, mixes_kinds
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_labels import ConformerLabels
from qmgen.dft.interop import pyscf_calculation
from qmgen.dft.unrestricted import spin_occupations


def unrestricted_forces(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    labels: ConformerLabels,
    *,
    charge: int,
    spin: int,
    grid_response: bool = False,
) -> Float[np.ndarray, "nconf nat 3"]:
    """Minus the gradient of the energy, Hartree / Bohr; NaN where the energy is no number.

    Parameters
    ----------
    atomic_numbers, positions, charge, spin
        Of the conformers that were labelled; Bohr, elementary charges, 2S > 0.
    config
        Level of theory of the labels.
    labels
        Their Fock matrices give the orbitals.
    grid_response
        Whether the weights and points of the grid count as functions of the positions. Only then
        are the forces the derivative of the energy on a coarse grid.
    """
    if labels.spin is None:
        raise ValueError("labels are those of a closed shell: use qmgen.dft.forces")
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    noccupied = spin_occupations(int(np.sum(atomic_numbers)) - charge, spin)
    forces = np.full(positions.shape, np.nan)
    for row in np.flatnonzero(np.isfinite(labels.energy)):
        calculation = pyscf_calculation(atomic_numbers, positions[row], config, charge, spin)
        S = calculation.get_ovlp()
        T = cartesian_to_orbitals(basis).toarray() if mixes_kinds(basis) else np.eye(len(S))
        focks = (labels.fock[row], labels.spin.fock_beta[row])
        solutions = [scipy.linalg.eigh(fock, T.T @ S @ T) for fock in focks]
        calculation.mo_energy = np.stack([energies for energies, _ in solutions])
        calculation.mo_coeff = np.stack([T @ C for _, C in solutions])
        orbital = np.arange(basis.nao)
        calculation.mo_occ = np.stack([np.where(orbital < n, 1.0, 0.0) for n in noccupied])
        gradient = calculation.nuc_grad_method()
        if isinstance(calculation, dft.uks.UKS):
            gradient.grid_response = grid_response
        forces[row] = -gradient.kernel()
    return forces
