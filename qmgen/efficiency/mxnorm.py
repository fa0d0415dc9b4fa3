"""RMS normalisation whose RMS comes from the block maxima that a cast needs anyway.

McLean et al., MXNorm, 2603.13180.
"""

import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmgen.efficiency.formats import MXFP8, Format, ScaleFormat
from qmgen.efficiency.quantise import (
    Quantised,
    block_statistics,
    dequantise,
    quantise,
    scales_for,
)
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.errors import InputError


def gaussian_factor(block: int, power: float) -> float:
    """RMS of normal numbers over the power mean of the absmax of blocks of them, E[m^p]^(-1/p)."""
    m = np.linspace(0.0, 12.0, 24_001)
    below = np.array([math.erf(value / math.sqrt(2)) for value in m]) ** block
    moment = np.trapezoid(power * m ** (power - 1) * (1 - below), m)
    return float(moment ** (-1 / power))


def _block_size(x: Array, format: Format) -> int:
    if not isinstance(format.scale, ScaleFormat) or format.scale.statistic != "absmax":
        raise InputError("MXNorm reads the RMS off block maxima; use a format with absmax scales")
    *others, block = format.granularity.block_shape(x.shape)
    if set(others) - {1} or x.shape[-1] % block:
        raise InputError(
            f"MXNorm needs whole blocks along the last axis, which {x.shape[-1]} numbers in blocks "
            f"of {block} are not; choose another format or width"
        )
    return block


def _maxima_and_rms(x: Array, format: Format, power: float) -> tuple[Array, Array]:
    block = _block_size(x, format)
    assert isinstance(format.scale, ScaleFormat)
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    maxima = block_statistics(x, format, format.scale)
    mean = jnp.mean(maxima**power, -1, keepdims=True)
    return maxima, gaussian_factor(block, power) * mean ** (1 / power)


@partial(jax.jit, static_argnames=("format", "power"))
def estimated_rms(
    x: Float[Array, "*batch width"], format: Format = MXFP8, power: float = 2.0
) -> Float[Array, "*batch"]:
    """RMS of each row as `mxnorm_cast` estimates it, c (mean_k m_k^p)^(1/p).

    Raises
    ------
    InputError
        As `mxnorm_cast`.
    """
    return _maxima_and_rms(x, format, power)[1][..., 0]


@partial(jax.jit, static_argnames=("format", "power", "epsilon"))
def mxnorm_cast(
    x: Float[Array, "*batch width"],
    format: Format = MXFP8,
    power: float = 2.0,
    epsilon: float = 1e-6,
) -> Quantised:
    """Normalise each row and cast it, in one reading of x.

    The RMS is c (mean_k m_k^p)^(1/p) + epsilon of the absmax m_k of the blocks, with the c of
    normal numbers. Longer tails make it too large (1.25 times for Laplace), which a gain learns.

    Parameters
    ----------
    format
        With absmax scales of blocks along the last axis. A tensor scale isn't needed, as what is
        normalised fits, and is left out.
    power
        p. Blocks weigh evenly with 1; with 2 the output is at most sqrt(blocks) / c.

    Raises
    ------
    InputError
        Another kind of format, or rows that aren't whole blocks.
    """
    maxima, rms = _maxima_and_rms(x, format, power)
    rms = rms + epsilon
    scales = scales_for(maxima / rms, format)
    codes = quantise(x, format, scales=scales * rms).codes
    return Quantised(codes, scales, None, format)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _normalise(x: Array, format: Format, power: float, epsilon: float) -> Array:
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    return dequantise(mxnorm_cast(x, format, power, epsilon), dtype).astype(x.dtype)


def _rms_normalise(x: Array, epsilon: float) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + epsilon**2)


@_normalise.defjvp
def _of_rms_norm(
    format: Format, power: float, epsilon: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    value = _normalise(primals[0], format, power, epsilon)
    _, tangent = jax.jvp(partial(_rms_normalise, epsilon=epsilon), primals, tangents)
    return value, tangent


@partial(jax.jit, static_argnames=("format", "power", "epsilon"))
def mxnorm(
    x: Float[Array, "*batch width"],
    format: Format = MXFP8,
    power: float = 2.0,
    epsilon: float = 1e-6,
) -> Float[Array, "*batch width"]:
    """The values of `mxnorm_cast` in x's dtype; the gradient is that of plain RMSNorm.

    Raises
    ------
    InputError
        As `mxnorm_cast`.
    """
    return _normalise(x, format, power, epsilon)


class MXNorm(eqx.Module):
    """In place of `equinox.nn.RMSNorm`, with a gain and without bias."""

    weight: Float[Array, " width"]
    format: Format = eqx.field(static=True)

    def __init__(self, width: int, format: Format = MXFP8) -> None:
        self.weight = jnp.ones(width)
        self.format = format

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalise along the last axis."""
        return mxnorm(x, self.format) * self.weight

    def into(
        self, x: Float[Array, "*batch width"], weights: Float[Array, "width outputs"]
    ) -> Float[Array, "*batch outputs"]:
        """Normalise and multiply: the gain goes into the weights, so that x is cast only once."""
        formats = MatmulFormats(weights=self.format)
        return quantised_matmul(mxnorm(x, self.format), self.weight[:, None] * weights, formats)
