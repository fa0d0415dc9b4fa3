"""Normalisation without gains and biases, of channels-last arrays.

Those that leave the batch alone differ only in how many channels share a mean and a variance: all
in layer norm (Ba et al., 1607.06450), one in instance norm (Ulyanov et al., 1607.08022), those of a
group in group norm (Wu and He, 1803.08494). Batch norm (Ioffe and Szegedy, 1502.03167) is here with
the statistics of the batch itself, as the one that others are measured against.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.efficiency.networks.grouped import check_groups
from qmgen.errors import InputError


def group_norm(
    x: Float[Array, "*shape channels"], groups: int, spatial_axes: int = 0, epsilon: float = 1e-5
) -> Float[Array, "*shape channels"]:
    """Zero mean and unit variance over spatial axes and the channels of a group, (x - mu) / sigma.

    Parameters
    ----------
    groups
        1 is layer norm; as many as channels are instance norm.
    spatial_axes
        How many of the axes before the last belong to the instance; all before are the batch.

    Raises
    ------
    InputError
        Channels that aren't in whole groups, or fewer axes than that.
    """
    check_groups(x.shape[-1], x.shape[-1], groups)
    if x.ndim < spatial_axes + 1:
        raise InputError(f"values of shape {x.shape} don't have {spatial_axes} spatial axes")
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(x.ndim - 1 - spatial_axes, x.ndim - 1), x.ndim)
    return _standardise(grouped, axes, epsilon).reshape(x.shape)


def layer_norm(
    x: Float[Array, "*shape channels"], spatial_axes: int = 0, epsilon: float = 1e-5
) -> Float[Array, "*shape channels"]:
    """Group norm with all channels in one group.

    Raises
    ------
    InputError
        As `group_norm`.
    """
    return group_norm(x, 1, spatial_axes, epsilon)


def instance_norm(
    x: Float[Array, "*shape channels"], spatial_axes: int, epsilon: float = 1e-5
) -> Float[Array, "*shape channels"]:
    """Group norm with each channel by itself.

    Raises
    ------
    InputError
        As `group_norm`.
    """
    return group_norm(x, x.shape[-1], spatial_axes, epsilon)


def batch_norm(
    x: Float[Array, "*shape channels"], epsilon: float = 1e-5
) -> Float[Array, "*shape channels"]:
    """Zero mean and unit variance of each channel over everything else, the batch included."""
    return _standardise(x, tuple(range(x.ndim - 1)), epsilon)


def _standardise(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    variance = jnp.var(x, axes, keepdims=True)
    return (x - jnp.mean(x, axes, keepdims=True)) * jax.lax.rsqrt(variance + epsilon)
