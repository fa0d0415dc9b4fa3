"""The seam between the SCF and whatever computes integrals over Gaussians.

An `IntegralEngine` is a function from a basis and the positions of a batch of conformers to
`Integrals`. `libcint_integrals` calls libcint through PySCF, on the host.
"""

from collections.abc import Callable
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float
from pyscf import gto

from qmgen.dft.basis import Basis
from qmgen.dft.cartesian import (
    cartesian_to_orbitals,
    eri_to_orbitals,
    libcint_kind,
    mixes_kinds,
    to_orbitals,
)

Positions = Float[np.ndarray, "nconf nat 3"]


class Integrals(eqx.Module):
    """Integrals over the orbitals of a batch of conformers, atomic units.

    ``eri`` holds each distinct two-electron integral (ij|kl) once: with pairs
    p = i (i + 1) / 2 + j for i >= j, it is the lower triangle over pairs, p (p + 1) / 2 + q.
    ``factors`` may stand in its place: (ij|kl) = sum_P B[P, p] B[P, q], as in
    `qmgen.dft.factorised`. An engine gives one of the two, and for range-separated functionals the
    same again with erf(ω r)/r in place of 1/r.
    """

    overlap: Float[Array | np.ndarray, "nconf nao nao"]
    kinetic: Float[Array | np.ndarray, "nconf nao nao"]
    nuclear_attraction: Float[Array | np.ndarray, "nconf nao nao"]
    dipole: Float[Array | np.ndarray, "nconf 3 nao nao"]
    second_moment: Float[Array | np.ndarray, "nconf 3 3 nao nao"]
    eri: Float[Array | np.ndarray, "nconf neri"] | None = None
    factors: Float[Array | np.ndarray, "nconf naux npair"] | None = None
    eri_long_range: Float[Array | np.ndarray, "nconf neri"] | None = None
    factors_long_range: Float[Array | np.ndarray, "nconf naux_long_range npair"] | None = None


IntegralEngine = Callable[[Basis, Positions], Integrals]


def computed_once(
    engine: IntegralEngine, at_a_time: int, basis: Basis, positions: Positions
) -> IntegralEngine:
    """Compute conformers' integrals now, for several calculations on these conformers.

    Parameters
    ----------
    engine
        What computes them.
    at_a_time
        For how many conformers it is asked at once.
    basis, positions
        Molecule, and its conformers, Bohr.

    Returns
    -------
    Engine that knows the integrals of these conformers and raises `KeyError` for others.
    """
    rows: dict[bytes, Integrals] = {}
    for start in range(0, len(positions), at_a_time):
        part = positions[start : start + at_a_time]
        integrals = engine(basis, part)
        for i, conformer in enumerate(part):
            rows[conformer.tobytes()] = jax.tree.map(lambda leaf, i=i: leaf[i], integrals)

    def look_up(_: Basis, wanted: Positions) -> Integrals:
        found = [rows[conformer.tobytes()] for conformer in wanted]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *found)

    return look_up


def libcint_integrals(basis: Basis, positions: Positions) -> Integrals:
    """All integrals of a restricted SCF from libcint (Sun 2015), float64.

    Parameters
    ----------
    basis
        Basis of the molecule.
    positions
        Of its conformers, Bohr. The moments' origin is the coordinates' origin.
    """
    eri = two_electron_integrals(basis, positions)
    return replace(libcint_one_electron_integrals(basis, positions), eri=eri)


def two_electron_integrals(
    basis: Basis, positions: Positions, omega: float = 0.0
) -> Float[np.ndarray, "nconf neri"]:
    """Distinct integrals of each conformer, of 1/r or, with ω > 0, of erf(ω r)/r.

    Parameters
    ----------
    basis
        Basis of the molecule.
    positions
        Of its conformers, Bohr.
    omega
        Range separation ω, 1 / Bohr.
    """
    intor = f"int2e_{libcint_kind(basis)}"
    eri = []
    for conformer in positions:
        env = environment(basis, conformer, omega)
        distinct = gto.moleintor.getints(
            intor, basis.libcint_atm, basis.libcint_bas, env, aosym="s8"
        )
        eri.append(eri_to_orbitals(basis, distinct) if mixes_kinds(basis) else distinct)
    return np.stack(eri)


def libcint_one_electron_integrals(basis: Basis, positions: Positions) -> Integrals:
    """Integrals of an SCF but for the two-electron ones, which are left out.

    Parameters
    ----------
    basis
        Basis of the molecule.
    positions
        Of its conformers, Bohr. The moments' origin is the coordinates' origin.
    """
    atm, bas, kind = basis.libcint_atm, basis.libcint_bas, libcint_kind(basis)
    result: dict[str, list[np.ndarray]] = {}
    for conformer in positions:
        env = environment(basis, conformer)
        for name, intor in (
            ("overlap", "int1e_ovlp"),
            ("kinetic", "int1e_kin"),
            ("nuclear_attraction", "int1e_nuc"),
            ("dipole", "int1e_r"),
            ("second_moment", "int1e_rr"),
        ):
            # Half of a symmetric matrix is computed.
            value = gto.moleintor.getints(f"{intor}_{kind}", atm, bas, env, hermi=1)
            if mixes_kinds(basis):
                value = to_orbitals(basis, value)
            if name == "second_moment":
                value = value.reshape(3, 3, *value.shape[1:])
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
    if libcint_kind(bra) == libcint_kind(ket) == "sph":
        return gto.moleintor.getints("int1e_ovlp_sph", atm, bas, env, shls_slice=slices)
    S = gto.moleintor.getints("int1e_ovlp_cart", atm, bas, env, shls_slice=slices)
    return cartesian_to_orbitals(bra).T @ S @ cartesian_to_orbitals(ket)


def environment(
    basis: Basis, positions: Float[np.ndarray, "nat 3"], omega: float = 0.0
) -> Float[np.ndarray, " nenv"]:
    """Table of numbers for libcint, with the atoms put at their positions, Bohr.

    With ω > 0, two-electron integrals are of erf(ω r)/r instead of 1/r.
    """
    env = basis.libcint_env.copy()
    env[gto.PTR_RANGE_OMEGA] = omega
    for pointer, xyz in zip(basis.libcint_atm[:, gto.PTR_COORD], positions, strict=True):
        env[pointer : pointer + 3] = xyz
    return env
