"""Forces on the nuclei at the converged density.

The analytic gradient of the Kohn-Sham energy: each part of the energy is differentiated with the
density held fixed, and the overlap with the energy-weighted density (Pulay) stands for how the
density follows the positions.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from qmgen.dft.basis import Basis, build_basis
from qmgen.dft.cartesian import cartesian_to_orbitals, mixes_kinds
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_labels import ConformerLabels
from qmgen.dft.functionals import Functional, get_functional
from qmgen.dft.grid import GridTable, grid_size, grid_table
from qmgen.dft.integrals import libcint_one_electron_integrals
from qmgen.dft.interop import pyscf_calculation
from qmgen.dft.native_integrals import native_pays, native_plan
from qmgen.dft.one_electron_gradient import one_electron_gradient
from qmgen.dft.orbitals import OrbitalTable, orbital_table
from qmgen.dft.precision import double_precision
from qmgen.dft.quadrature_gradient import exchange_correlation_gradient
from qmgen.dft.repulsion_gradient import (
    ORBITAL_STEP,
    libcint_repulsion_gradient,
    native_repulsion_gradient,
)
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.sizes import ATOM_STEP, GRID_BLOCK, round_up
from qmgen.dft.unrestricted import spin_occupations

Positions = Float[np.ndarray, "nconf nat 3"]
Densities = Float[np.ndarray, "nconf nspin nao nao"]

# Points a block on a CPU: orbitals with all their derivatives then stay in a core's second-level
# cache. Twice as fast as with the block of the SCF, which holds less of each point.
_CPU_BLOCK = 128
# Numbers of points are padded to a multiple of this: coarser than in the SCF, as what is empty
# costs little here.
_POINT_STEP = 16384


def nuclear_forces(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Positions,
    config: DFTConfig,
    labels: ConformerLabels,
    *,
    charge: int = 0,
    spin: int = 0,
    grid_response: bool = False,
) -> Positions:
    """Minus the gradient of the energy, Hartree / Bohr; NaN where the energy is no number.

    Parameters
    ----------
    atomic_numbers, positions, charge, spin
        Of the conformers that were labelled; Bohr, elementary charges, 2S.
    config
        Level of theory of the labels.
    labels
        Their Fock matrices give the orbitals.
    grid_response
        Whether the weights and points of the grid count as functions of the positions. Only then
        are the forces the derivative of the energy on a coarse grid.
    """
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    occupations = spin_occupations(int(np.sum(atomic_numbers)) - charge, spin)
    forces = np.full(positions.shape, np.nan)
    rows = np.flatnonzero(np.isfinite(labels.energy))
    if not len(rows):
        return forces
    where = positions[rows]
    overlap = libcint_one_electron_integrals(basis, where).overlap
    focks = [labels.fock] if labels.spin is None else [labels.fock, labels.spin.fock_beta]
    # Of each spin, or of the one kind of orbitals of a closed shell.
    solutions = [
        [scipy.linalg.eigh(fock, S) for fock, S in zip(of_spin[rows], overlap, strict=True)]
        for of_spin in focks
    ]
    if config.two_electron == "density_fitting":
        fitted = partial(_fitted_gradient, basis, config, charge, occupations, grid_response)
        gradients = [fitted(xyz, *one) for xyz, *one in zip(where, *solutions, strict=True)]
        forces[rows] = -np.stack(gradients)
        return forces
    electrons = 2 / len(focks)
    densities, weighted = [], np.zeros_like(overlap)
    for of_spin, noccupied in zip(solutions, occupations, strict=False):
        occupied = np.stack([C[:, :noccupied] for _, C in of_spin])
        energies = np.stack([e[:noccupied] for e, _ in of_spin])
        densities.append(electrons * occupied @ occupied.transpose(0, 2, 1))
        weighted += electrons * (occupied * energies[:, None]) @ occupied.transpose(0, 2, 1)
    gradient = energy_gradient(
        basis, where, config, np.stack(densities, 1), weighted, grid_response=grid_response
    )
    forces[rows] = -gradient
    return forces


def energy_gradient(
    basis: Basis,
    positions: Positions,
    config: DFTConfig,
    densities: Densities,
    energy_weighted: Float[np.ndarray, "nconf nao nao"],
    *,
    grid_response: bool,
) -> Positions:
    """Gradient of the energy with exact two-electron integrals, Hartree / Bohr.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of its conformers, Bohr.
    config
        Level of theory.
    densities
        Self-consistent density matrices: one of a closed shell, or one of each spin.
    energy_weighted
        Total density matrices with each orbital weighted by its energy.
    grid_response
        As in `nuclear_forces`.
    """
    functional = get_functional(config.functional)
    total = densities.sum(axis=1)
    gradient = one_electron_gradient(basis, positions, total, energy_weighted)
    if native_pays(basis, len(positions)) and not functional.long_range_exchange:
        plan = native_plan(basis, positions, config.precision)
        gradient += native_repulsion_gradient(plan, positions, densities, functional.exact_exchange)
    else:
        gradient += libcint_repulsion_gradient(basis, positions, densities, functional)
    if functional.terms:
        gradient += _quadrature_gradients(
            basis, positions, config, functional, densities, grid_response
        )
    return gradient


def _quadrature_gradients(
    basis: Basis,
    positions: Positions,
    config: DFTConfig,
    functional: Functional,
    densities: Densities,
    grid_response: bool,
) -> Positions:
    block = _CPU_BLOCK if jax.default_backend() == "cpu" else GRID_BLOCK
    points = grid_size(basis.atomic_numbers, config.grid_level)
    natoms = round_up(positions.shape[1], ATOM_STEP)
    nao = round_up(basis.nao, ORBITAL_STEP)
    more = nao - basis.nao
    with double_precision():
        orbitals = orbital_table(basis, nao)
        grid = grid_table(
            basis.atomic_numbers, config.grid_level, natoms, round_up(points, _POINT_STEP)
        )
        where = np.pad(positions, ((0, 0), (0, natoms - positions.shape[1]), (0, 0)))
        matrices = np.pad(densities, ((0, 0), (0, 0), (0, more), (0, more)))
        nblock = jnp.asarray(-(-points // block), jnp.int32)
        gradients = [
            _quadrature_gradient(
                functional,
                orbitals,
                grid,
                jnp.asarray(xyz),
                jnp.asarray(D),
                nblock,
                grid_response,
                block,
            )
            for xyz, D in zip(where, matrices, strict=True)
        ]
        return np.stack(gradients)[:, : positions.shape[1]]


@shared_program(static_argnames=("functional", "grid_response", "block"))
def _quadrature_gradient(
    functional: Functional,
    orbitals: OrbitalTable,
    grid: GridTable,
    positions: Float[Array, "nat 3"],
    densities: Float[Array, "nspin nao nao"],
    nblock: Int[Array, ""],
    grid_response: bool,
    block: int,
) -> Float[Array, "nat 3"]:
    return exchange_correlation_gradient(
        functional,
        orbitals,
        grid,
        positions,
        densities,
        nblock,
        grid_response=grid_response,
        block=block,
    )


def _fitted_gradient(
    basis: Basis,
    config: DFTConfig,
    charge: int,
    occupations: tuple[int, int],
    grid_response: bool,
    positions: Float[np.ndarray, "nat 3"],
    *solutions: tuple[Float[np.ndarray, " nao"], Float[np.ndarray, "nao nao"]],
) -> Float[np.ndarray, "nat 3"]:
    """Gradient of a conformer with density fitting, by PySCF."""
    calculation = pyscf_calculation(
        basis.atomic_numbers, positions, config, charge, occupations[0] - occupations[1]
    )
    T = cartesian_to_orbitals(basis).toarray() if mixes_kinds(basis) else np.eye(basis.nao)
    orbital = np.arange(basis.nao)
    electrons = 2.0 / len(solutions)
    energies, coefficients, electron_numbers = (
        np.stack(x)
        for x in zip(
            *(
                (e, T @ C, np.where(orbital < n, electrons, 0.0))
                for (e, C), n in zip(solutions, occupations, strict=False)
            ),
            strict=True,
        )
    )
    if len(solutions) == 1:
        energies, coefficients, electron_numbers = energies[0], coefficients[0], electron_numbers[0]
    calculation.mo_energy, calculation.mo_coeff = energies, coefficients
    calculation.mo_occ = electron_numbers
    gradient = calculation.nuc_grad_method()
    if get_functional(config.functional).terms:
        gradient.grid_response = grid_response
    return gradient.kernel()
