"""Exchange-correlation energy and potential, integrated over a grid in blocks of points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.functionals import (
    Functional,
    energy_density_and_potential,
    spin_energy_density_and_potential,
)
from qmgen.dft.grid import GridTable, becke_weights
from qmgen.dft.orbitals import OrbitalTable, evaluate_orbitals


class OrbitalsOnGrid(NamedTuple):
    """Orbitals, their gradients, and weights on a grid, cut into blocks of points.

    A block's values are small enough for a core's cache, which a pass over the whole grid isn't.
    """

    values: Float[Array, "nblock 4 npoint nao"]
    weights: Float[Array, "nblock npoint"]

    def astype(self, dtype: jnp.dtype) -> "OrbitalsOnGrid":
        """The same in another precision."""
        return OrbitalsOnGrid(self.values.astype(dtype), self.weights.astype(dtype))


def place_orbitals(
    orbitals: OrbitalTable, grid: GridTable, positions: Float[Array, "nat 3"], block: int
) -> OrbitalsOnGrid:
    """Evaluate orbitals and Becke weights on a molecule's grid.

    Parameters
    ----------
    orbitals, grid
        Tables of the molecule; the number of points is a multiple of ``block``.
    positions
        Of the atoms, Bohr.
    block
        Points a block.
    """

    def one_block(
        part: tuple[Array, Array, Array],
    ) -> tuple[Float[Array, "4 npoint nao"], Float[Array, " npoint"]]:
        local, volumes, atom = part
        points = local + positions[atom]
        weights = becke_weights(grid, positions, points, volumes, atom)
        return evaluate_orbitals(orbitals, positions, points), weights

    parts = (
        grid.points.reshape(-1, block, 3),
        grid.volumes.reshape(-1, block),
        grid.point_atom.reshape(-1, block),
    )
    return OrbitalsOnGrid(*jax.lax.map(one_block, parts))


def _density_and_half_gradient(
    functional: Functional, phi: Float[Array, "4 npoint nao"], density: Float[Array, "nao nao"]
) -> list[Float[Array, " npoint"]]:
    """Density, and half of its gradient where the functional needs it."""
    used = phi if functional.needs_gradient else phi[:1]
    return list(jnp.einsum("cpi,pi->cp", used, phi[0] @ density))


def _dot(
    a: list[Float[Array, " npoint"]], b: list[Float[Array, " npoint"]]
) -> Float[Array, " npoint"]:
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), jnp.zeros_like(a[0]))


def _half_potential(
    phi: Float[Array, "4 npoint nao"],
    weighted_by_rho: Float[Array, " npoint"],
    weighted_by_gradient: list[Float[Array, " npoint"]],
) -> Float[Array, "nao nao"]:
    """Half of a Kohn-Sham matrix, whose transpose is the other half.

    The energy's derivatives by the density and by the components of its gradient come with the
    points' weights. Written as one sum, which XLA fuses into a single pass; a reduction over the
    first axis is four times slower.
    """
    half = phi[0] * (0.5 * weighted_by_rho)[:, None]
    for axis, component in enumerate(weighted_by_gradient, start=1):
        half += phi[axis] * component[:, None]
    return phi[0].T @ half


def exchange_correlation(
    functional: Functional, orbitals: OrbitalsOnGrid, density: Float[Array, "nao nao"]
) -> tuple[Float[Array, ""], Float[Array, "nao nao"]]:
    """Energy (Hartree) and Kohn-Sham matrix of the semi-local part of a functional.

    Parameters
    ----------
    functional
        Which; its exact exchange is left out.
    orbitals
        Orbitals on the grid.
    density
        Symmetric closed-shell density matrix.
    """
    nao = density.shape[0]

    def add_block(
        total: tuple[Float[Array, ""], Float[Array, "nao nao"]],
        block: tuple[Float[Array, "4 npoint nao"], Float[Array, " npoint"]],
    ) -> tuple[tuple[Float[Array, ""], Float[Array, "nao nao"]], None]:
        energy, matrix = total
        phi, weights = block
        local = _density_and_half_gradient(functional, phi, density)
        sigma = 4 * _dot(local, local)
        value, by_rho, by_sigma = energy_density_and_potential(functional, local[0], sigma)
        by_gradient = [4 * weights * by_sigma * g for g in local[1:]]
        half = _half_potential(phi, weights * by_rho, by_gradient)
        return (energy + jnp.sum(weights * value), matrix + half), None

    zero = jnp.zeros((), density.dtype), jnp.zeros((nao, nao), density.dtype)
    (energy, half_matrix), _ = jax.lax.scan(add_block, zero, orbitals)
    return energy, half_matrix + half_matrix.T


def unrestricted_exchange_correlation(
    functional: Functional,
    orbitals: OrbitalsOnGrid,
    density_a: Float[Array, "nao nao"],
    density_b: Float[Array, "nao nao"],
) -> tuple[Float[Array, ""], Float[Array, "nao nao"], Float[Array, "nao nao"]]:
    """Energy (Hartree) and Kohn-Sham matrix of each spin of the semi-local part of a functional.

    Parameters
    ----------
    functional
        Which; its exact exchange is left out.
    orbitals
        Orbitals on the grid.
    density_a, density_b
        Symmetric density matrices of the two spins.
    """
    nao = density_a.shape[0]
    Matrix = Float[Array, "nao nao"]

    def add_block(
        total: tuple[Float[Array, ""], Matrix, Matrix],
        block: tuple[Float[Array, "4 npoint nao"], Float[Array, " npoint"]],
    ) -> tuple[tuple[Float[Array, ""], Matrix, Matrix], None]:
        energy, matrix_a, matrix_b = total
        phi, weights = block
        a = _density_and_half_gradient(functional, phi, density_a)
        b = _density_and_half_gradient(functional, phi, density_b)
        value, by_a, by_b, by_aa, by_ab, by_bb = spin_energy_density_and_potential(
            functional, a[0], b[0], 4 * _dot(a, a), 4 * _dot(a, b), 4 * _dot(b, b)
        )
        pairs = list(zip(a[1:], b[1:], strict=True))
        by_gradient_a = [weights * (4 * by_aa * x + 2 * by_ab * y) for x, y in pairs]
        by_gradient_b = [weights * (4 * by_bb * y + 2 * by_ab * x) for x, y in pairs]
        half_a = _half_potential(phi, weights * by_a, by_gradient_a)
        half_b = _half_potential(phi, weights * by_b, by_gradient_b)
        return (energy + jnp.sum(weights * value), matrix_a + half_a, matrix_b + half_b), None

    zero = jnp.zeros((nao, nao), density_a.dtype)
    start = jnp.zeros((), density_a.dtype), zero, zero
    (energy, half_a, half_b), _ = jax.lax.scan(add_block, start, orbitals)
    return energy, half_a + half_a.T, half_b + half_b.T
