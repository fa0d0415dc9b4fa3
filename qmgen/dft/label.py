"""The engine's public entry: labels for conformers of a molecule, from arrays to arrays."""

from collections.abc import Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import Basis, build_basis
from qmgen.dft.basis_file import basis_title
from qmgen.dft.config import DFTConfig
from qmgen.dft.conformer_labels import ConformerLabels, RawLabels, RawSpin, unpad
from qmgen.dft.factorised import density_orbitals
from qmgen.dft.functionals import get_functional
from qmgen.dft.grid import GridTable, grid_table
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import IntegralEngine
from qmgen.dft.orbitals import OrbitalTable, orbital_table
from qmgen.dft.precision import double_precision
from qmgen.dft.properties import (
    dipole_moment,
    mulliken_charges,
    nuclear_repulsion,
    quadrupole_moment,
)
from qmgen.dft.quadrature import place_orbitals
from qmgen.dft.range_separation import spin_supermatrix, total_supermatrix
from qmgen.dft.scf import Hamiltonian, solve_scf, symmetric_orthogonaliser
from qmgen.dft.sizes import (
    GRID_BLOCK,
    ORBITAL_STEP,
    ProgramShape,
    check_memory,
    default_engine,
    round_up,
    shape_of,
)
from qmgen.dft.two_electron import packed_size, pair_number
from qmgen.dft.unrestricted import (
    SpinHamiltonian,
    solve_unrestricted,
    spin_occupations,
)
from qmgen.errors import UnsupportedMoleculeError


class _MoleculeTables(eqx.Module):
    """Padded arrays of a molecule that its conformers share."""

    charges: Float[Array, " nat"]
    orbitals: OrbitalTable
    grid: GridTable | None
    real_orbital: Bool[Array, " nao"]
    # Of a closed shell one number, of an open one that of each spin.
    noccupied: Int[Array, "..."]
    nslot: int = eqx.field(static=True)
    level_shift: Float[Array, ""]
    damping: Float[Array, ""]


class _ConformerArrays(eqx.Module):
    """Padded arrays of each conformer of a batch."""

    positions: Float[Array, "*nconf nat 3"]
    overlap: Float[Array, "*nconf nao nao"]
    hcore: Float[Array, "*nconf nao nao"]
    dipole: Float[Array, "*nconf 3 nao nao"]
    second_moment: Float[Array, "*nconf 3 3 nao nao"]
    eri: Float[Array, "*nconf neri"] | None
    factors: Float[Array, "*nconf naux npair"] | None
    eri_long_range: Float[Array, "*nconf neri"] | None
    factors_long_range: Float[Array, "*nconf naux_long_range npair"] | None
    # Of the first density, D = C diag(n) C^T; of an open shell those of each spin.
    initial_orbitals: Float[Array, "... nao norb"]
    initial_occupation: Float[Array, "... norb"]


def label_conformers(
    atomic_numbers: Int[np.ndarray, " nat"],
    positions: Float[np.ndarray, "nconf nat 3"],
    config: DFTConfig | None = None,
    *,
    charge: int = 0,
    spin: int = 0,
    initial_density: Float[np.ndarray, "nconf *spins nao nao"] | None = None,
    batch_size: int | None = None,
    integral_engine: IntegralEngine | None = None,
) -> ConformerLabels:
    """Label conformers of one molecule by Kohn-Sham or Hartree-Fock.

    Closed shells are restricted, open ones unrestricted.

    A conformer's labels do not depend on the others that are given with it, but for integrals too
    small to matter, about which native integrals decide for all conformers of a call. One that
    does not converge is tried once more with level shift and damping; ``converged`` tells the
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
        Densities to start from instead of the ``minao`` guess; of an open shell those of spin a
        and spin b along the second axis.
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
    engine = integral_engine or default_engine(basis, positions, shape, config)
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 32
    batch_size = min(batch_size, len(positions))

    def run(which: Int[np.ndarray, " n"], level_shift: float, damping: float) -> RawLabels:
        tables = _molecule_tables(
            basis, shape, config, noccupied, level_shift=level_shift, damping=damping
        )
        chunks = []
        for members in _chunks(which, batch_size):
            arrays = _conformer_arrays(
                basis, shape, positions[members], initial_density, members, engine, bool(spin)
            )
            chunks.append(jax.device_get(_label_batch(config, tables, arrays)))
        stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)
        # The last chunk was filled up with repeats.
        return jax.tree.map(lambda leaf: leaf[: len(which)], stacked)

    with double_precision():
        raw = run(np.arange(len(positions)), 0.0, 0.0)
        attempts = np.ones(len(positions), np.int8)
        failed = np.flatnonzero(~raw.scf.converged)
        if len(failed) and (config.level_shift or config.damping):
            second = run(failed, config.level_shift, config.damping)
            raw = jax.tree.map(partial(_replace_rows, failed), raw, second)
            attempts[failed] = 2
    return unpad(basis, noccupied, raw, attempts)


def _chunks(which: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " size"]]:
    for start in range(0, len(which), size):
        members = which[start : start + size]
        yield np.pad(members, (0, size - len(members)), mode="edge")


def _replace_rows(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    result = first.copy()
    result[rows] = second
    return result


def _molecule_tables(
    basis: Basis,
    shape: ProgramShape,
    config: DFTConfig,
    noccupied: tuple[int, int],
    *,
    level_shift: float,
    damping: float,
) -> _MoleculeTables:
    z = basis.atomic_numbers
    grid = grid_table(z, config.grid_level, shape.natoms, shape.npoints) if shape.npoints else None
    return _MoleculeTables(
        charges=jnp.pad(jnp.asarray(z, jnp.float64), (0, shape.natoms - len(z))),
        orbitals=orbital_table(basis, shape.nao),
        grid=grid,
        real_orbital=jnp.arange(shape.nao) < basis.nao,
        noccupied=jnp.asarray(
            noccupied[0] if noccupied[0] == noccupied[1] else noccupied, jnp.int32
        ),
        # Only exchange from factors gains from fewer than all, for the price of more programs.
        nslot=min(round_up(noccupied[0], ORBITAL_STEP), shape.nao) if shape.nfactors else shape.nao,
        level_shift=jnp.asarray(level_shift, jnp.float64),
        damping=jnp.asarray(damping, jnp.float64),
    )


def _conformer_arrays(
    basis: Basis,
    shape: ProgramShape,
    positions: Float[np.ndarray, "nconf nat 3"],
    initial_density: Float[np.ndarray, "nall *spins nao nao"] | None,
    members: Int[np.ndarray, " nconf"],
    integral_engine: IntegralEngine,
    open_shell: bool,
) -> _ConformerArrays:
    integrals = integral_engine(basis, positions)
    if initial_density is None:
        density = minao_density(
            basis.atomic_numbers, basis, positions, np.asarray(integrals.overlap)
        )
        if open_shell:
            density = np.stack([0.5 * density] * 2, axis=1)
    else:
        density = np.asarray(initial_density, np.float64)[members]

    more = shape.nao - basis.nao
    more_pairs = pair_number(shape.nao) - pair_number(basis.nao)
    more_eri = packed_size(shape.nao) - packed_size(basis.nao)
    orbitals, occupation = density_orbitals(
        density.reshape(-1, basis.nao, basis.nao),
        shape.nao if integrals.factors is None else ORBITAL_STEP,
    )
    orbitals = orbitals.reshape(*density.shape[:-1], -1)
    occupation = occupation.reshape(*density.shape[:-2], -1)

    def pad(matrix: Array | np.ndarray) -> Array:
        return jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, more), (0, more)])

    # Pairs of padded orbitals come after all real pairs.
    def pad_last(values: Array | np.ndarray | None, more: int) -> Array | None:
        if values is None:
            return None
        return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, more)])

    padded = jnp.arange(basis.nao, shape.nao)
    return _ConformerArrays(
        positions=jnp.pad(positions, ((0, 0), (0, shape.natoms - positions.shape[1]), (0, 0))),
        overlap=pad(integrals.overlap).at[:, padded, padded].set(1.0),
        hcore=pad(integrals.kinetic + integrals.nuclear_attraction),
        dipole=pad(integrals.dipole),
        second_moment=pad(integrals.second_moment),
        eri=pad_last(integrals.eri, more_eri),
        factors=pad_last(integrals.factors, more_pairs),
        eri_long_range=pad_last(integrals.eri_long_range, more_eri),
        factors_long_range=pad_last(integrals.factors_long_range, more_pairs),
        initial_orbitals=jnp.pad(orbitals, [(0, 0)] * (orbitals.ndim - 2) + [(0, more), (0, 0)]),
        initial_occupation=jnp.asarray(occupation),
    )


@partial(jax.jit, static_argnums=0)
def _label_batch(config: DFTConfig, tables: _MoleculeTables, batch: _ConformerArrays) -> RawLabels:
    one = partial(_label_one, config, tables)
    # Side by side every branch and cycle is taken for all; one after the other on a CPU each
    # conformer takes its own only.
    return jax.lax.map(one, batch) if jax.default_backend() == "cpu" else jax.vmap(one)(batch)


def _label_one(
    config: DFTConfig, tables: _MoleculeTables, conformer: _ConformerArrays
) -> RawLabels:
    functional = get_functional(config.functional)
    positions, overlap = conformer.positions, conformer.overlap
    eri, eri_long_range, nao = conformer.eri, conformer.eri_long_range, overlap.shape[0]
    long_range = conformer.factors_long_range if eri is None else eri_long_range
    if functional.long_range_exchange and long_range is None:
        raise ValueError(
            f"{functional.name} needs integrals of erf(ω r)/r, which the integral engine lacks: "
            "use qmgen.dft.range_separation.range_separated_engine"
        )
    total = None if eri is None else total_supermatrix(functional, eri, eri_long_range, nao)
    orbitals = (
        None
        if tables.grid is None
        else place_orbitals(tables.orbitals, tables.grid, positions, GRID_BLOCK)
    )
    repulsion = nuclear_repulsion(tables.charges, positions)
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
    if tables.noccupied.ndim:
        spin_hamiltonian = SpinHamiltonian(
            hcore=conformer.hcore,
            total_supermatrix=total,
            spin_supermatrix=None
            if eri is None
            else spin_supermatrix(functional, eri, eri_long_range, nao),
            factors=conformer.factors,
            factors_long_range=conformer.factors_long_range,
            orbitals=orbitals,
            nuclear_repulsion=repulsion,
        )
        scf, of_spin = solve_unrestricted(config, functional, spin_hamiltonian, *rest)
        nobody = jnp.zeros_like(tables.charges)
        spins = -mulliken_charges(
            of_spin.spin_density, overlap, nobody, tables.orbitals.orbital_atom
        )
        spin = RawSpin(of_spin, spins)
    else:
        hamiltonian = Hamiltonian(
            hcore=conformer.hcore,
            supermatrix=total,
            factors=conformer.factors,
            orbitals=orbitals,
            nuclear_repulsion=repulsion,
            factors_long_range=conformer.factors_long_range,
        )
        scf = solve_scf(config, functional, hamiltonian, *rest)
    _, smallest = symmetric_orthogonaliser(overlap)
    return RawLabels(
        scf=scf,
        spin=spin,
        nuclear_repulsion=repulsion,
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
