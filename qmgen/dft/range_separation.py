"""Exact exchange of range-separated hybrids beside that of all others.

Their exchange is a K + b K_erf, of the operators 1/r and erf(ω r)/r (Iikura, Tsuneda, Yanai and
Hirao, J. Chem. Phys. 115, 3540, 2001), which needs a second set of two-electron integrals. Both are
linear in the density, so the supermatrix of `qmgen.dft.two_electron` takes them in and the SCF
never sees the difference.
"""

from dataclasses import replace

from jaxtyping import Array, Float

from qmgen.dft.basis import Basis
from qmgen.dft.cholesky import cholesky_factors, cholesky_integrals
from qmgen.dft.factorised import stack_factors
from qmgen.dft.functionals import Functional
from qmgen.dft.integrals import (
    IntegralEngine,
    Integrals,
    Positions,
    libcint_integrals,
    two_electron_integrals,
)
from qmgen.dft.two_electron import supermatrix


def range_separated_engine(omega: float, *, factorised: bool) -> IntegralEngine:
    """Engine that adds the integrals of erf(ω r)/r, by libcint.

    Parameters
    ----------
    omega
        Range separation ω, 1 / Bohr.
    factorised
        Whether both sets are Cholesky vectors instead of distinct integrals.
    """

    def distinct(basis: Basis, positions: Positions) -> Integrals:
        return replace(
            libcint_integrals(basis, positions),
            eri_long_range=two_electron_integrals(basis, positions, omega),
        )

    def vectors(basis: Basis, positions: Positions) -> Integrals:
        return replace(
            cholesky_integrals(basis, positions),
            factors_long_range=stack_factors(
                [cholesky_factors(basis, conformer, omega=omega) for conformer in positions]
            ),
        )

    return vectors if factorised else distinct


def total_supermatrix(
    functional: Functional,
    eri: Float[Array, " neri"],
    eri_long_range: Float[Array, " neri"] | None,
    nao: int,
) -> Float[Array, "npair npair"]:
    """Matrix that takes the packed density of both spins to J - a K / 2 - b K_erf / 2.

    Parameters
    ----------
    functional
        Its shares of exact exchange are a and b.
    eri, eri_long_range
        Distinct integrals of 1/r and, where b is not 0, of erf(ω r)/r.
    nao
        Number of orbitals.
    """
    result = supermatrix(eri, nao, functional.exact_exchange)
    if eri_long_range is not None:
        b = functional.long_range_exchange
        result += supermatrix(eri_long_range, nao, b, coulomb=False)
    return result


def spin_supermatrix(
    functional: Functional,
    eri: Float[Array, " neri"],
    eri_long_range: Float[Array, " neri"] | None,
    nao: int,
) -> Float[Array, "npair npair"] | None:
    """Matrix that takes the packed spin density to -a K / 2 - b K_erf / 2; None if both are 0.

    Parameters as in `total_supermatrix`.
    """
    if not (functional.exact_exchange or functional.long_range_exchange):
        return None
    result = supermatrix(eri, nao, functional.exact_exchange, coulomb=False)
    if eri_long_range is not None:
        b = functional.long_range_exchange
        result += supermatrix(eri_long_range, nao, b, coulomb=False)
    return result
