"""Exchange-correlation functionals of a closed-shell density, as JAX functions.

Each function takes the density and the square of its gradient at any number of points and gives
the energy per volume; potentials follow by differentiation. Parameters are those of libxc, which
the tests compare with point by point.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.errors import UnknownFunctionalError

Density = Float[Array, "*points"]
EnergyDensity = Callable[[Density, Density], Density]


def _floors(dtype: jnp.dtype) -> tuple[float, float]:
    """Smallest density (electrons / Bohr^3) and squared gradient that count.

    A point of lower density contributes nothing; in float32 powers of lower densities would
    underflow. The gradient's floor keeps square roots differentiable where it vanishes.
    """
    return (1e-14, 1e-30) if dtype == jnp.float64 else (1e-9, 1e-20)


def _slater(rho: Density, sigma: Density) -> Density:
    """Exchange of the uniform electron gas (Dirac 1930)."""
    return -0.75 * (3 / math.pi) ** (1 / 3) * rho * jnp.cbrt(rho)


def _vwn(rho: Density, A: float, b: float, c: float, x0: float) -> Density:
    """Correlation of the uniform electron gas, Vosko, Wilk, Nusair 1980, eq. 4.4."""
    x = jnp.sqrt(jnp.cbrt(3 / (4 * math.pi * rho)))
    q = math.sqrt(4 * c - b * b)
    polynomial = x * x + b * x + c
    polynomial0 = x0 * x0 + b * x0 + c
    angle = jnp.arctan(q / (2 * x + b))
    per_electron = A * (
        jnp.log(x * x / polynomial)
        + 2 * b / q * angle
        - b
        * x0
        / polynomial0
        * (jnp.log((x - x0) ** 2 / polynomial) + 2 * (b + 2 * x0) / q * angle)
    )
    return rho * per_electron


def _vwn5(rho: Density, sigma: Density) -> Density:
    """VWN's fit V, to Monte Carlo data."""
    return _vwn(rho, 0.0310907, 3.72744, 12.9352, -0.10498)


def _vwn_rpa(rho: Density, sigma: Density) -> Density:
    """VWN's fit to the random-phase approximation; for closed shells also their fit III."""
    return _vwn(rho, 0.0310907, 13.0720, 42.7198, -0.409286)


def _b88(rho: Density, sigma: Density) -> Density:
    """Becke 1988 exchange."""
    beta = 0.0042
    rho43 = rho * jnp.cbrt(rho)
    x = 2 ** (1 / 3) * jnp.sqrt(sigma) / rho43
    gradient_part = -beta * x * x / (1 + 6 * beta * x * jnp.arcsinh(x))
    return _slater(rho, sigma) + 2 ** (-1 / 3) * rho43 * gradient_part


def _lyp(rho: Density, sigma: Density) -> Density:
    """Lee, Yang, Parr 1988 correlation in the gradient form of Miehlich et al. 1989."""
    a, b, c, d = 0.04918, 0.132, 0.2533, 0.349
    fermi = 0.3 * (3 * math.pi**2) ** (2 / 3)
    r = 1 / jnp.cbrt(rho)
    denominator = 1 / (1 + d * r)
    delta = c * r + d * r * denominator
    # exp(-c r) / (1 + d r) rho^(-11/3) rho^2 of the paper, with the powers folded together.
    weight = jnp.exp(-c * r) * denominator
    kinetic = fermi * rho - (3 + 7 * delta) * sigma * r**5 / 72
    return -a * denominator * rho - a * b * weight * kinetic


def _pbe_exchange(rho: Density, sigma: Density) -> Density:
    """Perdew, Burke, Ernzerhof 1996 exchange."""
    kappa, mu = 0.804, 0.06672455060314922 * math.pi**2 / 3
    # Reciprocals first: derivatives of a quotient by rho^(8/3) would overflow in float32.
    inverse_rho43 = 1 / (rho * jnp.cbrt(rho))
    s2 = sigma * inverse_rho43 * inverse_rho43 / (4 * (3 * math.pi**2) ** (2 / 3))
    enhancement = 1 + kappa - kappa / (1 + mu * s2 / kappa)
    return _slater(rho, sigma) * enhancement


def _pw92_per_electron(rho: Density) -> Density:
    """Perdew, Wang 1992 correlation per electron; parameters of libxc's lda_c_pw_mod."""
    a, alpha1 = 0.0310907, 0.21370
    b1, b2, b3, b4 = 7.5957, 3.5876, 1.6382, 0.49294
    rs = jnp.cbrt(3 / (4 * math.pi * rho))
    root = jnp.sqrt(rs)
    series = 2 * a * root * (b1 + root * (b2 + root * (b3 + root * b4)))
    return -2 * a * (1 + alpha1 * rs) * jnp.log1p(1 / series)


def _pbe_correlation(rho: Density, sigma: Density) -> Density:
    """Perdew, Burke, Ernzerhof 1996 correlation."""
    beta = 0.06672455060314922
    gamma = (1 - math.log(2)) / math.pi**2
    uniform = _pw92_per_electron(rho)
    fermi_wavevector = jnp.cbrt(3 * math.pi**2 * rho)
    inverse_rho = 1 / rho
    t2 = sigma * inverse_rho * inverse_rho * math.pi / (16 * fermi_wavevector)
    A = beta / gamma / jnp.expm1(-uniform / gamma)
    at2 = A * t2
    # (1 + At^2) / (1 + At^2 + A^2 t^4) t^2, written so that large t^2 doesn't overflow.
    ratio = t2 * (1 + at2) / (1 + at2 + at2 * at2)
    return rho * (uniform + gamma * jnp.log1p(beta / gamma * ratio))


@dataclass(frozen=True)
class Functional:
    """An exchange-correlation functional: weighted terms plus a share of exact exchange.

    `needs_gradient` says whether any term depends on the density's gradient; Hartree-Fock has no
    terms at all and so needs no grid.
    """

    name: str
    terms: tuple[tuple[float, EnergyDensity], ...]
    exact_exchange: float
    needs_gradient: bool
    pyscf_name: str


def _b3lyp(name: str, local_correlation: EnergyDensity, pyscf_name: str) -> Functional:
    """Stephens et al. 1994; the published text leaves the local correlation's variant open."""
    terms = ((0.08, _slater), (0.72, _b88), (0.81, _lyp), (0.19, local_correlation))
    return Functional(name, terms, 0.2, True, pyscf_name)


_FUNCTIONALS = {
    f.name: f
    for f in (
        Functional("hf", (), 1.0, False, "hf"),
        Functional("svwn", ((1.0, _slater), (1.0, _vwn5)), 0.0, False, "slater,vwn5"),
        Functional("pbe", ((1.0, _pbe_exchange), (1.0, _pbe_correlation)), 0.0, True, "pbe,pbe"),
        Functional("pbe0", ((0.75, _pbe_exchange), (1.0, _pbe_correlation)), 0.25, True, "pbe0"),
        _b3lyp("b3lyp", _vwn_rpa, "0.2*hf + 0.08*slater + 0.72*b88, 0.81*lyp + 0.19*vwn_rpa"),
        _b3lyp("b3lyp5", _vwn5, "b3lyp5"),
        _b3lyp("b3lypg", _vwn_rpa, "b3lypg"),
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


def energy_density(functional: Functional, rho: Density, sigma: Density) -> Density:
    """Exchange-correlation energy per volume, Hartree / Bohr^3.

    Parameters
    ----------
    functional
        What to evaluate; its exact exchange is not included.
    rho
        Electron density, 1 / Bohr^3.
    sigma
        Squared norm of the density's gradient, 1 / Bohr^8.
    """
    rho_floor, sigma_floor = _floors(rho.dtype)
    present = rho > rho_floor
    safe_rho = jnp.where(present, rho, 1.0)
    safe_sigma = jnp.where(present, jnp.maximum(sigma, sigma_floor), 1.0)
    total = jnp.zeros_like(rho)
    for weight, term in functional.terms:
        total = total + weight * term(safe_rho, safe_sigma)
    return jnp.where(present, total, 0.0)


def energy_density_and_potential(
    functional: Functional, rho: Density, sigma: Density
) -> tuple[Density, Density, Density]:
    """Energy per volume and its derivatives by density and by squared gradient."""

    def total(rho: Density, sigma: Density) -> tuple[Float[Array, ""], Density]:
        density = energy_density(functional, rho, sigma)
        return jnp.sum(density), density

    (_, energy), (by_rho, by_sigma) = jax.value_and_grad(total, (0, 1), has_aux=True)(rho, sigma)
    return energy, by_rho, by_sigma
