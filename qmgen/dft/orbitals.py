"""Values and gradients of atomic orbitals at points in space."""

import math
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from pyscf import gto

from qmgen.dft.basis import Basis
from qmgen.dft.hermite import powers_up_to


class OrbitalTable(eqx.Module):
    """What a program needs of a basis to evaluate its orbitals; padded orbitals are zero.

    All of it stands by orbital: an exponential costs less than looking up one that another
    orbital of the shell has taken.

    Attributes
    ----------
    exponents, coefficients
        Of each primitive of the orbital's shell, as in `qmgen.dft.basis.Basis`.
    orbital_atom
        Its atom.
    polynomials
        Coefficients of the polynomial that stands beside the radial part, and of its derivatives
        by x, y and z, over the monomials up to degree ``max_l``.
    max_l
        Largest angular momentum (static).
    """

    exponents: Float[Array, "nprim nao"]
    coefficients: Float[Array, "nprim nao"]
    orbital_atom: Int[Array, " nao"]
    polynomials: Float[Array, "4 nmonomial nao"]
    max_l: int = eqx.field(static=True)


def orbital_table(basis: Basis, nao: int) -> OrbitalTable:
    """Table of a basis, padded with empty orbitals to the given number."""
    more = nao - basis.nao
    polynomials = _polynomials(basis.max_l, basis.cartesian)[..., basis.orbital_polynomial]

    def pad(array: np.ndarray) -> Array:
        # By NumPy: JAX would compile a program for each number of orbitals.
        return jnp.asarray(np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]))

    return OrbitalTable(
        exponents=pad(basis.exponents[basis.orbital_shell].T),
        coefficients=pad(basis.coefficients[basis.orbital_shell].T),
        orbital_atom=pad(basis.orbital_atom),
        polynomials=pad(polynomials),
        max_l=basis.max_l,
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


@lru_cache(maxsize=16)
def _polynomials(
    max_l: int, cartesian: tuple[int, ...]
) -> Float[np.ndarray, "4 nmonomial npolynomial"]:
    """Polynomials of orbitals up to a degree and their derivatives by x, y and z.

    Ordered by degree l. For each: the real solid harmonics r^l Y_lm as PySCF orders m; or, where
    ``cartesian`` has l, the monomials x^i y^j z^k in falling order of i, then j. The latter are
    PySCF's Cartesian orbitals, whose norms differ within a shell; no label depends on norms.
    """
    monomials = powers_up_to(max_l)
    place = {powers: row for row, powers in enumerate(monomials)}
    columns = []
    for angular in range(max_l + 1):
        own = [powers for powers in monomials if sum(powers) == angular]
        for coefficients in polynomial_coefficients(angular, angular in cartesian).T:
            column = np.zeros((4, len(monomials)))
            for c, powers in zip(coefficients, own, strict=True):
                column[0, place[powers]] = c
                for axis in range(3):
                    lower = list(powers)
                    lower[axis] -= 1
                    if lower[axis] >= 0:
                        i, j, k = lower
                        column[1 + axis, place[i, j, k]] += powers[axis] * c
            columns.append(column)
    return np.stack(columns, axis=-1)


def orbital_rows(
    table: OrbitalTable,
    centres: Float[Array, "3 nao"],
    points: Float[Array, "npoint 3"],
    dtype: DTypeLike = jnp.float64,
) -> list[Float[Array, "npoint nao"]]:
    """Orbitals and their derivatives by x, y and z at points, as separate arrays.

    ``centres`` are the positions of the orbitals' atoms, Bohr, looked up beforehand: inside of
    the sums below the look-up would be repeated for each point. Points and centres may have more
    digits than ``dtype``, that of the result.
    """
    table = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float64 else x, table)
    x = [(points[:, axis, None] - centres[axis]).astype(dtype) for axis in range(3)]
    r2 = x[0] * x[0] + x[1] * x[1] + x[2] * x[2]
    # A loop, whose result XLA keeps; what it fuses into the four rows it computes four times.
    gaussians = jax.lax.map(lambda exponents: jnp.exp(-exponents * r2), table.exponents)
    radial = jnp.zeros_like(r2)
    # Derivative by r^2, times 2: grad R = slope * r.
    slope = jnp.zeros_like(r2)
    for gaussian, exponents, coefficients in zip(
        gaussians, table.exponents, table.coefficients, strict=True
    ):
        radial += coefficients * gaussian
        slope += -2 * exponents * coefficients * gaussian

    powers = [_product(x, monomial) for monomial in powers_up_to(table.max_l)]

    def polynomial(coefficients: Float[Array, "nmonomial nao"]) -> Float[Array, "npoint nao"]:
        terms = [c * power for c, power in zip(coefficients, powers, strict=True)]
        return sum(terms[1:], terms[0])

    value = polynomial(table.polynomials[0])
    derivatives = [
        slope * value * x[axis] + radial * polynomial(table.polynomials[1 + axis])
        for axis in range(3)
    ]
    return [radial * value, *derivatives]


def _product(x: list[Float[Array, "npoint nao"]], powers: tuple[int, int, int]) -> Array:
    """Monomial as a product, whose derivative at 0 is finite."""
    result = jnp.ones_like(x[0])
    for factor, power in zip(x, powers, strict=True):
        for _ in range(power):
            result = result * factor
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
    return jnp.stack(orbital_rows(table, positions[table.orbital_atom].T, points))
