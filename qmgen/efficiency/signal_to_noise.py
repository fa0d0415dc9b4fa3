"""How far a quantised array is from the original."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.jit
def relative_rms_error(
    x: Float[Array, "..."], approximation: Float[Array, "..."]
) -> Float[Array, ""]:
    """RMS of the difference over the RMS of x."""
    noise = jnp.sum((x - approximation) ** 2)
    return jnp.sqrt(noise / jnp.sum(x**2))


@jax.jit
def signal_to_noise_db(
    x: Float[Array, "..."], approximation: Float[Array, "..."]
) -> Float[Array, ""]:
    """Ratio of the power of x to that of the difference in decibel (SQNR)."""
    return -20 * jnp.log10(relative_rms_error(x, approximation))
