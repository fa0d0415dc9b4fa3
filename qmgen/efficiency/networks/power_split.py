"""Where the power of activations is: in channels' constants, between instances, or within them.

Labatie et al., 2106.03743, section 4. Two ways for a norm that leaves the batch alone to fail show
in it. With layer norm and group norm nearly all power goes into constants of channels as a network
gets deeper. With instance norm nothing is left of how the means and spreads of instances differ.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.networks.grouped import grouped_convolution
from qmgen.efficiency.networks.proxy_norm import Activation, proxy_normalised

AnyKey = Key[Array, ""] | UInt[Array, "2"]


class PowerSplit(NamedTuple):
    """Parts of the mean square E x^2, for the mean mu_xc and spread sigma_xc over positions.

    Averages are over instances x first, then over channels c.

    Attributes
    ----------
    channel_means
        P1, E_c (E_x mu_xc)^2. All of the power if each channel is a constant.
    instance_means
        P2, E_c Var_x mu_xc.
    spreads
        P3, E_c (E_x sigma_xc)^2.
    instance_spreads
        P4, E_c Var_x sigma_xc.
    """

    channel_means: Float[Array, "*layers"]
    instance_means: Float[Array, "*layers"]
    spreads: Float[Array, "*layers"]
    instance_spreads: Float[Array, "*layers"]

    @property
    def total(self) -> Float[Array, "*layers"]:
        """The mean square, which the parts sum to."""
        return self.channel_means + self.instance_means + self.spreads + self.instance_spreads

    @property
    def channel_fraction(self) -> Float[Array, "*layers"]:
        """P1 over the total: near one where channels are constants."""
        return self.channel_means / self.total

    @property
    def instance_fraction(self) -> Float[Array, "*layers"]:
        """P2 and P4 over the total: zero where instances have the same mean and spread."""
        return (self.instance_means + self.instance_spreads) / self.total


def power_split(x: Float[Array, "instances *positions channels"]) -> PowerSplit:
    """Split the mean square of values."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    mu, sigma = jnp.mean(x, 1), jnp.std(x, 1)
    return PowerSplit(
        jnp.mean(jnp.mean(mu, 0) ** 2),
        jnp.mean(jnp.var(mu, 0)),
        jnp.mean(jnp.mean(sigma, 0) ** 2),
        jnp.mean(jnp.var(sigma, 0)),
    )


def random_network(
    x: Float[Array, "instances positions channels"],
    norm: Callable[[Array], Array],
    *,
    depth: int,
    key: AnyKey,
    proxy: bool,
    activation: Activation = jax.nn.relu,
    kernel: int = 3,
    spread: float = 0.2,
) -> tuple[Float[Array, "instances positions channels"], PowerSplit]:
    """The paper's network of random weights, biases and gains, and the power in each layer.

    A layer is a circular convolution, a norm, and the activation phi(g y + b) with g ~ N(1, s^2)
    and b ~ N(0, s^2), with or without proxy norm at zero parameters of the proxy.

    Parameters
    ----------
    norm
        Without gain and bias.
    spread
        s.

    Returns
    -------
    activations
        After the last layer.
    powers
        Of each layer's normalised values y, along the first axis.
    """
    channels = x.shape[-1]
    deviation = (kernel * channels) ** -0.5

    def layer(x: Array, key: AnyKey) -> tuple[Array, PowerSplit]:
        for_weights, for_gain, for_bias = jax.random.split(key, 3)
        weight = deviation * jax.random.normal(for_weights, (kernel, channels, channels))
        around = (kernel - 1) // 2, kernel // 2
        wrapped = jnp.pad(x, ((0, 0), around, (0, 0)), mode="wrap")
        y = norm(grouped_convolution(wrapped, weight, padding="valid"))
        gain = 1 + spread * jax.random.normal(for_gain, (channels,))
        bias = spread * jax.random.normal(for_bias, (channels,))
        if proxy:
            zero = jnp.zeros(channels)
            return proxy_normalised(activation, y, gain, bias, zero, zero), power_split(y)
        return activation(gain * y + bias), power_split(y)

    return jax.lax.scan(layer, x, jax.random.split(key, depth))
