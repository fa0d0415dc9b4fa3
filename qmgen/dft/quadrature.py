"""Exchange-correlation energy and potential, integrated over a grid in blocks of points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.functionals import Functional, energy_density_and_potential
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
        # Half of the density's gradient after its value; only the value where that suffices.
        used = phi if functional.needs_gradient else phi[:1]
        rho, *half_gradient = jnp.einsum("cpi,pi->cp", used, phi[0] @ density)
        sigma = sum((4 * g * g for g in half_gradient), jnp.zeros_like(rho))
        value, by_rho, by_sigma = energy_density_and_potential(functional, rho, sigma)
        # Half of the potential here; its transpose below is the other half. Written as one sum,
        # which XLA fuses into a single pass; a reduction over the first axis is four times slower.
        half = phi[0] * (0.5 * weights * by_rho)[:, None]
        for axis, g in enumerate(half_gradient, start=1):
            half += phi[axis] * (4 * weights * by_sigma * g)[:, None]
        return (energy + jnp.sum(weights * value), matrix + phi[0].T @ half), None

    zero = jnp.zeros((), density.dtype), jnp.zeros((nao, nao), density.dtype)
    (energy, half_matrix), _ = jax.lax.scan(add_block, zero, orbitals)
    return energy, half_matrix + half_matrix.T
