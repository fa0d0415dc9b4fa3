"""Scales of the loss that keep gradients inside a narrow format's range.

Noune et al., 2206.02915, compare a constant, Backoff (Micikevicius et al., 1710.03740) and LogMax
(Kuchaiev et al., 1805.10387). A rule is a value with `init` and `update`; its state goes through
jit and scan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from qmgen.efficiency.float_bits import absmax
from qmgen.errors import InputError


class ConstantState(NamedTuple):
    """The scale."""

    scale: Float[Array, ""]


class BackoffState(NamedTuple):
    """The scale, and for how many steps nothing has overflown at it."""

    scale: Float[Array, ""]
    finite_steps: Int[Array, ""]


class LogMaxState(NamedTuple):
    """The scale, steps so far, and running averages of log2 of the largest gradient."""

    scale: Float[Array, ""]
    steps: Int[Array, ""]
    mean: Float[Array, ""]
    slow_mean: Float[Array, ""]
    slow_square: Float[Array, ""]


@dataclass(frozen=True)
class ConstantLossScale:
    """The same scale in every step."""

    scale: float = 1.0

    def init(self) -> ConstantState:
        """State before the first step."""
        return ConstantState(jnp.float32(self.scale))

    def update(self, state: ConstantState, largest: Float[Array, ""]) -> ConstantState:
        """State after a step."""
        return state


@dataclass(frozen=True)
class BackoffLossScale:
    """Divide by `factor` on overflow, multiply by it after `patience` steps without."""

    initial: float = 2.0**15
    factor: float = 2.0
    patience: int = 2000
    smallest: float = 1.0
    largest: float = 2.0**24

    def __post_init__(self) -> None:
        if self.factor <= 1 or self.patience < 1 or not 0 < self.smallest <= self.largest:
            raise InputError("Backoff needs factor > 1, patience > 0, 0 < smallest <= largest")

    def init(self) -> BackoffState:
        """State before the first step."""
        return BackoffState(jnp.float32(self.initial), jnp.int32(0))

    def update(self, state: BackoffState, largest: Float[Array, ""]) -> BackoffState:
        """State after a step whose unscaled gradients have this largest magnitude."""
        finite = jnp.isfinite(largest)
        steps = jnp.where(finite, state.finite_steps + 1, 0)
        grows = steps >= self.patience
        scale = jnp.where(finite, state.scale, state.scale / self.factor)
        scale = jnp.where(grows, scale * self.factor, scale)
        return BackoffState(
            jnp.clip(scale, self.smallest, self.largest), jnp.where(grows, 0, steps)
        )


@dataclass(frozen=True)
class LogMaxLossScale:
    """Put the largest gradient, taken for log-normal, `deviations` below what would overflow.

    Attributes
    ----------
    limit
        What overflows in the format of the gradients, such as `E5M2.max`.
    deviations
        Of log2 of the largest gradient; 3.09 lets one step in a thousand overflow.
    decay, slow_decay
        Of the running averages of the mean and of the spread.
    """

    limit: float
    deviations: float = 3.09
    decay: float = 0.99
    slow_decay: float = 0.999
    smallest: float = 1.0
    largest: float = 2.0**24

    def __post_init__(self) -> None:
        if self.limit <= 0 or not 0 < self.smallest <= self.largest:
            raise InputError("LogMax needs limit > 0 and 0 < smallest <= largest")
        if not (0 <= self.decay < 1 and 0 <= self.slow_decay < 1):
            raise InputError("LogMax needs decays from 0 to below 1")

    def init(self) -> LogMaxState:
        """State before the first step."""
        zero = jnp.float32(0.0)
        return LogMaxState(jnp.float32(self.smallest), jnp.int32(0), zero, zero, zero)

    def update(self, state: LogMaxState, largest: Float[Array, ""]) -> LogMaxState:
        """State after a step whose unscaled gradients have this largest magnitude.

        An overflow counts as a gradient at the limit; one of exactly 0 as float32's smallest.
        """
        log_limit = jnp.log2(jnp.float32(self.limit))
        tiny = jnp.finfo(jnp.float32).tiny
        seen = jnp.where(
            jnp.isfinite(largest), jnp.log2(jnp.maximum(largest, tiny)), log_limit
        ).astype(jnp.float32)
        steps = state.steps + 1
        mean = self.decay * state.mean + (1 - self.decay) * seen
        slow_mean = self.slow_decay * state.slow_mean + (1 - self.slow_decay) * seen
        square = self.slow_decay * state.slow_square + (1 - self.slow_decay) * seen**2
        # The averages start at 0, which Adam's correction undoes.
        fast = 1 - self.decay ** steps.astype(jnp.float32)
        slow = 1 - self.slow_decay ** steps.astype(jnp.float32)
        variance = jnp.maximum(square / slow - (slow_mean / slow) ** 2, 0.0)
        expected = mean / fast + self.deviations * jnp.sqrt(variance)
        scale = jnp.exp2(log_limit - expected)
        return LogMaxState(
            jnp.clip(scale, self.smallest, self.largest), steps, mean, slow_mean, square
        )


LossScale = ConstantLossScale | BackoffLossScale | LogMaxLossScale
LossScaleState = ConstantState | BackoffState | LogMaxState


class ScaledStep(NamedTuple):
    """What `value_and_scaled_grad` gives.

    `finite` is false if any gradient overflowed: the step should then be left out.
    """

    value: Float[Array, ""]
    gradients: PyTree
    finite: Bool[Array, ""]
    state: LossScaleState


def value_and_scaled_grad(
    loss: Callable[..., Float[Array, ""]],
    rule: LossScale,
    state: LossScaleState,
    parameters: PyTree,
    *arguments: Any,
) -> ScaledStep:
    """Value and gradients of a loss, differentiated at `state.scale` times it.

    Parameters
    ----------
    loss
        Function of the parameters and `arguments`.
    rule, state
        The loss scale; the state that comes back is that for the next step.
    """

    def scaled(parameters: PyTree) -> Float[Array, ""]:
        return loss(parameters, *arguments) * state.scale

    value, gradients = jax.value_and_grad(scaled)(parameters)
    gradients = jax.tree.map(lambda g: (g / state.scale).astype(g.dtype), gradients)
    leaves = [absmax(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(gradients)]
    largest = absmax(jnp.stack(leaves))
    return ScaledStep(
        value / state.scale,
        gradients,
        jnp.isfinite(largest),
        rule.update(state, largest),  # type: ignore[arg-type]
    )


def keep_if(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """`new` where the condition holds, otherwise `old`: how a step is left out under jit."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
