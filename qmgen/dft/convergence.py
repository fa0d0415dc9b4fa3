"""How far a self-consistent field has come: when it stops, and whether it has converged."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.dft.config import DFTConfig
from qmgen.units import EV_PER_HARTREE

# QM1B judges convergence by the spread of this many last energies.
_RECENT = 5


class Course(NamedTuple):
    """What is known of the densities evaluated so far, Hartree.

    ``gradient_norm`` is that of the last one's orbital gradient.
    """

    energy: Float[Array, ""]
    energy_change: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    recent_energies: Float[Array, " recent"]
    evaluations: Int[Array, ""]

    @property
    def std_ev(self) -> Float[Array, ""]:
        """Standard deviation of the last energies; of those there are, where they are fewer."""
        return jnp.nanstd(self.recent_energies) * EV_PER_HARTREE


def course_start() -> Course:
    """Before the guess is evaluated."""
    infinite = jnp.asarray(jnp.inf)
    return Course(
        energy=jnp.zeros(()),
        energy_change=infinite,
        gradient_norm=infinite,
        recent_energies=jnp.full((_RECENT,), jnp.nan),
        evaluations=jnp.asarray(0, jnp.int32),
    )


def evaluated(course: Course, energy: Float[Array, ""], gradient_norm: Float[Array, ""]) -> Course:
    """One density further."""
    return Course(
        energy=energy,
        energy_change=energy - course.energy,
        gradient_norm=gradient_norm,
        recent_energies=jnp.roll(course.recent_energies, -1).at[-1].set(energy),
        evaluations=course.evaluations + 1,
    )


def unfinished(config: DFTConfig, course: Course) -> Bool[Array, ""]:
    """Whether there are cycles left, and by the criterion a need for them."""
    # The guess is evaluated first and is no cycle.
    more = course.evaluations <= config.max_cycle
    if config.criterion == "energy_change":
        more &= ~_below_thresholds(config, course) & ~jnp.isnan(course.energy)
    return more


def has_converged(config: DFTConfig, course: Course) -> Bool[Array, ""]:
    """Whether the criterion is met, by an energy that is a number."""
    if config.criterion == "energy_change":
        met = _below_thresholds(config, course)
    else:
        met = course.std_ev < config.energy_std_tol_ev
    return met & jnp.isfinite(course.energy)


def _below_thresholds(config: DFTConfig, course: Course) -> Bool[Array, ""]:
    # Rounding of an energy's sums; in float32 up to 1e-3 Ha.
    dtype = jnp.float32 if config.precision == "float32" else jnp.float64
    noise = 8 * jnp.finfo(dtype).eps * jnp.abs(course.energy)
    return (jnp.abs(course.energy_change) < config.energy_tolerance + noise) & (
        course.gradient_norm < config.gradient_tolerance
    )
