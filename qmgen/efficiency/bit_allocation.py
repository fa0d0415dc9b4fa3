"""How many bits each tensor of a model should have, from what the model's output owes to it.

Orr et al., 2505.12988: small changes d of the parameters move the model's distribution by
KL = 1/2 sum F_ii d_i^2, with F the Fisher information. At a format's fixed relative error this is
least if a tensor's bits follow log2 RMS(parameters) + 1/2 log2 mean F.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, UInt

from qmgen.errors import InputError

Values = Float[np.ndarray, "..."] | Float[Array, "..."]

_HALVINGS = 100


def class_log_likelihood(
    logits: Float[Array, " classes"], key: Key[Array, ""] | UInt[Array, "2"]
) -> Float[Array, ""]:
    """Log-likelihood of a class drawn from the model that has these logits."""
    drawn = jax.random.categorical(key, jax.lax.stop_gradient(logits))
    return jax.nn.log_softmax(logits)[drawn]


def normal_log_likelihood(
    mean: Float[Array, "..."], spread: float, key: Key[Array, ""] | UInt[Array, "2"]
) -> Float[Array, ""]:
    """Log-likelihood, but for a constant, of labels drawn around a regression's output."""
    drawn = spread * jax.random.normal(key, mean.shape, mean.dtype)
    label = jax.lax.stop_gradient(mean) + drawn
    return -0.5 * jnp.sum(((label - mean) / spread) ** 2)


def sampled_fisher(
    log_likelihood: Callable[[PyTree, PyTree, Array], Float[Array, ""]],
    parameters: PyTree,
    examples: PyTree,
    key: Key[Array, ""] | UInt[Array, "2"],
    draws: int = 1,
) -> PyTree:
    """Diagonal of the Fisher information, the mean over examples and labels of squared gradients.

    The labels are the model's, not the data's: with those the squares would measure the error.

    Parameters
    ----------
    log_likelihood
        Of (parameters, one example, key): that of a label drawn from the model with the key, as
        `class_log_likelihood` of the model's logits gives it.
    parameters
        Pytree of arrays.
    examples
        Pytree whose leaves have a leading axis of examples.
    draws
        Labels of each example.

    Returns
    -------
    pytree
        As `parameters`, of what one example tells on average.
    """
    gradient = jax.grad(log_likelihood)

    def one(example: PyTree, key: Array) -> PyTree:
        keys = jax.random.split(key, draws)
        squares = jax.vmap(lambda k: jax.tree.map(jnp.square, gradient(parameters, example, k)))
        return jax.tree.map(lambda square: square.mean(0), squares(keys))

    def add(total: PyTree, item: tuple[PyTree, Array]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, one(*item)), None

    count = len(jax.tree.leaves(examples)[0])
    start = jax.tree.map(jnp.zeros_like, parameters)
    total, _ = jax.lax.scan(add, start, (examples, jax.random.split(key, count)))
    return jax.tree.map(lambda sums: sums / count, total)


def mean_of_squares(
    gradients: Iterable[Mapping[str, Values]],
) -> dict[str, Float[np.ndarray, "..."]]:
    """Diagonal of the Fisher information from gradients of any library.

    Parameters
    ----------
    gradients
        One example each: gradients, by tensor, of the log-likelihood of a label that was drawn from
        the model.

    Raises
    ------
    InputError
        There are none.
    """
    sums: dict[str, np.ndarray] = {}
    count = 0
    for count, named in enumerate(gradients, 1):  # noqa: B007
        for name, gradient in named.items():
            square = np.square(np.asarray(gradient, np.float64))
            sums[name] = sums[name] + square if name in sums else square
    if not count:
        raise InputError("the Fisher information needs at least one example")
    return {name: total / count for name, total in sums.items()}


def predicted_kl(fisher: Mapping[str, Values], change: Mapping[str, Values]) -> float:
    """KL divergence, nats an example, that a small change of parameters makes: 1/2 sum F d^2.

    It leaves out what different parameters do together, which averages out for changes that have
    nothing to do with each other.
    """
    return 0.5 * sum(
        float(np.sum(np.asarray(fisher[name]) * np.square(d))) for name, d in change.items()
    )


@dataclass(frozen=True)
class Sensitivity:
    """What decides about a tensor's bits.

    Attributes
    ----------
    size
        Numbers in it.
    rms
        Root mean square of these.
    fisher
        Mean of the Fisher information's diagonal over them.
    """

    size: int
    rms: float
    fisher: float

    @property
    def wanted(self) -> float:
        """Bits beyond those of a tensor of unit RMS and information; -infinity if it's all zero."""
        if self.rms <= 0 or self.fisher <= 0:
            return -math.inf
        return math.log2(self.rms) + 0.5 * math.log2(self.fisher)


def sensitivities(
    tensors: Mapping[str, Values], fisher: Mapping[str, Values]
) -> dict[str, Sensitivity]:
    """Size, RMS and mean information of each tensor."""
    return {
        name: Sensitivity(
            size=x.size,
            rms=float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))),
            fisher=float(np.mean(np.asarray(fisher[name], np.float64))),
        )
        for name, x in tensors.items()
    }


def allocate_bits(
    tensors: Mapping[str, Sensitivity],
    mean_bits: float,
    *,
    floor: float = 2.0,
    ceiling: float = 16.0,
    whole: bool = False,
) -> dict[str, float]:
    """Share bits out among tensors: b = b0 + log2 RMS + 1/2 log2 mean F, within bounds.

    Parameters
    ----------
    mean_bits
        Over all numbers, scales not counted. It is met within rounding; whole bits may stay below
        it by less than one bit of a tensor.
    floor, ceiling
        Fewest and most bits of a tensor. Floats want 3 at least.
    whole
        Round, for formats that aren't compressed afterwards.

    Raises
    ------
    InputError
        There are no tensors, or the mean is out of the bounds.
    """
    if not floor <= mean_bits <= ceiling:
        raise InputError(f"a mean of {mean_bits} bits isn't between {floor} and {ceiling}")
    if not tensors:
        raise InputError("there are no tensors to share bits among")
    sizes = np.array([t.size for t in tensors.values()], np.float64)
    wanted = np.array([t.wanted for t in tensors.values()])
    finite = wanted[np.isfinite(wanted)]
    if not finite.size:
        return dict.fromkeys(tensors, float(math.floor(mean_bits) if whole else mean_bits))
    low, high = floor - float(finite.max()) - 1, ceiling - float(finite.min()) + 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        bits = _bits(middle + wanted, floor, ceiling, whole)
        if sizes @ bits <= mean_bits * sizes.sum() * (1 + 1e-12):
            low = middle
        else:
            high = middle
    bits = _bits(low + wanted, floor, ceiling, whole)
    return dict(zip(tensors, bits.tolist(), strict=True))


def _bits(
    wanted: Float[np.ndarray, " n"], floor: float, ceiling: float, whole: bool
) -> Float[np.ndarray, " n"]:
    return np.clip(np.rint(wanted) if whole else wanted, floor, ceiling)
