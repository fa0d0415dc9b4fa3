"""Exchange-correlation functionals by name, and their energies and potentials on points.

Terms are energies per volume (modules `exchange` and `correlation`); potentials follow by
differentiation. Restricted and unrestricted calculations use the same terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.dft.correlation import (
    lyp,
    pbe_correlation,
    vwn5,
    vwn_rpa,
    wb97x_opposite_spin,
    wb97x_same_spin,
)
from qmgen.dft.density_variables import Gas, Spins, make_gas
from qmgen.dft.exchange import (
    WB97X_OMEGA,
    b88,
    pbe_exchange,
    revpbe_exchange,
    slater,
    wb97x_exchange,
)
from qmgen.errors import UnknownFunctionalError

Density = Float[Array, "*points"]
SpinSeparableTerm = Callable[[Gas], Density]
SpinCoupledTerm = Callable[[Gas, Spins | None], Density]


@dataclass(frozen=True)
class Functional:
    """An exchange-correlation functional: weighted semi-local terms plus exact exchange.

    Exact exchange enters the energy as ``exact_exchange`` times that of the Coulomb operator 1/r
    plus ``long_range_exchange`` times that of erf(ω r)/r: of matrices,
    ``exact_exchange * K + long_range_exchange * K_erf(omega)``. ``exact_exchange`` is therefore
    the share at short range and the sum of both that at long range. In the terms of PySCF's
    ``rsh_coeff``, which gives (ω, α, β), they are α + β and -β. A calculation that only has K
    must refuse a functional with ``long_range_exchange``.

    Parameters
    ----------
    name
        As qmgen spells it.
    spin_separable
        Weighted terms that are sums over the two spins, given as functions of an unpolarised gas.
    spin_coupled
        Weighted terms that depend on both spins together.
    exact_exchange, long_range_exchange
        Shares of exact exchange.
    omega
        Range separation ω, 1 / Bohr; 0 without ``long_range_exchange``.
    needs_gradient
        Whether any term depends on the density's gradient.
    pyscf_name
        What PySCF calls it.
    """

    name: str
    pyscf_name: str
    spin_separable: tuple[tuple[float, SpinSeparableTerm], ...] = ()
    spin_coupled: tuple[tuple[float, SpinCoupledTerm], ...] = ()
    exact_exchange: float = 0.0
    long_range_exchange: float = 0.0
    omega: float = 0.0
    needs_gradient: bool = True

    @property
    def terms(self) -> tuple[tuple[float, SpinSeparableTerm | SpinCoupledTerm], ...]:
        """All semi-local terms; Hartree-Fock has none and so needs no grid."""
        return self.spin_separable + self.spin_coupled


def _b3lyp(name: str, local_correlation: SpinCoupledTerm, pyscf_name: str) -> Functional:
    """Stephens et al. 1994; the published text leaves the local correlation's variant open."""
    exchange = ((0.08, slater), (0.72, b88))
    correlation = ((0.81, lyp), (0.19, local_correlation))
    return Functional(name, pyscf_name, exchange, correlation, exact_exchange=0.2)


_PBE_CORRELATION = ((1.0, pbe_correlation),)
_FUNCTIONALS = {
    f.name: f
    for f in (
        Functional("hf", "hf", exact_exchange=1.0, needs_gradient=False),
        Functional("svwn", "slater,vwn5", ((1.0, slater),), ((1.0, vwn5),), needs_gradient=False),
        Functional("blyp", "blyp", ((1.0, b88),), ((1.0, lyp),)),
        Functional("pbe", "pbe,pbe", ((1.0, pbe_exchange),), _PBE_CORRELATION),
        Functional("revpbe", "pbe_r,pbe", ((1.0, revpbe_exchange),), _PBE_CORRELATION),
        Functional("pbe0", "pbe0", ((0.75, pbe_exchange),), _PBE_CORRELATION, exact_exchange=0.25),
        _b3lyp("b3lyp", vwn_rpa, "0.2*hf + 0.08*slater + 0.72*b88, 0.81*lyp + 0.19*vwn_rpa"),
        _b3lyp("b3lyp5", vwn5, "b3lyp5"),
        # Gaussian's VWN3 is VWN's fit to the random-phase approximation, also of open shells, and
        # so PySCF reads it. libxc's lda_c_vwn_3 is something else.
        _b3lyp("b3lypg", vwn_rpa, "b3lypg"),
        Functional(
            "wb97x",
            "wb97x",
            ((1.0, wb97x_exchange), (1.0, wb97x_same_spin)),
            ((1.0, wb97x_opposite_spin),),
            exact_exchange=0.157706,
            long_range_exchange=1 - 0.157706,
            omega=WB97X_OMEGA,
        ),
    )
}
FUNCTIONAL_NAMES = tuple(_FUNCTIONALS)


def canonical_functional(name: str) -> str:
    """Name of a functional as qmgen spells it.

    Raises
    ------
    UnknownFunctionalError
        There is none of this name; the message lists those there are.
    """
    key = name.strip().lower()
    if key in _FUNCTIONALS:
        return key
    hint = " For the local density approximation say svwn." if key.startswith("lda") else ""
    raise UnknownFunctionalError(
        f"unknown functional {name!r}: choose one of {', '.join(FUNCTIONAL_NAMES)}.{hint}"
    )


def get_functional(name: str) -> Functional:
    """Functional of a name; raises `UnknownFunctionalError`."""
    return _FUNCTIONALS[canonical_functional(name)]


def _density_floor(dtype: jnp.dtype) -> float:
    """Smallest density that counts, electrons / Bohr^3.

    A point of lower density contributes nothing; in float32 powers of lower densities would
    underflow.
    """
    return 1e-14 if dtype == jnp.float64 else 1e-9


def energy_density_and_potential(
    functional: Functional, rho: Density, sigma: Density
) -> tuple[Density, Density, Density]:
    """Energy per volume of a closed shell, and its derivatives.

    Parameters
    ----------
    functional
        What to evaluate; its exact exchange is not included.
    rho
        Electron density, 1 / Bohr^3.
    sigma
        Squared norm of the density's gradient, 1 / Bohr^8.

    Returns
    -------
    energy, by_rho, by_sigma
        Energy per volume, Hartree / Bohr^3, and its derivatives by density and by squared
        gradient.
    """
    present = rho > _density_floor(rho.dtype)
    # Differentiated at the safe values, so that no derivative passes through the selection.
    safe = jnp.where(present, rho, 1.0), jnp.where(present, sigma, 0.0)

    def total(rho: Density, sigma: Density) -> tuple[Float[Array, ""], Density]:
        gas = make_gas(rho, sigma)
        energy = jnp.zeros_like(rho)
        for weight, separable in functional.spin_separable:
            energy = energy + weight * separable(gas)
        for weight, coupled in functional.spin_coupled:
            energy = energy + weight * coupled(gas, None)
        return jnp.sum(energy), energy

    (_, energy), derivatives = jax.value_and_grad(total, (0, 1), has_aux=True)(*safe)
    by_rho, by_sigma = derivatives
    return (
        jnp.where(present, energy, 0.0),
        jnp.where(present, by_rho, 0.0),
        jnp.where(present, by_sigma, 0.0),
    )


def spin_energy_density_and_potential(
    functional: Functional,
    rho_a: Density,
    rho_b: Density,
    sigma_aa: Density,
    sigma_ab: Density,
    sigma_bb: Density,
) -> tuple[Density, Density, Density, Density, Density, Density]:
    """Energy per volume of a spin-polarised density, and its derivatives.

    A spin of lower density than counts has neither exchange nor a part in the functions of the
    polarisation, whose derivatives by its density diverge there; what derivatives remain are
    finite.

    Parameters
    ----------
    functional
        What to evaluate; its exact exchange is not included.
    rho_a, rho_b
        Densities of the two spins, 1 / Bohr^3.
    sigma_aa, sigma_ab, sigma_bb
        Scalar products of their gradients, 1 / Bohr^8.

    Returns
    -------
    energy, by_rho_a, by_rho_b, by_sigma_aa, by_sigma_ab, by_sigma_bb
        Energy per volume, Hartree / Bohr^3, and its derivatives by the five arguments.
    """
    floor = _density_floor(rho_a.dtype)
    # Quadrature of one spin's orbitals may leave a density that rounding made negative.
    rho_a, rho_b = jnp.where(rho_a < 0, 0.0, rho_a), jnp.where(rho_b < 0, 0.0, rho_b)
    present = rho_a + rho_b > floor
    # Of the gas that is twice one spin, as for a closed shell.
    occupied = present & (2 * rho_a > floor), present & (2 * rho_b > floor)
    arguments = rho_a, rho_b, sigma_aa, sigma_ab, sigma_bb
    safe = (
        *(jnp.where(present, rho, 0.5) for rho in arguments[:2]),
        *(jnp.where(present, sigma, 0.0) for sigma in arguments[2:]),
    )

    def total(*arguments: Density) -> tuple[Float[Array, ""], Density]:
        rho_a, rho_b, sigma_aa, sigma_ab, sigma_bb = arguments
        gas = make_gas(rho_a + rho_b, sigma_aa + 2 * sigma_ab + sigma_bb)
        doubled = tuple(
            make_gas(jnp.where(there, 2 * rho, 1.0), jnp.where(there, 4 * sigma, 0.0))
            for there, rho, sigma in zip(
                occupied, (rho_a, rho_b), (sigma_aa, sigma_bb), strict=True
            )
        )
        r = gas.inverse_cbrt
        spins = Spins(
            doubled=(doubled[0], doubled[1]),
            occupied=occupied,
            share=(rho_a * r * r * r, rho_b * r * r * r),
            root=(
                jnp.where(occupied[0], doubled[0].cbrt * r, 0.0),
                jnp.where(occupied[1], doubled[1].cbrt * r, 0.0),
            ),
            sigma=(sigma_aa, sigma_ab, sigma_bb),
        )
        energy = jnp.zeros_like(rho_a)
        for weight, separable in functional.spin_separable:
            for there, one in zip(occupied, doubled, strict=True):
                energy = energy + jnp.where(there, 0.5 * weight * separable(one), 0.0)
        for weight, coupled in functional.spin_coupled:
            energy = energy + weight * coupled(gas, spins)
        return jnp.sum(energy), energy

    (_, energy), derivatives = jax.value_and_grad(total, tuple(range(5)), has_aux=True)(*safe)
    a, b, aa, ab, bb = (jnp.where(present, value, 0.0) for value in derivatives)
    return jnp.where(present, energy, 0.0), a, b, aa, ab, bb
