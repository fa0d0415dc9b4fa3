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


def mulliken_charges(
    density: Float[Array, "nao nao"],
    overlap: Float[Array, "nao nao"],
    charges: Float[Array, " nat"],
    orbital_atom: Int[Array, " nao"],
) -> Float[Array, " nat"]:
    """Atomic charges by Mulliken's population analysis (1955), elementary charges."""
    populations = jnp.sum(density * overlap, axis=1)
    return charges - jnp.zeros_like(charges).at[orbital_atom].add(populations)
