"""Arrays that the program of a label takes, padded to the sizes that molecules share."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import Basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.factorised import density_orbitals
from qmgen.dft.grid import GridTable, grid_table
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import Integrals
from qmgen.dft.orbitals import OrbitalTable, orbital_table
from qmgen.dft.sizes import ORBITAL_STEP, ProgramShape, round_up
from qmgen.dft.two_electron import packed_size, pair_number


class MoleculeTables(eqx.Module):
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


class ConformerArrays(eqx.Module):
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


def molecule_tables(
    basis: Basis,
    shape: ProgramShape,
    config: DFTConfig,
    noccupied: tuple[int, int],
    *,
    level_shift: float,
    damping: float,
) -> MoleculeTables:
    """Tables of a molecule, padded to the sizes of its program."""
    z = basis.atomic_numbers
    grid = grid_table(z, config.grid_level, shape.natoms, shape.npoints) if shape.npoints else None
    return MoleculeTables(
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


def first_orbitals(
    basis: Basis,
    shape: ProgramShape,
    positions: Float[np.ndarray, "nconf nat 3"],
    integrals: Integrals,
    initial_density: Float[np.ndarray, "nconf *spins nao nao"] | None,
    open_shell: bool,
) -> tuple[Float[np.ndarray, "nconf *spins nao norb"], Float[np.ndarray, "nconf *spins norb"]]:
    """Orbitals C and occupations n of the densities C diag(n) C^T that a batch starts from.

    Without an initial density the SCF starts from the ``minao`` guess, of which each spin of an
    open shell gets one half.
    """
    if initial_density is None:
        density = minao_density(
            basis.atomic_numbers, basis, positions, np.asarray(integrals.overlap)
        )
        if open_shell:
            density = np.stack([0.5 * density] * 2, axis=1)
    else:
        density = np.asarray(initial_density, np.float64)
    orbitals, occupation = density_orbitals(
        density.reshape(-1, basis.nao, basis.nao),
        shape.nao if integrals.factors is None else ORBITAL_STEP,
    )
    return (
        orbitals.reshape(*density.shape[:-1], -1),
        occupation.reshape(*density.shape[:-2], -1),
    )


def conformer_arrays(
    basis: Basis,
    shape: ProgramShape,
    positions: Float[np.ndarray, "nconf nat 3"],
    integrals: Integrals,
    orbitals: Float[np.ndarray, "nconf *spins nao norb"],
    occupation: Float[np.ndarray, "nconf *spins norb"],
) -> ConformerArrays:
    """Arrays of a batch, padded to the sizes of its program.

    ``orbitals`` and ``occupation`` are those of the densities that it starts from.
    """
    more = shape.nao - basis.nao
    more_pairs = pair_number(shape.nao) - pair_number(basis.nao)
    more_eri = packed_size(shape.nao) - packed_size(basis.nao)

    def pad(matrix: Array | np.ndarray) -> np.ndarray:
        return np.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, more), (0, more)])

    def pad_last(values: Array | np.ndarray | None, padding: int) -> Array | None:
        # Pairs of padded orbitals come after all real pairs.
        if values is None or not padding:
            return None if values is None else jnp.asarray(values)
        return jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, padding)])

    def pad_factors(values: Array | np.ndarray | None) -> Array | None:
        if values is None:
            return None
        nconf, naux, npair = values.shape
        # A decomposition that takes more vectors than usual has a program of its own.
        padded = np.zeros((nconf, max(naux, shape.nfactors), npair + more_pairs))
        padded[:, :naux, :npair] = values
        return jnp.asarray(padded)

    overlap = pad(integrals.overlap)
    padded = np.arange(basis.nao, shape.nao)
    overlap[:, padded, padded] = 1.0
    return ConformerArrays(
        positions=jnp.asarray(
            np.pad(positions, ((0, 0), (0, shape.natoms - positions.shape[1]), (0, 0)))
        ),
        overlap=jnp.asarray(overlap),
        hcore=jnp.asarray(
            pad(np.asarray(integrals.kinetic) + np.asarray(integrals.nuclear_attraction))
        ),
        dipole=jnp.asarray(pad(integrals.dipole)),
        second_moment=jnp.asarray(pad(integrals.second_moment)),
        eri=pad_last(integrals.eri, more_eri),
        factors=pad_factors(integrals.factors),
        eri_long_range=pad_last(integrals.eri_long_range, more_eri),
        factors_long_range=pad_factors(integrals.factors_long_range),
        initial_orbitals=jnp.asarray(
            np.pad(orbitals, [(0, 0)] * (orbitals.ndim - 2) + [(0, more), (0, 0)])
        ),
        initial_occupation=jnp.asarray(occupation),
    )
