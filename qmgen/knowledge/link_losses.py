"""Losses of a true triple against corrupted ones, by their scores."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class LogSigmoid:
    """-½ [log σ(s⁺ + γ) + Σ w log σ(-s⁻ - γ)], for scores that are negative distances.

    Sun et al., arXiv:1902.10197, eq. 5 and 6: the weights are a softmax of the negatives' scores
    times the temperature, through which no gradient goes; all the same at temperature 0.
    """

    margin: float
    temperature: float = 1.0

    def __call__(
        self, positive: Float[Array, "*q"], negative: Float[Array, "*q n"]
    ) -> Float[Array, "*q"]:
        """Give the loss of each triple."""
        weights = jax.lax.stop_gradient(jax.nn.softmax(self.temperature * negative, axis=-1))
        of_negatives = jnp.sum(weights * jax.nn.log_sigmoid(-negative - self.margin), axis=-1)
        return -0.5 * (jax.nn.log_sigmoid(positive + self.margin) + of_negatives)


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy of the true entity among the sampled ones, as if they were all there are.

    Jean, Cho, Memisevic, Bengio, arXiv:1412.2007. Each of n negatives stands for (N - 1) / n of the
    N - 1 others.
    """

    entities: int

    def __call__(
        self, positive: Float[Array, "*q"], negative: Float[Array, "*q n"]
    ) -> Float[Array, "*q"]:
        """Give the loss of each triple."""
        shift = math.log(self.entities - 1) - math.log(negative.shape[-1])
        among = jnp.concatenate([positive[..., None], negative + shift], axis=-1)
        return jax.nn.logsumexp(among, axis=-1) - positive


LinkLoss = LogSigmoid | SampledSoftmax
