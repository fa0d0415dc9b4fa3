"""Properties of a converged closed-shell density."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def nuclear_repulsion(
    charges: Float[Array, " nat"], positions: Float[Array, "nat 3"]
) -> Float[Array, ""]:
    r"""Point-nuclei repulsion $\sum_{i<j} Z_i Z_j / R_{ij}$, Hartree.

    Padded atoms have zero charge and add nothing.
    """
    zz = jnp.triu(charges[:, None] * charges[None, :], k=1)
    separation = positions[:, None, :] - positions[None, :, :]
    r2 = jnp.sum(separation * separation, axis=-1)
    return jnp.sum(zz / jnp.sqrt(jnp.where(zz > 0, r2, 1.0)))


def dipole_moment(
    density: Float[Array, "nao nao"],
    dipole_integrals: Float[Array, "3 nao nao"],
    charges: Float[Array, " nat"],
    positions: Float[Array, "nat 3"],
) -> Float[Array, "3"]:
    """Electric dipole about the coordinates' origin, elementary charge times Bohr.

    For ions it depends on the origin.
    """
    electronic = jnp.einsum("xij,ji->x", dipole_integrals, density)
    return charges @ positions - electronic


def quadrupole_moment(
    density: Float[Array, "nao nao"],
    overlap: Float[Array, "nao nao"],
    dipole_integrals: Float[Array, "3 nao nao"],
    second_moment_integrals: Float[Array, "3 3 nao nao"],
    charges: Float[Array, " nat"],
    positions: Float[Array, "nat 3"],
) -> Float[Array, "3 3"]:
    r"""Traceless quadrupole about the centre of nuclear charge, elementary charge times Bohr^2.

    Buckingham's convention (Q. Rev. Chem. Soc. 13, 183 (1959)), over nuclei and electrons:
    $Q_{ij} = \frac12 \sum_a q_a (3 r_i r_j - \delta_{ij} r^2)$. It depends on the origin where
    there is a dipole or a charge. The centre $\sum_a Z_a R_a / \sum_a Z_a$ moves with the molecule,
    so translations don't change the moment.

    Parameters
    ----------
    density, overlap
        Of the orbitals.
    dipole_integrals, second_moment_integrals
        Of $r_i$ and $r_i r_j$ about the coordinates' origin; Bohr and Bohr^2.
    charges, positions
        Of the nuclei; padded atoms have zero charge.
    """
    centre = charges @ positions / jnp.sum(charges)
    count = jnp.sum(density * overlap)
    first = jnp.einsum("xij,ji->x", dipole_integrals, density)
    second = jnp.einsum("xyij,ji->xy", second_moment_integrals, density)
    shift = jnp.outer(centre, first)
    electronic = second - shift - shift.T + count * jnp.outer(centre, centre)
    arms = positions - centre
    moment = jnp.einsum("a,ax,ay->xy", charges, arms, arms) - electronic
    return 1.5 * moment - 0.5 * jnp.trace(moment) * jnp.eye(3, dtype=moment.dtype)


def mulliken_charges(
    density: Float[Array, "nao nao"],
    overlap: Float[Array, "nao nao"],
    charges: Float[Array, " nat"],
    orbital_atom: Int[Array, " nao"],
) -> Float[Array, " nat"]:
    """Atomic charges by Mulliken's population analysis (1955), elementary charges."""
    populations = jnp.sum(density * overlap, axis=1)
    return charges - jnp.zeros_like(charges).at[orbital_atom].add(populations)
