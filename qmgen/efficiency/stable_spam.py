"""StableSPAM, an Adam for gradients that spike, as low precision makes them.

Huang et al., 2502.17055: for each array of weights, what is larger than its usual maximum is scaled
down (AdaClip), the norm is brought to its usual size (AdaGN), and Adam's moments start anew from
time to time (MoRet).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from qmgen.efficiency.fp4_training import FP4Recipe
from qmgen.errors import InputError

# Authors' guard against a division by zero.
_EPSILON = 1e-8


class SpikeState(NamedTuple):
    """Steps so far, and a running average of each array's largest magnitude."""

    steps: Int[Array, ""]
    largest: PyTree


class NormState(NamedTuple):
    """Steps so far, and running averages of each array's norm and of its square."""

    steps: Int[Array, ""]
    mean: PyTree
    square: PyTree


class RestartState(NamedTuple):
    """Steps so far, and the state of what restarts."""

    steps: Int[Array, ""]
    inner: Any


def _zeros(parameters: PyTree) -> PyTree:
    return jax.tree.map(lambda _: jnp.float32(0.0), parameters)


def _corrected(average: Float[Array, ""], decay: float, steps: Int[Array, ""]) -> Array:
    """An average that started at 0, without that start."""
    return average / (1 - decay ** steps.astype(jnp.float32))


def clip_spikes(decay: float = 0.999) -> optax.GradientTransformation:
    """Scale numbers above the running average of their array's largest magnitude down to it.

    g becomes g T / max|g| where |g| > T; T is the average, this step's maximum included.
    """

    def init(parameters: PyTree) -> SpikeState:
        return SpikeState(jnp.int32(0), _zeros(parameters))

    def update(
        gradients: PyTree, state: SpikeState, parameters: PyTree | None = None
    ) -> tuple[PyTree, SpikeState]:
        steps = state.steps + 1
        now = jax.tree.map(lambda g: jnp.max(jnp.abs(g)).astype(jnp.float32), gradients)
        largest = jax.tree.map(lambda t, m: decay * t + (1 - decay) * m, state.largest, now)

        def clip(g: Array, t: Array, m: Array) -> Array:
            limit = _corrected(t, decay, steps)
            return jnp.where(jnp.abs(g) > limit, g / m * limit, g).astype(g.dtype)

        return jax.tree.map(clip, gradients, largest, now), SpikeState(steps, largest)

    return optax.GradientTransformation(init, update)


def steady_norm(
    decay: float = 0.7, square_decay: float = 0.9, epsilon: float = _EPSILON
) -> optax.GradientTransformation:
    """Give each array the norm m / sqrt(v), running averages of its norm and of the norm's square.

    It is 1 where norms stay the same.
    """

    def init(parameters: PyTree) -> NormState:
        return NormState(jnp.int32(0), _zeros(parameters), _zeros(parameters))

    def update(
        gradients: PyTree, state: NormState, parameters: PyTree | None = None
    ) -> tuple[PyTree, NormState]:
        steps = state.steps + 1
        norms = jax.tree.map(
            lambda g: jnp.sqrt(jnp.sum(jnp.square(g.astype(jnp.float32)))), gradients
        )
        mean = jax.tree.map(lambda m, n: decay * m + (1 - decay) * n, state.mean, norms)
        square = jax.tree.map(
            lambda v, n: square_decay * v + (1 - square_decay) * n**2, state.square, norms
        )

        def scale(g: Array, n: Array, m: Array, v: Array) -> Array:
            root = jnp.sqrt(_corrected(v, square_decay, steps))
            wanted = _corrected(m, decay, steps) / (root + epsilon)
            return jnp.where(n > 0, g / n * wanted, g).astype(g.dtype)

        scaled = jax.tree.map(scale, gradients, norms, mean, square)
        return scaled, NormState(steps, mean, square)

    return optax.GradientTransformation(init, update)


def restarting(inner: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """Start a transformation's state anew before each step whose number `every` divides.

    Raises
    ------
    InputError
        `every` is below 1.
    """
    if every < 1:
        raise InputError(f"moments restart after at least one step, not after {every}")

    def init(parameters: PyTree) -> RestartState:
        return RestartState(jnp.int32(0), inner.init(parameters))

    def update(
        gradients: PyTree, state: RestartState, parameters: PyTree | None = None
    ) -> tuple[PyTree, RestartState]:
        steps = state.steps + 1
        fresh = inner.init(gradients)
        start = jax.tree.map(
            lambda new, old: jnp.where(steps % every == 0, new, old), fresh, state.inner
        )
        updates, after = inner.update(gradients, start, parameters)
        return updates, RestartState(steps, after)

    return optax.GradientTransformation(init, update)


def stable_spam(
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = _EPSILON,
    norm_decay: float = 0.7,
    square_decay: float = 0.9,
    spike_decay: float = 0.999,
    restart_every: int = 1000,
) -> optax.GradientTransformation:
    """AdaClip, AdaGN and Adam with restarts, with the authors' defaults.

    Unlike in their code, where the count of steps restarts with the moments for the averages of
    maxima and norms, too, only the moments' correction starts anew.

    Raises
    ------
    InputError
        `restart_every` is below 1.
    """
    return optax.chain(
        clip_spikes(spike_decay),
        steady_norm(norm_decay, square_decay, epsilon),
        restarting(optax.scale_by_adam(b1, b2, epsilon), restart_every),
        optax.scale_by_learning_rate(learning_rate),
    )


def recipe_optimiser(recipe: FP4Recipe, learning_rate: float) -> optax.GradientTransformation:
    """The optimiser that a recipe names."""
    if recipe.optimiser == "adam":
        return optax.adam(learning_rate)
    return stable_spam(learning_rate)
