"""Batch normalisation over another number of samples than an update takes.

Hoffer et al., 1705.08741, as Masters and Luschi, 1804.07612, use it: the batch is cut
into groups, each of which is normalised by itself, so that the group's size and the batch's can be
chosen each by its own merits. A group as large as the batch is batch normalisation.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qmgen.errors import InputError


class Moments(NamedTuple):
    """Running mean and variance by channel, which normalise in use."""

    mean: Float[Array, " channels"]
    variance: Float[Array, " channels"]


class GhostBatchNorm(eqx.Module):
    """Normalise by channel over groups of samples, then scale and shift.

    Attributes
    ----------
    gain, shift
        Learnt.
    group_size
        Samples of a group.
    decay
        Of the running moments, with each group.
    epsilon
        Added to variances.
    """

    gain: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    group_size: int = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self, channels: int, group_size: int, decay: float = 0.9, epsilon: float = 1e-5
    ) -> None:
        if group_size < 2:
            raise InputError(f"{group_size} samples have no variance; take at least 2 a group")
        self.gain, self.shift = jnp.ones(channels), jnp.zeros(channels)
        self.group_size, self.decay, self.epsilon = group_size, decay, epsilon

    def moments(self) -> Moments:
        """Running moments before the first step."""
        return Moments(jnp.zeros_like(self.gain), jnp.ones_like(self.gain))

    def __call__(
        self, x: Float[Array, "batch *space channels"], moments: Moments
    ) -> tuple[Float[Array, "batch *space channels"], Moments]:
        """Outputs in training, and the running moments after all groups, one after the other.

        Raises
        ------
        InputError
            Groups don't fill the batch.
        """
        if len(x) % self.group_size:
            raise InputError(f"groups of {self.group_size} don't fill a batch of {len(x)}")
        groups = x.reshape(-1, self.group_size, *x.shape[1:])
        axes = tuple(range(1, groups.ndim - 1))
        mean, variance = groups.mean(axes), groups.var(axes)
        count = groups[0].size // x.shape[-1]
        across = (slice(None), *(None for _ in axes), slice(None))
        normal = (groups - mean[across]) * lax.rsqrt(variance[across] + self.epsilon)
        # As if the groups were batches in a row, and with the unbiased variance.
        weights = (1 - self.decay) * self.decay ** jnp.arange(len(groups) - 1, -1, -1)
        rest = self.decay ** len(groups)
        unbiased = variance * count / (count - 1)
        new = Moments(
            rest * moments.mean + lax.stop_gradient(weights @ mean),
            rest * moments.variance + lax.stop_gradient(weights @ unbiased),
        )
        return self.gain * normal.reshape(x.shape) + self.shift, new

    def in_use(
        self, x: Float[Array, "*batch channels"], moments: Moments
    ) -> Float[Array, "*batch channels"]:
        """Outputs with the running moments."""
        scale = self.gain * lax.rsqrt(moments.variance + self.epsilon)
        return (x - moments.mean) * scale + self.shift
