"""Losses of a true triple against corrupted ones, by their scores.

Each takes the scores of true triples and of their negatives, and perhaps which negatives count; the
others are as if they were not there, and a triple without any is compared with nothing.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# In place of a score: finite, so that gradients are, too.
_NEVER = -1e30


@dataclass(frozen=True)
class LogSigmoid:
    """-½ [log σ(s⁺ + γ) + Σ w log σ(-s⁻ - γ)], for scores that are negative distances.

    Sun et al., arXiv:1902.10197, eq. 5 and 6: the weights are a softmax of the negatives' scores
    times the temperature, through which no gradient goes; all the same at temperature 0.
    """

    margin: float
    temperature: float = 1.0

    def __call__(
        self,
        positive: Float[Array, "*q"],
        negative: Float[Array, "*q n"],
        kept: Bool[Array, "*q n"] | None = None,
    ) -> Float[Array, "*q"]:
        """Give the loss of each triple."""
        strength = self.temperature * negative
        if kept is None:
            weights = jax.nn.softmax(strength, axis=-1)
        else:
            # Times once more, for triples that keep none.
            weights = kept * jax.nn.softmax(jnp.where(kept, strength, _NEVER), axis=-1)
        weights = jax.lax.stop_gradient(weights)
        of_negatives = jnp.sum(weights * jax.nn.log_sigmoid(-negative - self.margin), axis=-1)
        return -0.5 * (jax.nn.log_sigmoid(positive + self.margin) + of_negatives)


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy of the true entity among the sampled ones, as if they were all there are.

    Jean, Cho, Memisevic, Bengio, arXiv:1412.2007. Each of n negatives stands for (N - 1) / n of the
    N - 1 others. Negatives of one type stand for the others of that type; N is then the number of
    these.
    """

    entities: int

    def __call__(
        self,
        positive: Float[Array, "*q"],
        negative: Float[Array, "*q n"],
        kept: Bool[Array, "*q n"] | None = None,
    ) -> Float[Array, "*q"]:
        """Give the loss of each triple."""
        if kept is None:
            others = negative + (math.log(self.entities - 1) - math.log(negative.shape[-1]))
        else:
            count = jnp.maximum(jnp.sum(kept, axis=-1, keepdims=True), 1)
            others = jnp.where(
                kept, negative + math.log(self.entities - 1) - jnp.log(count), _NEVER
            )
        among = jnp.concatenate([positive[..., None], others], axis=-1)
        return jax.nn.logsumexp(among, axis=-1) - positive


LinkLoss = LogSigmoid | SampledSoftmax
