"""The engine's public entry: labels for conformers of a molecule, from arrays to arrays."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qmgen.dft.basis import build_basis
from qmgen.dft.basis_file import basis_title
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_hamiltonian import BuiltHamiltonian, build_hamiltonian
from qmgen.dft.conformer_labels import ConformerLabels, RawLabels, RawSpin, unpad
from qmgen.dft.functionals import get_functional
from qmgen.dft.hamiltonian import Hamiltonian
from qmgen.dft.integrals import IntegralEngine
from qmgen.dft.orbital_guess import OrbitalGuess, guessed_orbitals
from qmgen.dft.precision import double_precision
from qmgen.dft.program_arrays import (
    ConformerArrays,
    MoleculeTables,
    conformer_arrays,
    first_orbitals,
    molecule_tables,
)
from qmgen.dft.properties import dipole_moment, mulliken_charges, quadrupole_moment
from qmgen.dft.scf import solve_scf, symmetric_orthogonaliser
from qmgen.dft.shared_programs import shared_program
from qmgen.dft.sizes import check_memory, default_engine, shape_of
from qmgen.dft.unrestricted import (
    SpinHamiltonian,
    solve_unrestricted,
    spin_occupations,
)
from qmgen.dft.warm_start import (
    SolvedConformers,
    lowdin_orbitals,
    predicted_orbitals,
    with_solved,
)
from qmgen.errors import UnsupportedMoleculeError


def label_conformers(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig | None = None,
    *,
    charge: int = 0,
    spin: int = 0,
    initial_density: Float[np.ndarray, "nconf *spins nao nao"] | None = None,
    guess: OrbitalGuess | None = None,
    batch_size: int | None = None,
    integral_engine: IntegralEngine | None = None,
) -> ConformerLabels:
    """Label conformers of one molecule by Kohn-Sham or Hartree-Fock.

    Closed shells are restricted, open ones unrestricted.

    Each batch starts from orbitals predicted from conformers that earlier batches of the call have
    solved (`qmgen.dft.warm_start`). So a conformer's labels depend on the others that are given
    with it, and on their order, but within the thresholds of convergence; native integrals decide
    for all conformers of a call which are too small to matter. One that does not converge is tried
    once more from the ``minao`` guess, with level shift and damping; ``converged`` tells the
    outcome.

    Parameters
    ----------
    atomic_numbers
        Nuclear charges.
    positions
        Of the nuclei, Bohr.
    config
        Level of theory; B3LYP/STO-3G on grid level 3 by default.
    charge
        Of the molecule, elementary charges.
    spin
        2S, the number of unpaired electrons.
    initial_density
        Densities to start from, instead of those of other conformers and the ``minao`` guess; of
        an open shell those of spin a and spin b along the second axis.
    guess
        Predicts orbitals to start from, for closed shells, until conformers of the call are
        solved that others start from; not used with ``initial_density``.
    batch_size
        Conformers a program runs side by side; by default 1 on a CPU, where each then stops at
        its own convergence, and 32 on accelerators.
    integral_engine
        Where integrals come from; by default see `qmgen.dft.sizes.default_engine`.

    Raises
    ------
    UnsupportedMoleculeError
        A spin that the number of electrons does not allow, effective core potentials, or integrals
        beyond `qmgen.dft.sizes.MAX_BYTES_PER_CONFORMER`.
    UnknownBasisError, MissingElementError
        As `qmgen.dft.basis.build_basis`.
    """
    config = DFTConfig() if config is None else config
    atomic_numbers = np.asarray(atomic_numbers, np.int32)
    positions = np.asarray(positions, np.float64)
    nelectron = int(atomic_numbers.sum()) - charge
    noccupied = spin_occupations(nelectron, spin)
    basis = build_basis(atomic_numbers, config.basis, config.cartesian)
    if noccupied[0] > basis.nao:
        raise UnsupportedMoleculeError(
            f"{nelectron} electrons do not fit into the {basis.nao} orbitals of basis "
            f"{basis_title(config.basis)}"
        )
    shape = shape_of(basis, config)
    check_memory(shape, config.precision)
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 32
    batch_size = min(batch_size, len(positions))
    if integral_engine is None:
        engine, at_a_time = default_engine(basis, positions, shape, config)
    else:
        engine, at_a_time = integral_engine, batch_size

    def run(which: Int[np.ndarray, " n"], attempt: int) -> RawLabels:
        tables = molecule_tables(
            basis,
            shape,
            config,
            noccupied,
            level_shift=config.level_shift if attempt == 2 else 0.0,
            damping=config.damping if attempt == 2 else 0.0,
        )
        # What led one conformer astray may mislead others: a second attempt starts afresh.
        warm = attempt == 1 and initial_density is None
        solved: SolvedConformers | None = None
        norb = 0
        chunks = []
        storage = None
        for group in _parts(which, max(at_a_time, batch_size)):
            integrals = engine(basis, positions[group])
            for places in _parts(np.arange(len(group)), batch_size):
                # A short batch is filled up, so that it has the same program as others.
                filled = np.pad(places, (0, batch_size - len(places)), mode="edge")
                members = group[filled]
                of_batch = jax.tree.map(partial(_rows, filled), integrals)
                lowdin = lowdin_orbitals(basis, of_batch.overlap) if warm else None
                if lowdin is not None and solved is not None:
                    orbitals, occupation = predicted_orbitals(
                        basis,
                        noccupied,
                        solved,
                        lowdin,
                        of_batch.kinetic,
                        positions[members],
                        norb,
                    )
                else:
                    orbitals, occupation = first_orbitals(
                        basis,
                        shape,
                        positions[members],
                        of_batch,
                        None if initial_density is None else initial_density[members],
                        bool(spin),
                    )
                    # Others are padded to as many, for the same program.
                    norb = orbitals.shape[-1]
                of_members = (basis, shape, positions[members], of_batch)
                arrays = conformer_arrays(*of_members, orbitals, occupation)
                if guess is not None and warm and not spin and solved is None:
                    predicted = guessed_orbitals(
                        guess,
                        atomic_numbers,
                        positions[members],
                        config,
                        tables,
                        arrays,
                        orbitals,
                        occupation,
                    )
                    arrays = conformer_arrays(*of_members, *predicted)
                labels, storage = _label_batch(config, tables, arrays, storage)
                raw = jax.tree.map(partial(_rows, np.arange(len(places))), jax.device_get(labels))
                chunks.append(raw)
                if lowdin is not None:
                    solved = with_solved(
                        solved, basis, lowdin, of_batch.kinetic, positions[group[places]], raw
                    )
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)

    with double_precision():
        raw = run(np.arange(len(positions)), 1)
        attempts = np.ones(len(positions), np.int8)
        failed = np.flatnonzero(~raw.scf.converged)
        if len(failed) and (config.level_shift or config.damping):
            second = run(failed, 2)
            raw = jax.tree.map(partial(_replace_rows, failed), raw, second)
            attempts[failed] = 2
    return unpad(basis, noccupied, raw, attempts)


def _parts(numbers: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " _part"]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _rows(places: Int[np.ndarray, " n"], array: Array | np.ndarray) -> Array | np.ndarray:
    """Some conformers' part of an array, not copied where they stand in a row."""
    if places[-1] - places[0] == len(places) - 1:
        return array[places[0] : places[-1] + 1]
    return array[places]


def _replace_rows(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    result = first.copy()
    result[rows] = second
    return result


def _label_batch(
    config: DFTConfig,
    tables: MoleculeTables,
    batch: ConformerArrays,
    storage: BuiltHamiltonian | None,
) -> tuple[RawLabels, BuiltHamiltonian]:
    """Labels of a batch, and what the next batch may write its Hamiltonians over."""
    if storage is None:
        needed = jax.eval_shape(partial(_build_batch, config), tables, batch, None)
        storage = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _reusable(needed))
    # Two programs: XLA copies what one loop leaves and another takes within a program.
    built = _build_batch(config, tables, batch, storage)
    rest = replace(batch, eri=None, factors=None, eri_long_range=None, factors_long_range=None)
    return _solve_batch(config, tables, rest, *built), _reusable(built)


def _reusable(built: BuiltHamiltonian) -> BuiltHamiltonian:
    """The arrays of Hamiltonians whose sizes are those of every batch."""
    hamiltonian, single = built
    if single is not None:
        single = single._replace(factors=None, factors_long_range=None)
    hamiltonian = hamiltonian._replace(factors=None, factors_long_range=None)
    return hamiltonian, single


# Fresh memory costs more than what is written to it: the system hands it out in cleared pages. So
# a batch's Hamiltonians take the place of those of the batch before, which is donated.
@shared_program(static_argnums=0, donate_argnums=3, keep_unused=True)
def _build_batch(
    config: DFTConfig,
    tables: MoleculeTables,
    batch: ConformerArrays,
    storage: BuiltHamiltonian | None,
) -> BuiltHamiltonian:
    return _map_batch(partial(build_hamiltonian, config, tables), batch)


@shared_program(static_argnums=0)
def _solve_batch(
    config: DFTConfig,
    tables: MoleculeTables,
    batch: ConformerArrays,
    hamiltonian: Hamiltonian | SpinHamiltonian,
    single: Hamiltonian | None,
) -> RawLabels:
    return _map_batch(partial(_label_one, config, tables), batch, hamiltonian, single)


def _map_batch(one: Callable[..., Any], *batch: Any) -> Any:
    """Map over the first axis; a batch of one without that axis.

    Without it each branch of the program is taken only where it must be.
    """
    if jax.tree.leaves(batch)[0].shape[0] > 1:
        return jax.vmap(one)(*batch)
    alone = one(*jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), batch))
    return jax.tree.map(lambda leaf: leaf[None], alone)


def _label_one(
    config: DFTConfig,
    tables: MoleculeTables,
    conformer: ConformerArrays,
    hamiltonian: Hamiltonian | SpinHamiltonian,
    single: Hamiltonian | None,
) -> RawLabels:
    functional = get_functional(config.functional)
    positions, overlap = conformer.positions, conformer.overlap
    rest = (
        overlap,
        conformer.initial_orbitals,
        conformer.initial_occupation,
        tables.noccupied,
        tables.nslot,
        tables.real_orbital,
        tables.level_shift,
        tables.damping,
    )
    spin = None
    if isinstance(hamiltonian, SpinHamiltonian):
        scf, of_spin = solve_unrestricted(config, functional, hamiltonian, *rest)
        nobody = jnp.zeros_like(tables.charges)
        spins = -mulliken_charges(
            of_spin.spin_density, overlap, nobody, tables.orbitals.orbital_atom
        )
        spin = RawSpin(of_spin, spins)
    else:
        scf = solve_scf(config, functional, hamiltonian, single, *rest)
    _, smallest = symmetric_orthogonaliser(overlap)
    return RawLabels(
        scf=scf,
        spin=spin,
        nuclear_repulsion=hamiltonian.nuclear_repulsion,
        dipole=dipole_moment(scf.density, conformer.dipole, tables.charges, positions),
        quadrupole=quadrupole_moment(
            scf.density,
            overlap,
            conformer.dipole,
            conformer.second_moment,
            tables.charges,
            positions,
        ),
        mulliken_charges=mulliken_charges(
            scf.density, overlap, tables.charges, tables.orbitals.orbital_atom
        ),
        smallest_overlap_eigenvalue=jnp.asarray(smallest),
    )
