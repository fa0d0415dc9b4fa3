"""The seam between the SCF and whatever computes integrals over Gaussians.

An `IntegralEngine` is a function from a basis and the positions of a batch of conformers to
`Integrals`. `libcint_integrals` calls libcint through PySCF, on the host.
"""

from collections.abc import Callable

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float
from pyscf import gto

from qmgen.dft.basis import Basis

Positions = Float[np.ndarray, "nconf nat 3"]


class Integrals(eqx.Module):
    """Integrals over the orbitals of a batch of conformers, atomic units.

    ``eri`` holds each distinct two-electron integral (ij|kl) once: with pairs
    p = i (i + 1) / 2 + j for i >= j, it is the lower triangle over pairs, p (p + 1) / 2 + q.
    """

    overlap: Float[Array | np.ndarray, "nconf nao nao"]
    kinetic: Float[Array | np.ndarray, "nconf nao nao"]
    nuclear_attraction: Float[Array | np.ndarray, "nconf nao nao"]
    dipole: Float[Array | np.ndarray, "nconf 3 nao nao"]
    eri: Float[Array | np.ndarray, "nconf neri"]


IntegralEngine = Callable[[Basis, Positions], Integrals]


def libcint_integrals(basis: Basis, positions: Positions) -> Integrals:
    """All integrals of a restricted SCF from libcint (Sun 2015), float64.

    Parameters
    ----------
    basis
        Basis of the molecule.
    positions
        Of its conformers, Bohr. The dipole's origin is the coordinates' origin.
    """
    atm, bas = basis.libcint_atm, basis.libcint_bas
    result: dict[str, list[np.ndarray]] = {}
    for conformer in positions:
        env = environment(basis, conformer)
        for name, intor, symmetry in (
            ("overlap", "int1e_ovlp_sph", "s1"),
            ("kinetic", "int1e_kin_sph", "s1"),
            ("nuclear_attraction", "int1e_nuc_sph", "s1"),
            ("dipole", "int1e_r_sph", "s1"),
            ("eri", "int2e_sph", "s8"),
        ):
            value = gto.moleintor.getints(intor, atm, bas, env, aosym=symmetry)
            result.setdefault(name, []).append(value)
    return Integrals(**{name: np.stack(values) for name, values in result.items()})


def libcint_cross_overlap(
    bra: Basis, ket: Basis, positions: Float[np.ndarray, "nat 3"]
) -> Float[np.ndarray, "nbra nket"]:
    """Overlap of the orbitals of two bases on the same atoms at the same positions, Bohr."""
    atm, bas, env = gto.conc_env(
        bra.libcint_atm,
        bra.libcint_bas,
        environment(bra, positions),
        ket.libcint_atm,
        ket.libcint_bas,
        environment(ket, positions),
    )
    n = len(bra.libcint_bas)
    slices = (0, n, n, n + len(ket.libcint_bas))
    return gto.moleintor.getints("int1e_ovlp_sph", atm, bas, env, shls_slice=slices)


def environment(basis: Basis, positions: Float[np.ndarray, "nat 3"]) -> Float[np.ndarray, " nenv"]:
    """Table of numbers for libcint, with the atoms put at their positions, Bohr."""
    env = basis.libcint_env.copy()
    for pointer, xyz in zip(basis.libcint_atm[:, gto.PTR_COORD], positions, strict=True):
        env[pointer : pointer + 3] = xyz
    return env
