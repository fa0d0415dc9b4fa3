"""Proxy normalisation: activations made free of channel-wise constants without a look at the data.

Labatie et al., 2106.03743. After a norm that leaves the batch alone (`norms.group_norm`), channels
have neither zero mean nor unit variance by themselves, and activations add to it: layer after
layer, a network becomes a constant for each channel. Batch norm takes that away by the statistics
of the batch; proxy norm does it by those of a normal number in place of the data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtri, roots_hermitenorm

from qmgen.errors import InputError

Activation = Callable[[Array], Array]


class Nodes(NamedTuple):
    """Places and weights with which E f(Z) is sum_i w_i f(z_i) for a standard normal Z."""

    places: tuple[float, ...]
    weights: tuple[float, ...]


def quantiles(count: int = 200) -> Nodes:
    """Fixed samples of equal weight, the quantiles (i + 1/2) / n of the paper's implementation.

    Raises
    ------
    InputError
        Fewer than one.
    """
    _check(count)
    places = ndtri((np.arange(count) + 0.5) / count)
    return Nodes(tuple(places.tolist()), (1 / count,) * count)


def gauss_hermite(count: int) -> Nodes:
    """Gauss-Hermite quadrature, exact for polynomials of degree below 2n.

    Some 32 nodes do for smooth activations; a kink, as ReLU's, converges as 1 / n only.

    Raises
    ------
    InputError
        Fewer than one.
    """
    _check(count)
    places, weights = roots_hermitenorm(count)
    return Nodes(tuple(places.tolist()), tuple((weights / weights.sum()).tolist()))


def _check(count: int) -> None:
    if count < 1:
        raise InputError(f"{count} nodes; take one or more")


PAPERS_NODES = quantiles()


def proxy_moments(
    activation: Activation,
    gain: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    proxy_shift: Float[Array, " channels"],
    proxy_scale: Float[Array, " channels"],
    nodes: Nodes = PAPERS_NODES,
) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and variance of activation(gain Y + bias) for Y ~ N(proxy_shift, (1 + proxy_scale)^2)."""
    places = jnp.asarray(nodes.places, gain.dtype)[:, None]
    weights = jnp.asarray(nodes.weights, gain.dtype)
    proxies = activation(gain * (proxy_shift + (1 + proxy_scale) * places) + bias)
    mean = weights @ proxies
    return mean, weights @ (proxies - mean) ** 2


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

    The mask of `optax.add_decayed_weights`.
    """

    def of(node: Any) -> Any:
        marked = jax.tree.map(lambda _: False, node)
        if not isinstance(node, ProxyNorm):
            return marked
        return eqx.tree_at(lambda n: (n.proxy_shift, n.proxy_scale), marked, (True, True))

    return jax.tree.map(of, model, is_leaf=lambda node: isinstance(node, ProxyNorm))
