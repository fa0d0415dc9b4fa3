"""Conformers in the form that a network of Hamiltonians reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, Int
from schnetpack import properties
from schnetpack.transform import MatScipyNeighborList

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.kohn_sham_problem import KohnShamProblem, kohn_sham_problems
from qmgen.dft.orbital_projection import orbitals_of_hamiltonian
from qmgen.dft.precision import double_precision
from qmgen.dft.scf import closed_shell_density
from qmgen.training.inputs import Inputs, collate, structure_inputs
from qmgen.training.orbital_layout import OrbitalSlots, slot_places
from qmgen.units import ANGSTROM_PER_BOHR

N_MATRICES = 3
"""Matrices of the guess that a network gets."""


@dataclass(frozen=True, eq=False)
class Conformer:
    """One conformer and what its energy needs.

    Attributes
    ----------
    inputs : dict of str to Tensor
        See `qmgen.training.inputs.structure_inputs`.
    places : Int64[nao]
        Slot of each orbital, see `slot_places`.
    given : Float32[N_MATRICES, nao, nao]
        Over Löwdin's orbitals: the Hamiltonian of superposed atoms (Hartree), the density of its
        orbitals, and that of the atoms.
    problem : KohnShamProblem
        Its energy.
    """

    inputs: Inputs
    places: Int[torch.Tensor, " nao"]
    given: Float[torch.Tensor, "matrix nao nao"]
    problem: KohnShamProblem


def conformers_of(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    slots: OrbitalSlots,
    neighbor_list: MatScipyNeighborList,
    charge: int = 0,
) -> list[Conformer]:
    """Compute the integrals of a molecule's conformers and arrange them for a network.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    positions
        Of the nuclei, Bohr.
    config
        Level of theory.
    slots
        Of the network.
    neighbor_list
        Finds the neighbours.
    charge
        Of the molecule, elementary charges.

    Raises
    ------
    UnsupportedMoleculeError
        As of `kohn_sham_problems` and `slot_places`.
    """
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    places = torch.from_numpy(slot_places(basis, slots))
    problems = kohn_sham_problems(atomic_numbers, positions, config, charge=charge)
    conformers = []
    for problem, place in zip(problems, positions, strict=True):
        with double_precision():
            given = np.asarray(_given(problem))[:, : basis.nao, : basis.nao]
        inputs = structure_inputs(atomic_numbers, place * ANGSTROM_PER_BOHR, neighbor_list)
        conformers.append(Conformer(inputs, places, torch.from_numpy(given.copy()), problem))
    return conformers


@jax.jit
def _given(problem: KohnShamProblem) -> Float[Array, "matrix nao nao"]:
    orbitals = orbitals_of_hamiltonian(
        problem.guess, problem.nslot, problem.noccupied, problem.real_orbital
    )
    matrices = (problem.guess, closed_shell_density(orbitals), problem.guess_density)
    return jnp.stack(matrices).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class ConformerBatch:
    """Conformers side by side; pairs are those of all atoms of each conformer, row by row.

    Attributes
    ----------
    inputs : dict of str to Tensor
        See `qmgen.training.inputs.collate`.
    row_atom, column_atom : Int64[pair]
        Atoms of each pair, counted through the batch.
    given : Float32[pair, N_MATRICES, slot, slot]
        Blocks of the matrices that are given.
    n_atoms : tuple of int
        Of each conformer.
    places : tuple of Int64[nao]
        Of each conformer.
    """

    inputs: Inputs
    row_atom: Int[torch.Tensor, " pair"]
    column_atom: Int[torch.Tensor, " pair"]
    given: Float[torch.Tensor, "pair matrix slot slot"]
    n_atoms: tuple[int, ...]
    places: tuple[Int[torch.Tensor, " nao"], ...]


def batch_of(conformers: Sequence[Conformer], slots: OrbitalSlots) -> ConformerBatch:
    """Put conformers side by side."""
    n_atoms: list[int] = []
    rows, columns, given = [], [], []
    for conformer in conformers:
        first, n = sum(n_atoms), len(conformer.inputs[properties.Z])
        atoms = torch.arange(first, first + n)
        rows.append(atoms.repeat_interleave(n))
        columns.append(atoms.repeat(n))
        given.append(matrix_blocks(conformer.given, conformer.places, n, slots))
        n_atoms.append(n)
    return ConformerBatch(
        inputs=collate([conformer.inputs for conformer in conformers]),
        row_atom=torch.cat(rows),
        column_atom=torch.cat(columns),
        given=torch.cat(given),
        n_atoms=tuple(n_atoms),
        places=tuple(conformer.places for conformer in conformers),
    )


def matrix_blocks(
    matrices: Float[torch.Tensor, "matrix nao nao"],
    places: Int[torch.Tensor, " nao"],
    n_atoms: int,
    slots: OrbitalSlots,
) -> Float[torch.Tensor, "pair matrix slot slot"]:
    """Blocks of matrices for all pairs of atoms, row by row; empty slots are zero."""
    size = slots.size
    full = matrices.new_zeros(len(matrices), n_atoms * size, n_atoms * size)
    full[:, places[:, None], places] = matrices
    blocks = full.unflatten(2, (n_atoms, size)).unflatten(1, (n_atoms, size))
    return blocks.permute(1, 3, 0, 2, 4).flatten(0, 1)


def matrix_of_blocks(
    blocks: Float[torch.Tensor, "pair slot slot"],
    places: Int[torch.Tensor, " nao"],
    n_atoms: int,
) -> Float[torch.Tensor, "nao nao"]:
    """The symmetric part of the matrix whose blocks for all pairs of atoms these are."""
    size = blocks.shape[1]
    full = blocks.unflatten(0, (n_atoms, n_atoms)).transpose(1, 2)
    matrix = full.reshape(n_atoms * size, n_atoms * size)[places[:, None], places]
    return 0.5 * (matrix + matrix.T)
