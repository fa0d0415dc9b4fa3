"""Derivative of the one-electron energy by the positions of the atoms, at fixed density.

Of kinetic energy, nuclear attraction and repulsion, and of the overlap with the energy-weighted
density (Pulay, Mol. Phys. 17, 197, 1969). Integrals in JAX are faster than libcint's derivatives,
but compile for seconds, for each molecule that has other numbers of shells.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pyscf import gto

from qmgen.dft.basis import Basis
from qmgen.dft.cartesian import libcint_kind
from qmgen.dft.integrals import environment
from qmgen.dft.one_electron import one_electron_integrals
from qmgen.dft.precision import double_precision
from qmgen.dft.properties import nuclear_repulsion
from qmgen.dft.repulsion_gradient import libcint_orbital_atom, to_libcint
from qmgen.dft.shell_pairs import PairTable, pair_table

# libcint's derivatives take 0.04 s of one core for 20 atoms in STO-3G and 0.1 s in 6-31G*, those
# in JAX 0.01 and 0.05 s, after 8 and 26 s of compilation.
LEAST_CONFORMERS = 300


def one_electron_gradient(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    density: Float[np.ndarray, "nconf nao nao"],
    energy_weighted: Float[np.ndarray, "nconf nao nao"],
) -> Float[np.ndarray, "nconf nat 3"]:
    """Gradient of all that is linear in the density, and of the nuclei's repulsion.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of its conformers, Bohr.
    density, energy_weighted
        Density matrices, and the same with orbitals weighted by their energies.

    Returns
    -------
    Hartree / Bohr.
    """
    if len(positions) < LEAST_CONFORMERS and jax.default_backend() == "cpu":
        return libcint_one_electron_gradient(basis, positions, density, energy_weighted)
    return native_one_electron_gradient(basis, positions, density, energy_weighted)


def native_one_electron_gradient(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    density: Float[np.ndarray, "nconf nao nao"],
    energy_weighted: Float[np.ndarray, "nconf nao nao"],
) -> Float[np.ndarray, "nconf nat 3"]:
    """As `one_electron_gradient`, by reverse-mode differentiation of integrals in JAX."""
    with double_precision():
        table = pair_table(basis, basis.nao)
        charges = jnp.asarray(basis.atomic_numbers, jnp.float64)
        return np.stack(
            [
                _differentiate(jnp.asarray(where), table, charges, jnp.asarray(D), jnp.asarray(W))
                for where, D, W in zip(positions, density, energy_weighted, strict=True)
            ]
        )


def one_electron_energy(
    positions: Float[Array, "nat 3"],
    table: PairTable,
    charges: Float[Array, " nat"],
    density: Float[Array, "nao nao"],
    energy_weighted: Float[Array, "nao nao"],
) -> Float[Array, ""]:
    """Energy of which `one_electron_gradient` is the gradient, Hartree."""
    integrals = one_electron_integrals(table, charges, positions)
    hcore = integrals.kinetic + integrals.nuclear_attraction
    electronic = jnp.sum(density * hcore) - jnp.sum(energy_weighted * integrals.overlap)
    return electronic + nuclear_repulsion(charges, positions)


_differentiate = jax.jit(jax.grad(one_electron_energy))


def libcint_one_electron_gradient(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    density: Float[np.ndarray, "nconf nao nao"],
    energy_weighted: Float[np.ndarray, "nconf nao nao"],
) -> Float[np.ndarray, "nconf nat 3"]:
    """As `one_electron_gradient`, with libcint's derivatives."""
    kind, orbital_atom = libcint_kind(basis), libcint_orbital_atom(basis)
    charges = basis.atomic_numbers.astype(np.float64)
    result = []
    for where, *matrices in zip(positions, density, energy_weighted, strict=True):
        D, W = to_libcint(basis, np.stack(matrices))
        env = environment(basis, where)

        def derivative(name: str, env: np.ndarray = env) -> Float[np.ndarray, "3 n n"]:
            """Of the orbital on the left, by the electron's position."""
            return gto.moleintor.getints(
                f"{name}_{kind}", basis.libcint_atm, basis.libcint_bas, env
            )

        hcore = derivative("int1e_ipkin") + derivative("int1e_ipnuc")
        by_orbital = np.einsum("xij,ij->xi", hcore, D)
        by_orbital -= np.einsum("xij,ij->xi", derivative("int1e_ipovlp"), W)
        gradient = _nuclear_repulsion_gradient(charges, where)
        np.add.at(gradient, orbital_atom, -2 * by_orbital.T)
        for atom, charge in enumerate(charges):
            env[gto.PTR_RINV_ORIG : gto.PTR_RINV_ORIG + 3] = where[atom]
            # A nucleus moves against both orbitals.
            gradient[atom] -= 2 * charge * np.einsum("xij,ij->x", derivative("int1e_iprinv"), D)
        result.append(gradient)
    return np.stack(result)


def _nuclear_repulsion_gradient(
    charges: Float[np.ndarray, " nat"], positions: Float[np.ndarray, "nat 3"]
) -> Float[np.ndarray, "nat 3"]:
    separation = positions[:, None] - positions[None]
    distance = np.linalg.norm(separation, axis=-1)
    np.fill_diagonal(distance, np.inf)
    return -np.einsum("a,b,abx->ax", charges, charges, separation / distance[..., None] ** 3)
