"""Semi-local correlation, energy per volume; parameters are libxc's.

A term takes the gas of the total density and the two spins, or None for spins that are equal
everywhere, which leaves out what only polarisation needs.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from qmgen.dft.density_variables import Gas, Points, Spins, reciprocal
from qmgen.dft.exchange import b97_enhancement

# √r_s of the total density, per ρ^(-1/6).
_SQRT_RS = (3 / (4 * math.pi)) ** (1 / 6)
# f''(0) of the polarisation function below.
_CURVATURE = 4 / (9 * (2 ** (1 / 3) - 1))


def _polarisation_function(spins: Spins) -> Points:
    """f(ζ) of von Barth and Hedin 1972: 0 without polarisation, 1 with the full one."""
    a2, b2 = (root * root for root in spins.root)
    return (a2 * a2 + b2 * b2 - 2) / (2 ** (4 / 3) - 2)


def _interpolate(
    spins: Spins, para: Points, ferro: Points, stiffness: Points, curvature: float
) -> Points:
    """Energy per electron between its limits in ζ (Vosko, Wilk, Nusair 1980, Perdew, Wang 1992)."""
    f = _polarisation_function(spins)
    zeta = spins.share[0] - spins.share[1]
    zeta4 = zeta**4
    return para + f * ((1 - zeta4) / curvature * stiffness + zeta4 * (ferro - para))


@dataclass(frozen=True)
class _VWNFit:
    A: float
    b: float
    c: float
    x0: float


_VWN5 = (
    _VWNFit(0.0310907, 3.72744, 12.9352, -0.10498),
    _VWNFit(0.01554535, 7.06042, 18.0578, -0.32500),
    _VWNFit(-1 / (6 * math.pi**2), 1.13107, 13.0045, -0.0047584),
)
_VWN_RPA = (
    _VWNFit(0.0310907, 13.0720, 42.7198, -0.409286),
    _VWNFit(0.01554535, 20.1231, 101.578, -0.743294),
)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _vwn_per_electron(x: Points, fit: _VWNFit) -> Points:
    """Vosko, Wilk, Nusair 1980, eq. 4.4, of x = √r_s."""
    b, c, x0 = fit.b, fit.c, fit.x0
    q = math.sqrt(4 * c - b * b)
    share = b * x0 / (x0 * x0 + b * x0 + c)
    inverse = reciprocal(x * x + b * x + c)
    angle = 2 / q * (b - share * (b + 2 * x0)) * jnp.arctan(q / (2 * x + b))
    return fit.A * (
        jnp.log(x * x * inverse) + angle - share * jnp.log((x - x0) * (x - x0) * inverse)
    )


@_vwn_per_electron.defjvp
def _vwn_per_electron_jvp(
    fit: _VWNFit, primals: tuple[Points], tangents: tuple[Points]
) -> tuple[Points, Points]:
    (x,) = primals
    b, c, x0 = fit.b, fit.c, fit.x0
    distance = x - x0
    denominator = x * distance * (x * x + b * x + c)
    slope = 2 * fit.A * (c * distance - b * x0 * x) * reciprocal(denominator)
    return _vwn_per_electron(x, fit), tangents[0] * slope


def vwn5(gas: Gas, spins: Spins | None) -> Points:
    """VWN's fit V, to Monte Carlo data."""
    x = _SQRT_RS * gas.root
    if spins is None:
        return gas.rho * _vwn_per_electron(x, _VWN5[0])
    para, ferro, stiffness = (_vwn_per_electron(x, fit) for fit in _VWN5)
    return gas.rho * _interpolate(spins, para, ferro, stiffness, _CURVATURE)


def vwn_rpa(gas: Gas, spins: Spins | None) -> Points:
    """VWN's fit to the random-phase approximation, with von Barth and Hedin's interpolation."""
    x = _SQRT_RS * gas.root
    para = _vwn_per_electron(x, _VWN_RPA[0])
    if spins is None:
        return gas.rho * para
    ferro = _vwn_per_electron(x, _VWN_RPA[1])
    return gas.rho * (para + _polarisation_function(spins) * (ferro - para))


@dataclass(frozen=True)
class _PW92Fit:
    a: float
    alpha: float
    beta: tuple[float, float, float, float]


_PW92_BETA = (
    (7.5957, 3.5876, 1.6382, 0.49294),
    (14.1189, 6.1977, 3.3662, 0.62517),
    (10.357, 3.6231, 0.88026, 0.49671),
)


def _pw92_fits(*a: float) -> tuple[_PW92Fit, ...]:
    alphas = (0.21370, 0.20548, 0.11125)
    return tuple(_PW92Fit(*fit) for fit in zip(a, alphas, _PW92_BETA, strict=True))


# As printed, which the B97 family took; and with more digits, as in PBE's own program.
_PW92 = _pw92_fits(0.031091, 0.015545, 0.016887)
_PW92_MODIFIED = _pw92_fits(0.0310907, 0.01554535, 0.0168869)
_PRINTED_CURVATURE = 1.709921


def _pw92_limit(x: Points, fit: _PW92Fit) -> Points:
    """Perdew, Wang 1992, eq. 10, of x = √r_s; the third fit gives minus the stiffness."""
    b1, b2, b3, b4 = fit.beta
    series = 2 * fit.a * x * (b1 + x * (b2 + x * (b3 + x * b4)))
    return -2 * fit.a * (1 + fit.alpha * x * x) * jnp.log1p(reciprocal(series))


def _pw92_per_electron(
    gas: Gas, spins: Spins | None, fits: tuple[_PW92Fit, ...], curvature: float
) -> Points:
    x = _SQRT_RS * gas.root
    if spins is None:
        return _pw92_limit(x, fits[0])
    para, ferro, minus_stiffness = (_pw92_limit(x, fit) for fit in fits)
    return _interpolate(spins, para, ferro, -minus_stiffness, curvature)


def lyp(gas: Gas, spins: Spins | None) -> Points:
    """Lee, Yang, Parr 1988 in the gradient form of Miehlich et al. 1989."""
    a, b, c, d = 0.04918, 0.132, 0.2533, 0.349
    fermi = 0.3 * (3 * math.pi**2) ** (2 / 3)
    r = gas.inverse_cbrt
    denominator = reciprocal(1 + d * r)
    delta = c * r + d * r * denominator
    # The paper's ω ρ² is this times ρ^(-5/3).
    weight = jnp.exp(-c * r) * denominator
    r2 = r * r
    r5 = r * r2 * r2
    if spins is None:
        kinetic = fermi * gas.rho - (3 + 7 * delta) / 72 * gas.sigma * r5
        return -a * denominator * gas.rho - a * b * weight * kinetic
    (share_a, share_b), (sigma_aa, sigma_ab, sigma_bb) = spins.share, spins.sigma
    pairs = share_a * share_b

    def same_spin(own: Points, other: Points) -> Points:
        return pairs * (1 - 3 * delta - (delta - 11) * own) / 9 - other * other

    gradient = (
        same_spin(share_a, share_b) * sigma_aa
        + (pairs * (47 - 7 * delta) - 12) / 9 * sigma_ab
        + same_spin(share_b, share_a) * sigma_bb
    )
    # 2^(8/3) (ρ_a^(8/3) + ρ_b^(8/3)) / ρ^(8/3)
    powers = sum((root**8 for root in spins.root), jnp.zeros_like(r))
    kinetic = 2 * fermi * pairs * powers * gas.rho + r5 * gradient
    return -4 * a * denominator * pairs * gas.rho - a * b * weight * kinetic


def pbe_correlation(gas: Gas, spins: Spins | None) -> Points:
    """Perdew, Burke, Ernzerhof 1996, eqs. 3, 7 and 8."""
    beta = 0.06672455060314922
    gamma = (1 - math.log(2)) / math.pi**2
    uniform = _pw92_per_electron(gas, spins, _PW92_MODIFIED, _CURVATURE)
    r = gas.inverse_cbrt
    r3 = r * r * r
    t2 = math.pi / (16 * (3 * math.pi**2) ** (1 / 3)) * gas.sigma * r3 * r3 * r
    exponent = uniform * (-1 / gamma)
    if spins is None:
        scale: Points | float = gamma
    else:
        phi = 0.5 * (spins.root[0] ** 2 + spins.root[1] ** 2)
        inverse_phi = reciprocal(phi)
        t2 = t2 * inverse_phi * inverse_phi
        exponent = exponent * inverse_phi**3
        scale = gamma * phi**3
    at2 = beta / gamma * reciprocal(jnp.expm1(exponent)) * t2
    # (1 + At²) / (1 + At² + A²t⁴) t², written so that large t² doesn't overflow.
    ratio = t2 * (1 + at2) * reciprocal(1 + at2 + at2 * at2)
    return gas.rho * (uniform + scale * jnp.log1p(beta / gamma * ratio))


def _same_spin_uniform(gas: Gas) -> Points:
    """Correlation of the two spins of an unpolarised gas each with itself (Stoll et al. 1980)."""
    # The density of one spin is half of the gas's.
    return gas.rho * _pw92_limit(2 ** (1 / 6) * _SQRT_RS * gas.root, _PW92[1])


def _one_spin_s2(gas: Gas) -> Points:
    """|∇ρ_s|² / ρ_s^(8/3) of one spin of an unpolarised gas."""
    return 2 ** (2 / 3) * gas.reduced_gradient_squared


def wb97x_same_spin(gas: Gas) -> Points:
    """Correlation between equal spins of ωB97X (Chai and Head-Gordon 2008, table I).

    Of an unpolarised density, from which a polarised one's follows as exchange does.
    """
    coefficients = (1.0, -4.33879, 18.2308, -31.7430, 17.2901)
    return _same_spin_uniform(gas) * b97_enhancement(0.2 * _one_spin_s2(gas), coefficients)


def wb97x_opposite_spin(gas: Gas, spins: Spins | None) -> Points:
    """Correlation between opposite spins of ωB97X (Chai and Head-Gordon 2008, table I)."""
    coefficients = (1.0, 2.37031, -11.3995, 6.58405, -3.78132)
    total = gas.rho * _pw92_per_electron(gas, spins, _PW92, _PRINTED_CURVATURE)
    if spins is None:
        same_spin, s2 = _same_spin_uniform(gas), _one_spin_s2(gas)
    else:
        same_spin, s2 = jnp.zeros_like(total), jnp.zeros_like(total)
        for doubled, occupied in zip(spins.doubled, spins.occupied, strict=True):
            same_spin += jnp.where(occupied, 0.5 * _same_spin_uniform(doubled), 0.0)
            s2 += jnp.where(occupied, 0.5 * _one_spin_s2(doubled), 0.0)
    return (total - same_spin) * b97_enhancement(0.006 * s2, coefficients)
