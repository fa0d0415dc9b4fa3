"""Exchange-correlation energy and potential, integrated over a grid in blocks of points."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.functionals import (
    Functional,
    energy_density_and_potential,
    spin_energy_density_and_potential,
)
from qmgen.dft.grid_orbitals import OrbitalsOnGrid

# Parts of all orbitals in steps of which a block's number is taken.
_SIZES = 6


def _density_and_half_gradient(
    functional: Functional, phi: Float[Array, "4 npoint nao"], density: Float[Array, "nao nao"]
) -> list[Float[Array, " npoint"]]:
    """Density, and half of its gradient where the functional needs it."""
    used = phi if functional.needs_gradient else phi[:1]
    contracted = phi[0] @ density
    # Rows are summed by a matrix product, twice as fast as XLA's sum over the last axis.
    ones = jnp.ones(density.shape[0], density.dtype)
    return [(component * contracted) @ ones for component in used]


def _dot(
    a: list[Float[Array, " npoint"]], b: list[Float[Array, " npoint"]]
) -> Float[Array, " npoint"]:
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), jnp.zeros_like(a[0]))


def _half_potential(
    phi: Float[Array, "4 npoint nao"], potential: Float[Array, "ncomponent npoint"]
) -> Float[Array, "nao nao"]:
    """Half of a Kohn-Sham matrix, whose transpose is the other half.

    ``potential`` holds half of the energy's derivative by the density, then those by the
    components of half of the gradient, with the points' weights. Written as one sum, which XLA
    fuses into a single pass; a reduction over the first axis is four times slower.
    """
    half = phi[0] * potential[0][:, None]
    for component in range(1, len(potential)):
        half += phi[component] * potential[component][:, None]
    return phi[0].T @ half


Matrix = Float[Array, "nao nao"]
Phi = Float[Array, "4 npoint nao"]


def _of_block(
    block: OrbitalsOnGrid,
    densities: list[Matrix],
    compute: Callable[..., tuple[Any, list[Matrix]]],
) -> tuple[Any, list[Matrix]]:
    """What is computed of a block's orbitals and of density matrices over them.

    ``compute`` gives matrices over the same orbitals in its second place. It isn't called where no
    point counts; the result is zero there.
    """
    phi, weights, screen = block
    nao = phi.shape[-1]

    def with_all() -> tuple[Any, list[Matrix]]:
        return compute(phi, *densities)

    def nothing() -> Any:
        form = jax.eval_shape(with_all)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)

    any_counts = jnp.any(weights != 0)
    if screen is None:
        return jax.lax.cond(any_counts, with_all, nothing)

    def with_first(size: int) -> tuple[Any, list[Matrix]]:
        some = screen.order[:size]
        rest, matrices = compute(phi[:, :, :size], *(D[some[:, None], some] for D in densities))
        more = (0, nao - size)
        # A look-up costs less than adding at places.
        return rest, [jnp.pad(m, (more, more))[screen.rank[:, None], screen.rank] for m in matrices]

    # Multiples of 8, which fill vector registers.
    sizes = sorted({min(nao, -(-nao * (n + 1) // (8 * _SIZES)) * 8) for n in range(_SIZES)})
    enough = jnp.searchsorted(jnp.asarray(sizes), screen.number)
    branches: list[Callable[[], Any]] = [nothing, *(partial(with_first, size) for size in sizes)]
    return jax.lax.switch(jnp.where(any_counts, 1 + enough, 0), branches)


def _restricted_points(
    functional: Functional,
    local: Float[Array, "ncomponent npoint"],
    weights: Float[Array, " npoint"],
) -> tuple[Float[Array, ""], Float[Array, "ncomponent npoint"]]:
    """Energy of a block's points, and its derivatives by what `_half_matrix` takes.

    ``local`` is the density, followed by half of its gradient.
    """
    sigma = 4 * _dot(list(local), list(local))
    value, by_rho, by_sigma = energy_density_and_potential(functional, local[0], sigma)
    potential = [0.5 * weights * by_rho, *(4 * weights * by_sigma * g for g in local[1:])]
    # Of many points the sum of an energy needs more digits than its terms.
    energy = jnp.sum((weights * value).astype(jnp.float64))
    return energy, jnp.stack(potential)


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
        Symmetric closed-shell density matrix, in the orbitals' precision.
    """
    energy, matrix, _ = _exchange_correlation(functional, orbitals, density, keep_points=False)
    return energy, matrix


class QuadratureReference(NamedTuple):
    """A density on the grid, and what `exchange_correlation` found for it.

    ``local`` is the density with half of its gradient, and ``potential`` what multiplies the
    orbitals and their gradients in half of the Kohn-Sham matrix.
    """

    density: Float[Array, "nao nao"]
    local: Float[Array, "nblock ncomponent npoint"]
    potential: Float[Array, "nblock ncomponent npoint"]
    matrix: Float[Array, "nao nao"]


def exchange_correlation_reference(
    functional: Functional, orbitals: OrbitalsOnGrid, density: Float[Array, "nao nao"]
) -> tuple[Float[Array, ""], Float[Array, "nao nao"], QuadratureReference]:
    """As `exchange_correlation`, and what `exchange_correlation_near` needs of the density."""
    energy, matrix, points = _exchange_correlation(functional, orbitals, density, keep_points=True)
    assert points is not None
    return energy, matrix, QuadratureReference(density, *points, matrix)


def _exchange_correlation(
    functional: Functional,
    orbitals: OrbitalsOnGrid,
    density: Float[Array, "nao nao"],
    *,
    keep_points: bool,
) -> tuple[Float[Array, ""], Float[Array, "nao nao"], tuple[Array, Array] | None]:
    Total = tuple[Float[Array, ""], Float[Array, "nao nao"]]
    Points = tuple[Float[Array, "ncomponent npoint"], Float[Array, "ncomponent npoint"]]

    def add_block(total: Total, block: OrbitalsOnGrid) -> tuple[Total, Points | None]:
        def compute(phi: Phi, D: Matrix) -> tuple[tuple[Array, Points | None], list[Matrix]]:
            local = jnp.stack(_density_and_half_gradient(functional, phi, D))
            energy, potential = _restricted_points(functional, local, block.weights)
            half = _half_potential(phi, potential)
            return (energy, (local, potential) if keep_points else None), [half]

        (energy, points), (half,) = _of_block(block, [density], compute)
        return (total[0] + energy, total[1] + half), points

    zero = jnp.zeros((), jnp.float64), jnp.zeros_like(density)
    (energy, half_matrix), points = jax.lax.scan(add_block, zero, orbitals)
    return energy, half_matrix + half_matrix.T, points


def exchange_correlation_near(
    functional: Functional,
    orbitals: OrbitalsOnGrid,
    weights: Float[Array, "nblock npoint"],
    reference: QuadratureReference,
    density: Float[Array, "nao nao"],
) -> tuple[Float[Array, ""], Float[Array, "nao nao"]]:
    """As `exchange_correlation`, with products of large matrices only for a change of density.

    Their rounding is proportional to the change, so that orbitals in single precision give the
    energy and matrix in the reference's. The functional itself is evaluated in the reference's
    precision.

    Parameters
    ----------
    functional
        Which; its exact exchange is left out.
    orbitals
        Orbitals on the grid, in the precision that the change is to have.
    weights
        Of the points, in the reference's precision.
    reference
        Of a density nearby.
    density
        Symmetric closed-shell density matrix.
    """
    dtype, cheap = density.dtype, orbitals.values.dtype
    change = (density - reference.density).astype(cheap)
    Total = tuple[Float[Array, ""], Float[Array, "nao nao"]]

    def add_block(total: Total, part: tuple[OrbitalsOnGrid, Array, Array]) -> tuple[Total, None]:
        block, old_local, old_potential = part

        def compute(phi: Phi, D: Matrix) -> tuple[Array, list[Matrix]]:
            step = jnp.stack(_density_and_half_gradient(functional, phi, D))
            local = old_local + step.astype(dtype)
            energy, potential = _restricted_points(functional, local, block.weights)
            return energy, [_half_potential(phi, (potential - old_potential).astype(cheap))]

        energy, (half,) = _of_block(block, [change], compute)
        return (total[0] + energy, total[1] + half), None

    zero = jnp.zeros((), dtype), jnp.zeros_like(change)
    blocks = orbitals._replace(weights=weights), reference.local, reference.potential
    (energy, half_matrix), _ = jax.lax.scan(add_block, zero, blocks)
    return energy, reference.matrix + (half_matrix + half_matrix.T).astype(dtype)


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
    Total = tuple[Float[Array, ""], Matrix, Matrix]

    def add_block(total: Total, block: OrbitalsOnGrid) -> tuple[Total, None]:
        weights = block.weights

        def compute(phi: Phi, D_a: Matrix, D_b: Matrix) -> tuple[Array, list[Matrix]]:
            a = _density_and_half_gradient(functional, phi, D_a)
            b = _density_and_half_gradient(functional, phi, D_b)
            value, by_a, by_b, by_aa, by_ab, by_bb = spin_energy_density_and_potential(
                functional, a[0], b[0], 4 * _dot(a, a), 4 * _dot(a, b), 4 * _dot(b, b)
            )
            pairs = list(zip(a[1:], b[1:], strict=True))
            by_gradient_a = [weights * (4 * by_aa * x + 2 * by_ab * y) for x, y in pairs]
            by_gradient_b = [weights * (4 * by_bb * y + 2 * by_ab * x) for x, y in pairs]
            half_a = _half_potential(phi, jnp.stack([0.5 * weights * by_a, *by_gradient_a]))
            half_b = _half_potential(phi, jnp.stack([0.5 * weights * by_b, *by_gradient_b]))
            return jnp.sum(weights * value), [half_a, half_b]

        energy, (half_a, half_b) = _of_block(block, [density_a, density_b], compute)
        return (total[0] + energy, total[1] + half_a, total[2] + half_b), None

    zero = jnp.zeros_like(density_a)
    start = jnp.zeros((), density_a.dtype), zero, zero
    (energy, half_a, half_b), _ = jax.lax.scan(add_block, start, orbitals)
    return energy, half_a + half_a.T, half_b + half_b.T
