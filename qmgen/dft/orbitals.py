"""Values and gradients of atomic orbitals at points in space."""

import math
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pyscf import gto

from qmgen.dft.basis import Basis


class OrbitalTable(eqx.Module):
    """What a program needs of a basis to evaluate its orbitals; padded orbitals are zero.

    Fields as in `qmgen.dft.basis.Basis`; ``max_l`` and ``cartesian`` are static.
    """

    exponents: Float[Array, "nshell nprim"]
    coefficients: Float[Array, "nshell nprim"]
    shell_atom: Int[Array, " nshell"]
    orbital_shell: Int[Array, " nao"]
    orbital_atom: Int[Array, " nao"]
    orbital_polynomial: Int[Array, " nao"]
    max_l: int = eqx.field(static=True)
    cartesian: tuple[int, ...] = eqx.field(static=True)


def orbital_table(basis: Basis, nshell: int, nao: int) -> OrbitalTable:
    """Table of a basis, padded with empty shells and orbitals to the given numbers."""
    more_shells, more_orbitals = nshell - len(basis.shell_l), nao - basis.nao
    # A padded orbital points at a padded shell; there is one wherever there is an orbital.
    empty_shell = nshell - 1 if more_shells else 0
    if more_orbitals and not more_shells:
        raise ValueError("padded orbitals need at least one padded shell")
    return OrbitalTable(
        exponents=jnp.pad(basis.exponents, ((0, more_shells), (0, 0)), constant_values=1),
        coefficients=jnp.pad(basis.coefficients, ((0, more_shells), (0, 0))),
        shell_atom=jnp.pad(basis.shell_atom, (0, more_shells)),
        orbital_shell=jnp.pad(basis.orbital_shell, (0, more_orbitals), constant_values=empty_shell),
        orbital_atom=jnp.pad(basis.orbital_atom, (0, more_orbitals)),
        orbital_polynomial=jnp.pad(basis.orbital_polynomial, (0, more_orbitals)),
        max_l=basis.max_l,
        cartesian=basis.cartesian,
    )


@lru_cache(maxsize=16)
def _harmonic_coefficients(angular: int) -> np.ndarray:
    """Cartesian monomials to real solid harmonics of one degree, in PySCF's order and norm.

    PySCF leaves out the factor of s and p functions, which libcint applies on its own.
    """
    if angular == 0:
        return np.full((1, 1), math.sqrt(1 / (4 * math.pi)))
    if angular == 1:
        return np.eye(3) * math.sqrt(3 / (4 * math.pi))
    return gto.mole.cart2sph(angular)


def polynomial_coefficients(angular: int, cartesian: bool) -> Float[np.ndarray, "ncart norbital"]:
    """Polynomials of a shell's orbitals over monomials x^i y^j z^k, falling in i, then j."""
    if cartesian:
        return np.eye((angular + 1) * (angular + 2) // 2)
    return _harmonic_coefficients(angular)


def orbital_polynomials(
    r: Float[Array, "*points 3"], max_l: int, cartesian: tuple[int, ...] = ()
) -> Float[Array, "*points npoly"]:
    """Polynomials that orbitals have beside their radial part, up to a degree.

    Ordered by degree l. For each: the real solid harmonics r^l Y_lm as PySCF orders m; or, where
    ``cartesian`` has l, the monomials x^i y^j z^k in falling order of i, then j. The latter are
    PySCF's Cartesian orbitals, whose norms differ within a shell; no label depends on norms.
    """
    columns = []
    x, y, z = (r[..., k] for k in range(3))
    for angular in range(max_l + 1):
        monomials = [
            (lx, ly, angular - lx - ly)
            for lx in range(angular, -1, -1)
            for ly in range(angular - lx, -1, -1)
        ]
        coefficients = polynomial_coefficients(angular, angular in cartesian)
        for column in coefficients.T:
            terms = [
                c * _power(x, lx) * _power(y, ly) * _power(z, lz)
                for c, (lx, ly, lz) in zip(column, monomials, strict=True)
                if c != 0
            ]
            columns.append(sum(terms[1:], terms[0]))
    return jnp.stack(columns, axis=-1)


def _power(x: Float[Array, "*points"], n: int) -> Float[Array, "*points"]:
    """Integer power as a product, whose derivative at 0 is finite."""
    result = jnp.ones_like(x)
    for _ in range(n):
        result = result * x
    return result


def evaluate_orbitals(
    table: OrbitalTable,
    positions: Float[Array, "nat 3"],
    points: Float[Array, "npoint 3"],
) -> Float[Array, "4 npoint nao"]:
    """Orbitals and their gradients at points.

    Parameters
    ----------
    table
        The basis.
    positions
        Of the atoms, Bohr.
    points
        Where to evaluate, Bohr.

    Returns
    -------
    Values in the first row, derivatives by x, y and z in the others.
    """
    relative = points[:, None, :] - positions[None, :, :]
    r2 = jnp.sum(relative * relative, axis=-1)[:, table.shell_atom]
    gaussians = jnp.exp(-table.exponents * r2[:, :, None])
    radial = jnp.sum(table.coefficients * gaussians, axis=-1)
    # Derivative by r^2, times 2: grad R = radial_slope * r.
    radial_slope = jnp.sum(-2 * table.exponents * table.coefficients * gaussians, axis=-1)

    def polynomials(r: Float[Array, "npoint nat 3"]) -> Float[Array, "npoint nat npoly"]:
        return orbital_polynomials(r, table.max_l, table.cartesian)

    def per_orbital(p: Float[Array, "npoint nat npoly"]) -> Float[Array, "npoint nao"]:
        return p[:, table.orbital_atom, table.orbital_polynomial]

    R = radial[:, table.orbital_shell]
    Y = per_orbital(polynomials(relative))
    slope_times_y = radial_slope[:, table.orbital_shell] * Y
    rows = [R * Y]
    for axis in range(3):
        direction = jnp.zeros_like(relative).at[..., axis].set(1)
        _, derivative = jax.jvp(polynomials, (relative,), (direction,))
        along = relative[:, table.orbital_atom, axis]
        rows.append(slope_times_y * along + R * per_orbital(derivative))
    return jnp.stack(rows)
