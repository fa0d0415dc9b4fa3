"""The self-consistent energy and density as functions of the positions that JAX can differentiate.

All integrals are made in JAX, nothing is screened, and the grid moves with the atoms. The cycles
are not differentiated: around their result C, occupied orbitals are C_occ + C_virt κ, and κ is what
makes the energy stationary, an implicit function of the positions (`jax.lax.custom_root`) whose
derivatives are the coupled-perturbed equations. The density

    D = 2 Y (Y^T S Y)^-1 Y^T,  Y = C_occ + C_virt κ

is one of a closed shell for any κ and any overlap S, and has no eigenvectors in it, whose
derivatives diverge where orbital energies are degenerate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.basis import Basis, build_basis
from qmgen.dft.config import DFTConfig
from qmgen.dft.dense_repulsion import dense_electron_repulsion
from qmgen.dft.diis import DIISState, diis_extrapolate, diis_start
from qmgen.dft.functionals import Functional, get_functional
from qmgen.dft.grid import GridTable, becke_weights, grid_size, grid_table
from qmgen.dft.grid_orbitals import OrbitalsOnGrid
from qmgen.dft.guess import minao_density
from qmgen.dft.integrals import libcint_one_electron_integrals
from qmgen.dft.one_electron import one_electron_integrals
from qmgen.dft.orbitals import OrbitalTable, evaluate_orbitals, orbital_table
from qmgen.dft.precision import double_precision
from qmgen.dft.properties import nuclear_repulsion
from qmgen.dft.quadrature import exchange_correlation
from qmgen.dft.shell_pairs import PairTable, pair_table
from qmgen.errors import UnsupportedMoleculeError

PositionFunction = Callable[[Float[Array, "nat 3"]], Float[Array, "..."]]

# Orbital gradient that the cycles aim at, Hartree: errors of derivatives are of its first order.
_GRADIENT_AIM = 1e-9
# Relative residual of the coupled-perturbed equations.
_RESPONSE_TOLERANCE = 1e-10
# Atoms of the guess are this far apart, Bohr, and know nothing of each other.
_APART = 100.0


def energy_function(
    atomic_numbers: Int[np.ndarray, " nat"], config: DFTConfig, charge: int = 0
) -> PositionFunction:
    """Total energy (Hartree) of a closed shell as a function of positions (Bohr).

    It composes with `jax.grad`, `jax.vmap` and `jax.jit`; Hessians are `jax.jacfwd` of `jax.grad`.
    It is NaN where the cycles don't converge. The first derivative needs no response of the
    density. Call it and its transforms within `qmgen.dft.precision.double_precision`. For small
    molecules: integrals are dense, and a program compiles for a minute.

    Parameters
    ----------
    atomic_numbers, charge
        Of the molecule.
    config
        Level of theory, with exact two-electron integrals; cycles are float64 and converge to 1e-9
        in the orbital gradient whatever it says, in ``max_cycle`` cycles.

    Raises
    ------
    UnsupportedMoleculeError
        An odd number of electrons.
    UnknownBasisError, MissingElementError
        As `qmgen.dft.basis.build_basis`.
    """
    problem = _Problem.of(atomic_numbers, config, charge)

    @jax.custom_jvp
    def energy(positions: Float[Array, "nat 3"]) -> Float[Array, ""]:
        terms = problem.terms(positions)
        frame = problem.self_consistent(terms)
        return problem.energy(terms, frame.density) * frame.one_or_nan

    @energy.defjvp
    def energy_jvp(
        primals: tuple[Float[Array, "nat 3"]], tangents: tuple[Float[Array, "nat 3"]]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        terms, changes = jax.jvp(problem.terms, primals, tangents)
        frame = problem.self_consistent(terms)
        # Stationary, so it is a constant of this derivative, though not of further ones.
        rotation = problem.rotation(terms, frame)

        def at(terms: _Terms) -> Float[Array, ""]:
            return problem.energy(terms, frame.rotated(rotation, terms.overlap))

        value, slope = jax.jvp(at, (terms,), (changes,))
        return value * frame.one_or_nan, slope * frame.one_or_nan

    return _checked(energy)


def density_function(
    atomic_numbers: Int[np.ndarray, " nat"], config: DFTConfig, charge: int = 0
) -> PositionFunction:
    """Self-consistent density matrix as a function of positions (Bohr).

    Arguments and errors as of `energy_function`; derivatives are those of the coupled-perturbed
    equations, in forward mode only.
    """
    problem = _Problem.of(atomic_numbers, config, charge)

    def density(positions: Float[Array, "nat 3"]) -> Float[Array, "nao nao"]:
        terms = problem.terms(positions)
        frame = problem.self_consistent(terms)
        rotation = problem.rotation(terms, frame)
        return frame.rotated(rotation, terms.overlap) * frame.one_or_nan

    return _checked(density)


def _checked(function: PositionFunction) -> PositionFunction:
    def of_float64(positions: Float[Array, "nat 3"]) -> Float[Array, "..."]:
        if jnp.result_type(positions) != jnp.float64:
            raise TypeError(
                f"positions are {jnp.result_type(positions)}, not float64: give them and take "
                "derivatives within qmgen.dft.precision.double_precision()"
            )
        return function(positions)

    return of_float64


class _Terms(NamedTuple):
    """What the energy of a density needs at given positions."""

    overlap: Float[Array, "nao nao"]
    hcore: Float[Array, "nao nao"]
    eri: Float[Array, "nao nao nao nao"]
    orbitals: OrbitalsOnGrid | None
    nuclear_repulsion: Float[Array, ""]


class _Frame(NamedTuple):
    """Orbitals in which rotations are counted; all are constants of differentiation."""

    density: Float[Array, "nao nao"]
    occupied: Float[Array, "nao nocc"]
    virtual: Float[Array, "nao nvirt"]
    # Energy of each virtual orbital above each occupied one.
    above: Float[Array, "nvirt nocc"]
    one_or_nan: Float[Array, ""]

    def rotated(
        self, rotation: Float[Array, "nvirt nocc"], overlap: Float[Array, "nao nao"]
    ) -> Float[Array, "nao nao"]:
        """Density of the closed shell that a rotation leads to."""
        Y = self.occupied + self.virtual @ rotation
        return 2 * Y @ jnp.linalg.solve(Y.T @ overlap @ Y, Y.T)


class _Cycle(NamedTuple):
    density: Float[Array, "nao nao"]
    fock: Float[Array, "nao nao"]
    diis: DIISState
    gradient_norm: Float[Array, ""]
    number: Int[Array, ""]


@dataclass(frozen=True, eq=False)
class _Problem:
    """A molecule at a level of theory, before its atoms are placed."""

    functional: Functional
    charges: Float[np.ndarray, " nat"]
    pairs: PairTable
    orbitals: OrbitalTable
    grid: GridTable | None
    guess: Float[np.ndarray, "nao nao"]
    noccupied: int
    diis_space: int
    max_cycle: int
    accepted_gradient: float

    @classmethod
    def of(
        cls, atomic_numbers: Int[np.ndarray, " nat"], config: DFTConfig, charge: int
    ) -> "_Problem":
        atomic_numbers = np.asarray(atomic_numbers, np.int32)
        nelectron = int(atomic_numbers.sum()) - charge
        basis = build_basis(atomic_numbers, config.basis, config.cartesian)
        if nelectron % 2 or not 0 < nelectron // 2 <= basis.nao:
            raise UnsupportedMoleculeError(
                f"{nelectron} electrons in {basis.nao} orbitals: only closed shells have a "
                "differentiable energy"
            )
        if config.two_electron != "exact":
            raise UnsupportedMoleculeError(
                f"two_electron: {config.two_electron} has no differentiable energy: set exact"
            )
        functional = get_functional(config.functional)
        with double_precision():
            return cls(
                functional=functional,
                charges=atomic_numbers.astype(np.float64),
                pairs=pair_table(basis, basis.nao),
                orbitals=orbital_table(basis, basis.nao),
                grid=_grid(atomic_numbers, config.grid_level) if functional.terms else None,
                guess=_separate_atoms(basis),
                noccupied=nelectron // 2,
                diis_space=config.diis_space,
                max_cycle=config.max_cycle,
                accepted_gradient=config.gradient_tolerance,
            )

    def terms(self, positions: Float[Array, "nat 3"]) -> _Terms:
        integrals = one_electron_integrals(self.pairs, jnp.asarray(self.charges), positions)
        return _Terms(
            overlap=integrals.overlap,
            hcore=integrals.kinetic + integrals.nuclear_attraction,
            eri=dense_electron_repulsion(self.pairs, positions),
            orbitals=None if self.grid is None else _on_grid(self.orbitals, self.grid, positions),
            nuclear_repulsion=nuclear_repulsion(jnp.asarray(self.charges), positions),
        )

    def two_electron(self, terms: _Terms, D: Float[Array, "nao nao"]) -> Float[Array, "nao nao"]:
        matrix = jnp.einsum("ijkl,kl->ij", terms.eri, D)
        if self.functional.exact_exchange:
            exchange = jnp.einsum("ikjl,kl->ij", terms.eri, D)
            matrix -= 0.5 * self.functional.exact_exchange * exchange
        return matrix

    def energy(self, terms: _Terms, D: Float[Array, "nao nao"]) -> Float[Array, ""]:
        result = terms.nuclear_repulsion
        result += jnp.sum(D * (terms.hcore + 0.5 * self.two_electron(terms, D)))
        if terms.orbitals is not None:
            result += exchange_correlation(self.functional, terms.orbitals, D)[0]
        return result

    def fock(self, terms: _Terms, D: Float[Array, "nao nao"]) -> Float[Array, "nao nao"]:
        F = terms.hcore + self.two_electron(terms, D)
        if terms.orbitals is not None:
            F += exchange_correlation(self.functional, terms.orbitals, D)[1]
        return F

    def self_consistent(self, terms: _Terms) -> _Frame:
        """Iterate with DIIS; nothing of it is differentiated."""
        terms = jax.lax.stop_gradient(terms)
        S = terms.overlap
        s, U = jnp.linalg.eigh(S)
        X = (U / jnp.sqrt(s)) @ U.T

        def solve(F: Float[Array, "nao nao"]) -> tuple[Array, Array]:
            energies, C = jnp.linalg.eigh(X @ F @ X)
            return energies, X @ C

        def cycle(state: _Cycle) -> _Cycle:
            fds = X @ state.fock @ state.density @ (S @ X)
            error = fds - fds.T
            extrapolated, diis = diis_extrapolate(state.diis, state.fock, error, state.number)
            occupied = solve(extrapolated)[1][:, : self.noccupied]
            density = 2 * occupied @ occupied.T
            return _Cycle(
                density, self.fock(terms, density), diis, jnp.linalg.norm(error), state.number + 1
            )

        def unfinished(state: _Cycle) -> Bool[Array, ""]:
            return (state.gradient_norm > _GRADIENT_AIM) & (state.number <= self.max_cycle)

        guess = jnp.asarray(self.guess)
        final = jax.lax.while_loop(
            unfinished,
            cycle,
            _Cycle(
                guess,
                self.fock(terms, guess),
                diis_start(self.diis_space, guess),
                jnp.asarray(jnp.inf, guess.dtype),
                jnp.asarray(0, jnp.int32),
            ),
        )
        energies, C = solve(final.fock)
        occupied, virtual = C[:, : self.noccupied], C[:, self.noccupied :]
        return _Frame(
            density=2 * occupied @ occupied.T,
            occupied=occupied,
            virtual=virtual,
            above=energies[self.noccupied :, None] - energies[: self.noccupied],
            one_or_nan=jnp.where(final.gradient_norm < self.accepted_gradient, 1.0, jnp.nan),
        )

    def rotation(self, terms: _Terms, frame: _Frame) -> Float[Array, "nvirt nocc"]:
        """Zero, as a function of the terms that keeps the energy stationary."""
        start = jnp.zeros_like(frame.above)
        if not start.size:
            return start

        def energy(rotation: Array) -> Float[Array, ""]:
            return self.energy(terms, frame.rotated(rotation, terms.overlap))

        def solve_linear(apply: Callable[[Array], Array], right: Array) -> Array:
            # The second derivative by rotations, without what electrons do to each other.
            return cg(apply, right, tol=_RESPONSE_TOLERANCE, M=lambda x: x / (4 * frame.above))[0]

        return jax.lax.custom_root(jax.grad(energy), start, lambda _, x: x, solve_linear)


def _grid(atomic_numbers: Int[np.ndarray, " nat"], level: int) -> GridTable:
    return grid_table(atomic_numbers, level, len(atomic_numbers), grid_size(atomic_numbers, level))


def _on_grid(
    orbitals: OrbitalTable, grid: GridTable, positions: Float[Array, "nat 3"]
) -> OrbitalsOnGrid:
    """Orbitals and weights, all points in one block: none is padded, whose derivatives diverge."""
    points = grid.points + positions[grid.point_atom]
    weights = becke_weights(grid, positions, points, grid.volumes, grid.point_atom)
    return OrbitalsOnGrid(evaluate_orbitals(orbitals, positions, points)[None], weights[None])


def _separate_atoms(basis: Basis) -> Float[np.ndarray, "nao nao"]:
    """Densities of free atoms, each in its own orbitals, which don't depend on positions."""
    positions = np.zeros((1, len(basis.atomic_numbers), 3))
    positions[0, :, 0] = _APART * np.arange(len(basis.atomic_numbers))
    overlap = np.asarray(libcint_one_electron_integrals(basis, positions).overlap)
    return minao_density(basis.atomic_numbers, basis, positions, overlap)[0]
