"""Small batches: a learning rate per sample, and how updates scatter with the batch.

Masters and Luschi, 1804.07612 ("Revisiting small batch training for deep neural networks"). A step
of SGD takes a base rate times the sum of the samples' gradients, so with a mean over m samples the
learning rate is m times the base rate. At a base rate that stays the same the expected progress of
an epoch is the same for all m, while the variance of updates grows with m.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from qmgen.errors import InputError

# Gradients of single samples that are in memory at a time.
_SAMPLES_AT_A_TIME = 32


def learning_rate(base_rate: float | Float[Array, ""], batch_size: int) -> float | Float[Array, ""]:
    """Rate for the mean over a batch at a base rate for each sample: m times as much.

    Raises
    ------
    InputError
        A batch has no sample.
    """
    if batch_size < 1:
        raise InputError(f"a batch has at least one sample, not {batch_size}")
    return base_rate * batch_size


def sgd(base_rate: float | Float[Array, ""], batch_size: int) -> optax.GradientTransformation:
    """SGD without momentum whose step is the base rate times the sum of the samples' gradients."""
    return optax.sgd(learning_rate(base_rate, batch_size))


def gradient_variance(
    loss: Callable[[PyTree, PyTree], Float[Array, ""]], parameters: PyTree, samples: PyTree
) -> Float[Array, ""]:
    """Trace of the covariance of single samples' gradients, E|g|^2 - |E g|^2.

    Parameters
    ----------
    loss
        Of the parameters and one sample.
    samples
        Arrays with the samples as the first axis.
    """

    def square(sample: PyTree) -> Array:
        return jnp.sum(ravel_pytree(jax.grad(loss)(parameters, sample))[0] ** 2)

    def mean_loss(parameters: PyTree) -> Array:
        losses = jax.lax.map(
            lambda sample: loss(parameters, sample), samples, batch_size=_SAMPLES_AT_A_TIME
        )
        return losses.mean()

    squares = jax.lax.map(square, samples, batch_size=_SAMPLES_AT_A_TIME)
    mean = ravel_pytree(jax.grad(mean_loss)(parameters))[0]
    return squares.mean() - jnp.sum(mean**2)


def update_variance(
    variance: float | Float[Array, ""], base_rate: float, batch_size: int, samples: int
) -> float | Float[Array, ""]:
    """Trace of the covariance of a step of `sgd` over the choice of its batch.

    e^2 m tr C (N - m) / (N - 1), for m of N samples without repetition; of few from many it is
    proportional to m.

    Parameters
    ----------
    variance
        tr C, `gradient_variance` of all samples.

    Raises
    ------
    InputError
        There are no two samples, or fewer than in a batch.
    """
    if samples < 2 or not 1 <= batch_size <= samples:
        raise InputError(f"no batch of {batch_size} is drawn from {samples} samples")
    left = (samples - batch_size) / (samples - 1)
    return base_rate**2 * batch_size * variance * left
