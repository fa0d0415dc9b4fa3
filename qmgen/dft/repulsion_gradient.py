"""Derivative of the two-electron energy by the positions of the atoms, at fixed density.

Two ways: integrals' derivatives from libcint, contracted as they come; or a cotangent for each
distinct integral, from which that of native integrals goes on.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pyscf import gto
from pyscf.grad import rhf
from pyscf.scf import _vhf

from qmgen.dft.basis import Basis, shell_size
from qmgen.dft.cartesian import cartesian_to_orbitals, libcint_kind, mixes_kinds
from qmgen.dft.electron_repulsion import electron_repulsion_gradient
from qmgen.dft.functionals import Functional
from qmgen.dft.integrals import environment
from qmgen.dft.native_integrals import NativePlan, fill_lanes
from qmgen.dft.precision import double_precision

Densities = Float[np.ndarray, "nspin nao nao"]

# Numbers of orbitals are padded to a multiple of this, so that molecules share a program: coarser
# than in the SCF, as what is empty costs little in a gradient.
ORBITAL_STEP = 16


def libcint_repulsion_gradient(
    basis: Basis,
    positions: Float[np.ndarray, "nconf nat 3"],
    densities: Float[np.ndarray, "nconf nspin nao nao"],
    functional: Functional,
) -> Float[np.ndarray, "nconf nat 3"]:
    """Gradient of Coulomb energy and exact exchange from libcint's derivatives, Hartree / Bohr.

    Parameters
    ----------
    basis
        Of the molecule.
    positions
        Of its conformers, Bohr.
    densities
        Symmetric density matrices: one of a closed shell, or one of each spin.
    functional
        Its shares of exact exchange count, at all ranges.
    """
    return np.stack(
        [
            _one_conformer(basis, where, of_spins, functional)
            for where, of_spins in zip(positions, densities, strict=True)
        ]
    )


def _one_conformer(
    basis: Basis,
    positions: Float[np.ndarray, "nat 3"],
    densities: Densities,
    functional: Functional,
) -> Float[np.ndarray, "nat 3"]:
    D = to_libcint(basis, densities)
    mol = gto.Mole()
    mol._atm, mol._bas, mol._env = (
        basis.libcint_atm,
        basis.libcint_bas,
        environment(basis, positions),
    )
    mol.cart = libcint_kind(basis) == "cart"
    # Half of the energy is each electron's; a derivative by either orbital of (ij| counts twice.
    total = D.sum(axis=0)
    coulomb, *exchange = _contracted(mol, D, exact=functional.exact_exchange != 0)
    by_orbital = np.einsum("xij,ij->xi", coulomb, total)
    shares = [(functional.exact_exchange, exchange)]
    if functional.long_range_exchange:
        with mol.with_range_coulomb(functional.omega):
            _, *long_range = _contracted(mol, D, exact=True)
        shares.append((functional.long_range_exchange, long_range))
    # Each electron of a closed shell meets the half of them that have its spin.
    same_spin = 0.5 if len(D) == 1 else 1.0
    for share, matrices in shares:
        for K, of_spin in zip(matrices, D, strict=False):
            by_orbital -= share * same_spin * np.einsum("xij,ij->xi", K, of_spin)
    gradient = np.zeros_like(positions)
    np.add.at(gradient, libcint_orbital_atom(basis), -2 * by_orbital.T)
    return gradient


def _contracted(
    mol: gto.Mole, densities: Densities, *, exact: bool
) -> list[Float[np.ndarray, "3 nao nao"]]:
    """J of the total density, then K of each spin if wanted, of (grad i j|kl)."""
    screening = _vhf._VHFOpt(
        mol, "int2e_ip1", "CVHFgrad_jk_prescreen", dmcondname="CVHFnr_dm_cond1"
    )
    screening.q_cond = rhf._calc_q_cond(mol, screening)
    results = _vhf.direct_mapdm(
        mol._add_suffix("int2e_ip1"),
        "s2kl",
        ("lk->s1ij", "jk->s1il") if exact else ("lk->s1ij",),
        list(densities) if exact else [densities.sum(axis=0)],
        3,
        mol._atm,
        mol._bas,
        mol._env,
        screening,
    )
    nao = densities.shape[-1]
    J, *K = np.reshape(results, (-1, len(densities) if exact else 1, 3, nao, nao))
    return [J.sum(axis=0), *(of_spin for of_spins in K for of_spin in of_spins)]


def to_libcint(
    basis: Basis, matrices: Float[np.ndarray, "n nao nao"]
) -> Float[np.ndarray, "n nlibcint nlibcint"]:
    """Density matrices over the orbitals that libcint has, which are Cartesian in mixed bases."""
    if not mixes_kinds(basis):
        return matrices
    T = cartesian_to_orbitals(basis).toarray()
    return T @ matrices @ T.T


def libcint_orbital_atom(basis: Basis) -> Int[np.ndarray, " nlibcint"]:
    """Atom of each orbital that libcint has."""
    cartesian = tuple(range(basis.max_l + 1)) if libcint_kind(basis) == "cart" else ()
    return np.repeat(basis.shell_atom, [shell_size(l_, cartesian) for l_ in basis.shell_l.tolist()])


def native_repulsion_gradient(
    plan: NativePlan,
    positions: Float[np.ndarray, "nconf nat 3"],
    densities: Float[np.ndarray, "nconf nspin nao nao"],
    exact_exchange: float,
) -> Float[np.ndarray, "nconf nat 3"]:
    """As `libcint_repulsion_gradient` for exchange at all ranges alike, by native integrals.

    Parameters
    ----------
    plan
        Of the molecule's integrals.
    positions, densities
        Of the conformers; Bohr.
    exact_exchange
        Share of exact exchange.
    """
    nao = densities.shape[-1]
    npair = nao * (nao + 1) // 2
    more = -nao % ORBITAL_STEP
    padded = np.pad(densities, ((0, 0), (0, 0), (0, more), (0, more)))
    gradients = []
    with double_precision():
        for start in range(0, len(positions), plan.lanes.number):
            some = slice(start, start + plan.lanes.number)
            cotangents = np.stack(
                [
                    np.asarray(repulsion_cotangent(jnp.asarray(D), npair, exact_exchange))[
                        : npair * (npair + 1) // 2
                    ]
                    for D in padded[some]
                ]
            )
            gradient = electron_repulsion_gradient(
                plan.repulsion,
                fill_lanes(plan.lanes, positions[some]),
                fill_lanes(plan.lanes, cotangents),
            )
            gradients.append(gradient[: len(cotangents)])
    return np.concatenate(gradients)


@partial(jax.jit, static_argnames=("exact_exchange",))
def repulsion_cotangent(
    densities: Float[Array, "nspin nao nao"], nrow: Int[Array, ""] | int, exact_exchange: float
) -> Float[Array, " neri"]:
    r"""Derivative of the two-electron energy by each distinct integral (ij|kl).

    With $E = \frac12 \sum D_{ij} D_{kl} (ij|kl) - \frac a2 \sum_s \sum D^s_{ik} D^s_{jl} (ij|kl)$
    it is $D_{ij} D_{kl} - \frac a2 \sum_s (D^s_{ik} D^s_{jl} + D^s_{il} D^s_{jk})$, times half the
    number of equal integrals.

    Parameters
    ----------
    densities
        Symmetric density matrices: one of a closed shell, or one of each spin; padded.
    nrow
        Number of pairs of real orbitals.
    exact_exchange
        Share a of exact exchange.

    Returns
    -------
    Packed as in `qmgen.dft.integrals.Integrals`, those of real orbitals first; the others' values
    mean nothing.
    """
    nspin, nao = densities.shape[:2]
    rows, columns = np.tril_indices(nao)
    npair = len(rows)
    number = jnp.asarray(np.where(rows == columns, 1.0, 2.0), densities.dtype)
    coulomb = number * jnp.sum(densities, axis=0)[rows, columns]
    # Gathered once, so that what is done for each row below are plain products of vectors.
    of_k, of_l = densities[:, :, rows], densities[:, :, columns]
    # Two spins have half of a closed shell's density each.
    share = 0.25 * exact_exchange if nspin == 1 else 0.5 * exact_exchange
    i_of, j_of = jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)

    def add_row(p: Int[Array, ""], packed: Array) -> Array:
        i, j = i_of[p], j_of[p]
        row = coulomb[p] * coulomb
        if exact_exchange:
            exchange = of_k[:, i] * of_l[:, j] + of_l[:, i] * of_k[:, j]
            row -= share * number[p] * number * jnp.sum(exchange, axis=0)
        # A pair with itself stands once among the integrals, two pairs twice. What is behind the
        # diagonal is overwritten by later rows.
        row = jnp.where(jnp.arange(npair) == p, 0.5 * row, row)
        return jax.lax.dynamic_update_slice(packed, row, (p * (p + 1) // 2,))

    packed = jnp.zeros(npair * (npair + 1) // 2 + npair, densities.dtype)
    return jax.lax.fori_loop(0, nrow, add_row, packed)
