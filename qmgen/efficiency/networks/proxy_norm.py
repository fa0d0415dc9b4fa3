"""Proxy normalisation: activations made free of channel-wise constants without a look at the data.

Labatie et al., 2106.03743. After a norm that leaves the batch alone (`norms.group_norm`), channels
have neither zero mean nor unit variance by themselves, and activations add to it: layer after
layer, a network becomes a constant for each channel. Batch norm takes that away by the statistics
of the batch; proxy norm does it by those of a normal number in place of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from scipy.special import ndtri, roots_hermitenorm

from qmgen.errors import InputError

Activation = Callable[[Array], Array]


@dataclass(frozen=True)
class Nodes:
    """Fixed places z_i and weights w_i, with which E f(Z) is sum_i w_i f(z_i) for a normal Z.

    Attributes
    ----------
    rule
        "quantiles" has samples of equal weight, the quantiles (i + 1/2) / n of the paper's
        implementation. "gauss_hermite" is exact for polynomials of degree below 2n, so that some
        32 do for smooth activations; a kink, as ReLU's, slows it down to 1 / n.
    count
        n.

    Raises
    ------
    InputError
        Fewer than one.
    """

    rule: Literal["quantiles", "gauss_hermite"] = "quantiles"
    count: int = 200

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"{self.count} nodes; take one or more")

    def places_and_weights(self) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """All z_i and w_i."""
        if self.rule == "quantiles":
            places = ndtri((np.arange(self.count) + 0.5) / self.count)
            return places, np.full(self.count, 1 / self.count)
        places, weights = roots_hermitenorm(self.count)
        return places, weights / weights.sum()


PAPERS_NODES = Nodes()


def proxy_moments(
    activation: Activation,
    gain: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    proxy_shift: Float[Array, " channels"],
    proxy_scale: Float[Array, " channels"],
    nodes: Nodes = PAPERS_NODES,
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and variance of phi(g Y + b), Y ~ N(proxy_shift, (1 + proxy_scale)^2)."""
    arrays = nodes.places_and_weights()
    places, weights = (jnp.asarray(array, gain.dtype)[:, None] for array in arrays)
    proxies = activation(gain * (proxy_shift + (1 + proxy_scale) * places) + bias)
    mean = jnp.sum(weights * proxies, 0)
    return mean, jnp.sum(weights * (proxies - mean) ** 2, 0)


def proxy_normalised(
    activation: Activation,
    y: Float[Array, "*batch channels"],
    gain: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    proxy_shift: Float[Array, " channels"],
    proxy_scale: Float[Array, " channels"],
    epsilon: float = 0.03,
    nodes: Nodes = PAPERS_NODES,
) -> Float[Array, "*batch channels"]:
    """Activation of normalised values less the proxy's mean, over its standard deviation.

    z = (phi(g y + b) - E phi(g Y + b)) / (Var phi(g Y + b) + epsilon)^1/2. With the proxy's
    parameters zero, Y is a standard normal number; a channel that is one comes out with zero mean
    and variance V / (V + epsilon) for V = Var phi(g Y + b), as after batch norm.

    Parameters
    ----------
    y
        After a norm without gain and bias; channels are the last axis.
    epsilon
        The paper's 0.03 keeps channels small whose activation hardly varies.
    """
    mean, variance = proxy_moments(activation, gain, bias, proxy_shift, proxy_scale, nodes)
    return (activation(gain * y + bias) - mean) * jax.lax.rsqrt(variance + epsilon)


class ProxyNorm(eqx.Module):
    """An activation with proxy norm, in place of a norm's gain and bias and the plain activation.

    Attributes
    ----------
    gain, bias
        Those that the norm before would have.
    proxy_shift, proxy_scale
        Of the proxy; zero at first, and kept near by weight decay (`proxy_parameters`).
    """

    gain: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    proxy_shift: Float[Array, " channels"]
    proxy_scale: Float[Array, " channels"]
    activation: Activation = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    nodes: Nodes = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        activation: Activation,
        *,
        epsilon: float = 0.03,
        nodes: Nodes = PAPERS_NODES,
    ) -> None:
        self.gain = jnp.ones(channels)
        self.bias, self.proxy_shift, self.proxy_scale = (jnp.zeros(channels) for _ in range(3))
        self.activation = activation
        self.epsilon = epsilon
        self.nodes = nodes

    def __call__(self, y: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Of normalised values."""
        return proxy_normalised(
            self.activation,
            y,
            self.gain,
            self.bias,
            self.proxy_shift,
            self.proxy_scale,
            self.epsilon,
            self.nodes,
        )


class AffineActivation(eqx.Module):
    """The plain activation after a norm's gain and bias, phi(g y + b)."""

    gain: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    activation: Activation = eqx.field(static=True)

    def __init__(self, channels: int, activation: Activation) -> None:
        self.gain, self.bias = jnp.ones(channels), jnp.zeros(channels)
        self.activation = activation

    def __call__(self, y: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Of normalised values."""
        return self.activation(self.gain * y + self.bias)


def proxy_parameters(model: Any) -> Any:
    """A model's shape with True at the parameters of proxies: what weight decay should act on.

    The mask of `optax.add_decayed_weights`; parts that `equinox.partition` took away stay away.
    """
    names = {"proxy_shift", "proxy_scale"}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: bool(path) and getattr(path[-1], "name", "") in names, model
    )
