"""Powers of the density that functionals are written in, and functions with cheap derivatives.

A functional's time goes into roots, logarithms and divisions. So every power of a density is a
product of ρ and one root ρ^(-1/6), taken once, and the derivative rules here use what the value
already needed, where automatic differentiation would divide again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Points = Float[Array, "*points"]


@jax.custom_jvp
def reciprocal(x: Points) -> Points:
    """1 / x; the derivative takes no second division."""
    return 1 / x


@reciprocal.defjvp
def _reciprocal_jvp(primals: tuple[Points], tangents: tuple[Points]) -> tuple[Points, Points]:
    y = reciprocal(primals[0])
    return y, -tangents[0] * y * y


@jax.custom_jvp
def inverse_sixth_root(rho: Points) -> Points:
    """ρ^(-1/6) of a positive density; ρ^(-1/3) is its square and √r_s a multiple of it."""
    root = jnp.exp(jnp.log(rho) * (-1 / 6))
    # One step of Newton: in float32 the logarithm's rounding is too much for the 16th power.
    cube = root * root * root
    return root * (7 - rho * cube * cube) * (1 / 6)


@inverse_sixth_root.defjvp
def _inverse_sixth_root_jvp(
    primals: tuple[Points], tangents: tuple[Points]
) -> tuple[Points, Points]:
    root = inverse_sixth_root(primals[0])
    cube = root * root * root
    # One factor after the other: in float32 the product of all would overflow before it meets
    # the small factors that come from outside.
    return root, tangents[0] * (-1 / 6) * cube * cube * root


class Gas(NamedTuple):
    """A density without spin polarisation, at points where there is one.

    `rho` is positive, in 1 / Bohr^3, `root` its power -1/6, and `sigma` the squared norm of its
    gradient in 1 / Bohr^8.
    """

    rho: Points
    root: Points
    sigma: Points

    @property
    def inverse_cbrt(self) -> Points:
        """ρ^(-1/3)."""
        return self.root * self.root

    @property
    def cbrt(self) -> Points:
        """ρ^(1/3)."""
        r = self.inverse_cbrt
        return self.rho * r * r

    @property
    def reduced_gradient_squared(self) -> Points:
        """|∇ρ|² / ρ^(8/3)."""
        r = self.inverse_cbrt
        r2 = r * r
        r4 = r2 * r2
        return self.sigma * r4 * r4


def make_gas(rho: Points, sigma: Points) -> Gas:
    """Gas of a positive density and its squared gradient."""
    return Gas(rho, inverse_sixth_root(rho), sigma)


class Spins(NamedTuple):
    """What a functional that couples the two spins needs besides the gas of the total density.

    Pairs are of spin a and spin b. `doubled` holds for each spin the unpolarised gas of which it
    would be one half, of density 2ρ_s and squared gradient 4σ_ss; where the spin's density counts
    as none, `occupied` is False and that gas arbitrary. `share` is ρ_s / ρ, and `root` is
    (2ρ_s / ρ)^(1/3), that is (1 ± ζ)^(1/3). `sigma` holds aa, ab and bb.
    """

    doubled: tuple[Gas, Gas]
    occupied: tuple[Bool[Array, "*points"], Bool[Array, "*points"]]
    share: tuple[Points, Points]
    root: tuple[Points, Points]
    sigma: tuple[Points, Points, Points]
