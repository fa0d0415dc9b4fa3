"""Semi-local exchange, energy per volume of an unpolarised density.

Exchange acts between equal spins only, so that of a polarised density follows from these same
functions: E[ρ_a, ρ_b] = (E[2ρ_a] + E[2ρ_b]) / 2 (Oliver and Perdew 1979). Parameters are libxc's.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from qmgen.dft.density_variables import Gas, Points, reciprocal

# Per electron, times the cube root of the density.
_SLATER = -0.75 * (3 / math.pi) ** (1 / 3)
# |∇ρ_s|² / ρ_s^(8/3) of one spin, per |∇ρ|² / ρ^(8/3) of the unpolarised total.
_ONE_SPIN = 2 ** (2 / 3)


def slater(gas: Gas) -> Points:
    """Exchange of the uniform electron gas (Dirac 1930)."""
    return _SLATER * gas.rho * gas.cbrt


@jax.custom_jvp
def _x_arcsinh_x(u: Points) -> Points:
    """√u arcsinh √u, which is smooth at 0, where its factors are not."""
    small, safe = _split(u)
    x = jnp.sqrt(safe)
    return jnp.where(small, u - u * u / 6, x * jnp.log(x + jnp.sqrt(1 + safe)))


@_x_arcsinh_x.defjvp
def _x_arcsinh_x_jvp(primals: tuple[Points], tangents: tuple[Points]) -> tuple[Points, Points]:
    (u,) = primals
    value = _x_arcsinh_x(u)
    small, safe = _split(u)
    w = jnp.sqrt(1 + safe)
    slope = 0.5 * (value * w + safe) * reciprocal(safe * w)
    return value, tangents[0] * jnp.where(small, 1 - u / 3, slope)


def _split(u: Points) -> tuple[Bool[Array, "*points"], Points]:
    """Where two terms of the series in u are exact, and u with another value there."""
    small = u < math.sqrt(jnp.finfo(u.dtype).eps)
    return small, jnp.where(small, 1.0, u)


def b88(gas: Gas) -> Points:
    """Becke 1988, eq. 8."""
    beta = 0.0042
    x2 = _ONE_SPIN * gas.reduced_gradient_squared
    correction = -beta * x2 * reciprocal(1 + 6 * beta * _x_arcsinh_x(x2))
    return gas.rho * gas.cbrt * (_SLATER + 2 ** (-1 / 3) * correction)


def _pbe_form(gas: Gas, kappa: float) -> Points:
    mu = 0.06672455060314922 * math.pi**2 / 3
    s2 = gas.reduced_gradient_squared / (4 * (3 * math.pi**2) ** (2 / 3))
    return slater(gas) * (1 + kappa - kappa * reciprocal(1 + mu / kappa * s2))


def pbe_exchange(gas: Gas) -> Points:
    """Perdew, Burke, Ernzerhof 1996, eq. 14."""
    return _pbe_form(gas, 0.804)


def revpbe_exchange(gas: Gas) -> Points:
    """Zhang and Yang 1998: PBE with another κ."""
    return _pbe_form(gas, 1.245)


def _attenuation_series(nterms: int) -> list[float]:
    """Coefficients of y², y⁴, ... in the attenuation of a weak field, y = k_F / ω."""
    return [
        -4
        / 3
        * (-1) ** m
        * (
            2 / (math.factorial(m) * (2 * m + 1))
            - 1 / math.factorial(m + 1)
            - 0.5 / math.factorial(m + 2)
        )
        for m in range(1, nterms + 1)
    ]


def erfc_attenuation(y: Points) -> Points:
    """Short-range share of the uniform gas's exchange, of y = k_F / ω (Chai 2008, eq. 10).

    Up to y = 1 the closed form cancels; there its Taylor series, which converges everywhere,
    takes its place. Sixteen terms leave 1e-17.
    """
    dense = y > 1
    y2 = jnp.where(dense, 0.0, y * y)
    series = jnp.zeros_like(y)
    for coefficient in reversed(_attenuation_series(16)):
        series = (series + coefficient) * y2
    safe = jnp.where(dense, y, 2.0)
    inverse = reciprocal(safe)
    inverse2 = inverse * inverse
    bracket = math.sqrt(math.pi) * jax.scipy.special.erf(safe) + inverse * (
        (1 - 0.5 * inverse2) * jnp.exp(-safe * safe) - 1.5 + 0.5 * inverse2
    )
    return jnp.where(dense, 1 - 4 / 3 * inverse * bracket, series)


def b97_enhancement(gamma_s2: Points, coefficients: tuple[float, ...]) -> Points:
    """Becke 1997's power series in u = γs² / (1 + γs²)."""
    u = gamma_s2 * reciprocal(1 + gamma_s2)
    total = jnp.zeros_like(u)
    for coefficient in reversed(coefficients):
        total = total * u + coefficient
    return total


WB97X_OMEGA = 0.3


def wb97x_exchange(gas: Gas) -> Points:
    """Short-range exchange of ωB97X (Chai and Head-Gordon 2008, eqs. 9-12 and table I)."""
    coefficients = (0.842294, 0.726479, 1.04760, -5.70635, 13.2794)
    y = (3 * math.pi**2) ** (1 / 3) / WB97X_OMEGA * gas.cbrt
    enhancement = b97_enhancement(0.004 * _ONE_SPIN * gas.reduced_gradient_squared, coefficients)
    return slater(gas) * erfc_attenuation(y) * enhancement
