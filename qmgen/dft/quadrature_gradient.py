"""Derivative of the exchange-correlation energy by the positions of the atoms.

The density matrix is fixed; orbitals move with their atoms. Orbitals that move stay put relative
to points that move the other way, so all is made of derivatives by the points: of each orbital's
share in them for the orbitals' motion, of each point's for the motion of the grid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qmgen.dft.functionals import (
    Functional,
    energy_density_and_potential,
    spin_energy_density_and_potential,
)
from qmgen.dft.grid import GridTable, becke_weights
from qmgen.dft.orbitals import OrbitalTable, evaluate_orbitals

Points = Float[Array, " npoint"]


def exchange_correlation_gradient(
    functional: Functional,
    orbitals: OrbitalTable,
    grid: GridTable,
    positions: Float[Array, "nat 3"],
    densities: Float[Array, "nspin nao nao"],
    nblock: Int[Array, ""] | int,
    *,
    grid_response: bool,
    block: int,
) -> Float[Array, "nat 3"]:
    """Gradient of the semi-local energy at fixed density matrices, Hartree / Bohr.

    With the energy per volume f and its derivatives by the density and by its gradient, u and g,
    an orbital's share in the derivative by a point is, for each spin,

        2 dphi_i [u (D phi)_i + (D g.grad phi)_i] + 2 (g.grad dphi_i) (D phi)_i,

    two matrix products as in the energy (Pople, Gill, Johnson, Chem. Phys. Lett. 199, 557, 1992).

    Parameters
    ----------
    functional
        Which; its exact exchange is left out.
    orbitals, grid
        Tables of the molecule; the number of points is a multiple of ``block``.
    positions
        Of the atoms, Bohr.
    densities
        Symmetric density matrices: one of a closed shell, or one of each spin.
    nblock
        Number of blocks that have points.
    grid_response
        Whether the points move with their atoms and Becke's weights with all atoms, too.
    block
        Points a block, which bounds the memory.
    """
    nat, nao = positions.shape[0], densities.shape[-1]

    def add_block(
        number: Int[Array, ""], total: tuple[Float[Array, "3 nao"], Float[Array, "nat 3"]]
    ) -> tuple[Float[Array, "3 nao"], Float[Array, "nat 3"]]:
        of_orbitals, of_grid = total
        local, volumes, atom = (
            jax.lax.dynamic_slice_in_dim(x, number * block, block)
            for x in (grid.points, grid.volumes, grid.point_atom)
        )
        points = local + positions[atom]
        weights = becke_weights(grid, positions, points, volumes, atom)
        phi, along = jax.linearize(lambda p: evaluate_orbitals(orbitals, positions, p), points)
        used = phi if functional.needs_gradient else phi[:1]
        products = [phi[0] @ D for D in densities]
        rho = [jnp.einsum("cpi,pi->cp", used, product) for product in products]
        value, by_rho, by_gradient = _potentials(functional, rho)
        shares = jnp.zeros_like(phi[1:])
        for D, product, u, g in zip(densities, products, by_rho, by_gradient, strict=True):
            if functional.needs_gradient:
                direction = weights * g
                potential = 0.5 * (weights * u)[:, None] * phi[0]
                for axis in range(3):
                    potential += direction[axis][:, None] * phi[1 + axis]
                shares += 2 * along(direction.T)[1:] * product
                shares += 2 * phi[1:] * (potential @ D + 0.5 * (weights * u)[:, None] * product)
            else:
                shares += 2 * phi[1:] * ((weights * u)[:, None] * product)
        of_orbitals -= jnp.sum(shares, axis=1)
        if grid_response:
            of_grid = of_grid.at[atom].add(jnp.sum(shares, axis=2).T)

            def energy(moved: Float[Array, "nat 3"]) -> Float[Array, ""]:
                there = becke_weights(grid, moved, local + moved[atom], volumes, atom)
                return jnp.sum(there * value)

            of_grid += jax.grad(energy)(positions)
        return of_orbitals, of_grid

    zero = jnp.zeros((3, nao), positions.dtype), jnp.zeros((nat, 3), positions.dtype)
    of_orbitals, of_grid = jax.lax.fori_loop(0, nblock, add_block, zero)
    return of_grid.at[orbitals.orbital_atom].add(of_orbitals.T)


def _potentials(
    functional: Functional, rho: list[Float[Array, "c npoint"]]
) -> tuple[Points, list[Points], list[Float[Array, "naxis npoint"]]]:
    """Energy per volume, its derivatives by each density and by each density's gradient.

    Parameters
    ----------
    functional
        Which.
    rho
        Of the closed shell or of each spin: density, and half of its gradient if needed.
    """
    gradients = [2 * r[1:] for r in rho]

    def sigma(a: Float[Array, "c npoint"], b: Float[Array, "c npoint"]) -> Points:
        return jnp.sum(a * b, axis=0)

    if len(rho) == 1:
        (g,) = gradients
        value, by_rho, by_sigma = energy_density_and_potential(functional, rho[0][0], sigma(g, g))
        return value, [by_rho], [2 * by_sigma * g]
    a, b = gradients
    value, by_a, by_b, by_aa, by_ab, by_bb = spin_energy_density_and_potential(
        functional, rho[0][0], rho[1][0], sigma(a, a), sigma(a, b), sigma(b, b)
    )
    return value, [by_a, by_b], [2 * by_aa * a + by_ab * b, 2 * by_bb * b + by_ab * a]
