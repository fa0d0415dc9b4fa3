"""Conformers in the form that a network of Hamiltonians reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, Int
from schnetpack import properties

from qmgen.dft.basis import build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.integrals import computed_once
from qmgen.dft.kohn_sham_problem import (
    KohnShamProblem,
    energy_of_orbitals,
    kohn_sham_problems,
)
from qmgen.dft.label import label_conformers
from qmgen.dft.orbital_projection import orbitals_of_hamiltonian
from qmgen.dft.precision import double_precision
from qmgen.dft.scf import closed_shell_density
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.sizes import check_memory, default_engine, shape_of
from qmgen.training.hamiltonian.orbital_layout import OrbitalSlots, slot_places
from qmgen.training.inputs import Inputs, collate, structure_inputs
from qmgen.training.neighbors import NeighborList
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
    problem : KohnShamProblem or None
        Its energy; None of a labelled conformer, which doesn't need that.
    guess_energy : float
        Of the guess' orbitals, Hartree.
    fock_change : Float32[nao, nao] or None
        Self-consistent Hamiltonian less that of the guess, if it is labelled, Hartree.
    """

    inputs: Inputs
    places: Int[torch.Tensor, " nao"]
    given: Float[torch.Tensor, "matrix nao nao"]
    problem: KohnShamProblem | None
    guess_energy: float
    fock_change: Float[torch.Tensor, "nao nao"] | None

    @property
    def energy_problem(self) -> KohnShamProblem:
        """Its energy, of a conformer that is not labelled."""
        assert self.problem is not None, "a labelled conformer has no integrals"
        return self.problem

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.inputs[properties.Z])


def conformers_of(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig,
    slots: OrbitalSlots,
    neighbor_list: NeighborList,
    charge: int = 0,
    *,
    labelled: bool = False,
) -> list[Conformer]:
    """Compute the integrals of a molecule's conformers and arrange them for a network.

    A conformer whose guess has no finite energy, or whose label did not converge, is left out.

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
    labelled
        Whether to solve the SCF of each conformer, and let its integrals go.

    Raises
    ------
    UnsupportedMoleculeError
        As of `kohn_sham_problems` and `slot_places`.
    """
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    places = torch.from_numpy(slot_places(basis, slots))
    engine, labels = None, None
    if labelled:
        # Guess and label have the same integrals, which are most of the cost of either.
        shape = shape_of(basis, config)
        check_memory(shape, config.precision)
        with double_precision():
            default = default_engine(basis, positions, shape, config)
            engine = computed_once(*default, basis, positions)
        labels = label_conformers(
            atomic_numbers, positions, config, charge=charge, integral_engine=engine
        )
    problems = kohn_sham_problems(
        atomic_numbers, positions, config, charge=charge, integral_engine=engine
    )
    conformers = []
    for i, problem in enumerate(problems):
        conformer = conformer_of(atomic_numbers, positions[i], places, problem, neighbor_list)
        if labels is not None:
            X = np.asarray(problem.orthogonaliser)[: basis.nao, : basis.nao]
            guess = np.asarray(problem.guess)[: basis.nao, : basis.nao]
            change = torch.from_numpy((X @ labels.fock[i] @ X - guess).astype(np.float32))
            # Its integrals would take a hundred times the memory of all else.
            conformer = replace(conformer, problem=None, fock_change=change)
        if np.isfinite(conformer.guess_energy) and (labels is None or labels.converged[i]):
            conformers.append(conformer)
    return conformers


def conformer_of(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nat 3"],
    places: Int[torch.Tensor, " nao"],
    problem: KohnShamProblem,
    neighbor_list: NeighborList,
) -> Conformer:
    """Arrange a conformer, whose integrals are there, for a network.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    positions
        Of the nuclei, Bohr.
    places
        Of the orbitals, see `slot_places`.
    problem
        Of the conformer.
    neighbor_list
        Finds the neighbours.
    """
    with double_precision():
        matrices, energy = _given(problem)
    nao = len(places)
    return Conformer(
        inputs=structure_inputs(atomic_numbers, positions * ANGSTROM_PER_BOHR, neighbor_list),
        places=places,
        given=torch.from_numpy(np.array(matrices[:, :nao, :nao])),
        problem=problem,
        guess_energy=float(energy),
        fock_change=None,
    )


@shared_program()
def _given(
    problem: KohnShamProblem,
) -> tuple[Float[Array, "matrix nao nao"], Float[Array, ""]]:
    orbitals = orbitals_of_hamiltonian(
        problem.guess, problem.nslot, problem.noccupied, problem.real_orbital
    )
    matrices = (problem.guess, closed_shell_density(orbitals), problem.guess_density)
    return jnp.stack(matrices).astype(jnp.float32), energy_of_orbitals(problem, orbitals)


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
    conformers : tuple of Conformer
        The conformers themselves.
    """

    inputs: Inputs
    row_atom: Int[torch.Tensor, " pair"]
    column_atom: Int[torch.Tensor, " pair"]
    given: Float[torch.Tensor, "pair matrix slot slot"]
    conformers: tuple[Conformer, ...]

    def to(self, device: torch.device) -> "ConformerBatch":
        """The same with what the network reads on a device."""
        return replace(
            self,
            inputs={name: values.to(device) for name, values in self.inputs.items()},
            row_atom=self.row_atom.to(device),
            column_atom=self.column_atom.to(device),
            given=self.given.to(device),
        )


def batch_of(conformers: Sequence[Conformer], slots: OrbitalSlots) -> ConformerBatch:
    """Put conformers side by side."""
    rows, columns, given = [], [], []
    first = 0
    for conformer in conformers:
        n = conformer.n_atoms
        atoms = torch.arange(first, first + n)
        rows.append(atoms.repeat_interleave(n))
        columns.append(atoms.repeat(n))
        given.append(matrix_blocks(conformer.given, conformer.places, n, slots))
        first += n
    return ConformerBatch(
        inputs=collate([conformer.inputs for conformer in conformers]),
        row_atom=torch.cat(rows),
        column_atom=torch.cat(columns),
        given=torch.cat(given),
        conformers=tuple(conformers),
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
