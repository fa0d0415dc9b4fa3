import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad
from scipy.stats import norm

from qmgen.efficiency.networks.norms import batch_norm, layer_norm
from qmgen.efficiency.networks.proxy_norm import (
    AffineActivation,
    Nodes,
    ProxyNorm,
    proxy_moments,
    proxy_normalised,
    proxy_parameters,
)
from qmgen.errors import InputError

GAIN, BIAS = jnp.array([1.0, -0.7, 1.3, 0.2]), jnp.array([0.0, 0.4, -0.5, 1.0])
SHIFT, SCALE = jnp.array([0.0, 0.3, -0.2, 0.1]), jnp.array([0.0, -0.3, 0.4, 0.1])
ZERO = jnp.zeros(4)


def expected_moments(activation: Callable) -> tuple[list[float], list[float]]:
    """By adaptive quadrature of the density."""
    means, variances = [], []
    for g, b, shift, scale in zip(*map(np.asarray, (GAIN, BIAS, SHIFT, SCALE)), strict=True):

        def of(y: float, power: int, g=g, b=b, shift=shift, scale=scale) -> float:
            value = float(activation(g * (shift + (1 + scale) * y) + b))
            return value**power * norm.pdf(y)

        mean, square = (quad(of, -9, 9, args=(p,), limit=200)[0] for p in (1, 2))
        means.append(mean)
        variances.append(square - mean**2)
    return means, variances


@pytest.mark.parametrize(
    ("activation", "reference", "nodes", "tolerance"),
    [
        # The quantiles miss some of the tails, 200 of them 0.6 % of a normal number's variance.
        (jax.nn.relu, lambda u: max(u, 0), Nodes(), 0.02),
        (jax.nn.swish, lambda u: u / (1 + math.exp(-u)), Nodes(), 0.02),
        (jax.nn.relu, lambda u: max(u, 0), Nodes("quantiles", 20_000), 2e-4),
        # A kink costs quadrature its speed.
        (jax.nn.relu, lambda u: max(u, 0), Nodes("gauss_hermite", 150), 0.01),
        (jax.nn.swish, lambda u: u / (1 + math.exp(-u)), Nodes("gauss_hermite", 32), 1e-5),
        (jnp.tanh, math.tanh, Nodes("gauss_hermite", 64), 1e-4),
    ],
)
def test_moments_of_the_proxy(
    activation: Callable, reference: Callable, nodes: Nodes, tolerance: float
) -> None:
    found = proxy_moments(activation, GAIN, BIAS, SHIFT, SCALE, nodes)
    for got, expected in zip(found, expected_moments(reference), strict=True):
        np.testing.assert_allclose(got, expected, atol=tolerance)


def test_nodes() -> None:
    places, weights = Nodes().places_and_weights()
    # The error function's inverse, as the formula has it.
    expected = [math.erf(z / math.sqrt(2)) for z in places]
    np.testing.assert_allclose(expected, 2 * (np.arange(200) + 0.5) / 200 - 1, atol=1e-12)
    np.testing.assert_allclose(weights, 0.005)
    places, weights = Nodes("gauss_hermite", 5).places_and_weights()
    for degree in range(10):
        moment = 0 if degree % 2 else math.prod(range(degree - 1, 0, -2))
        assert weights @ places**degree == pytest.approx(moment, abs=1e-10)
    with pytest.raises(InputError, match="one or more"):
        Nodes("quantiles", 0)


def test_zero_proxy_parameters_and_no_activation_leave_a_known_factor() -> None:
    y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))
    z = proxy_normalised(lambda u: u, y, GAIN, BIAS, ZERO, ZERO, nodes=Nodes("gauss_hermite", 2))
    # The bias has gone, and of the gain what epsilon leaves.
    np.testing.assert_allclose(z, GAIN * y / jnp.sqrt(GAIN**2 + 0.03), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.swish])
def test_zero_proxy_parameters_make_normal_channels_normalised_as_batch_norm_would(
    activation: Callable,
) -> None:
    """What the proxy stands for: channels that are standard normal numbers."""
    y = jnp.asarray(np.random.default_rng(1).normal(size=(100_000, 4)).astype(np.float32))
    z = proxy_normalised(activation, y, GAIN, BIAS, ZERO, ZERO, nodes=Nodes("gauss_hermite", 150))
    batch = batch_norm(activation(GAIN * y + BIAS), epsilon=0.03)
    # Sampling, 100,000^-1/2 = 0.003 times a few.
    np.testing.assert_allclose(jnp.mean(z, 0), 0, atol=0.015)
    np.testing.assert_allclose(jnp.std(z, 0), jnp.std(batch, 0), atol=0.015)
    np.testing.assert_allclose(z, batch, atol=0.12)


def test_a_proxy_that_is_the_channel_normalises_it() -> None:
    """Any normal channel, once the proxy has its mean and deviation."""
    y = SHIFT + (1 + SCALE) * np.random.default_rng(2).normal(size=(100_000, 4)).astype(np.float32)
    z = proxy_normalised(jax.nn.relu, y, GAIN, BIAS, SHIFT, SCALE, epsilon=0.0)
    np.testing.assert_allclose(jnp.mean(z, 0), 0, atol=0.02)
    np.testing.assert_allclose(jnp.std(z, 0), 1, atol=0.02)


def test_module_starts_with_zero_proxy_parameters() -> None:
    y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32))
    module = ProxyNorm(4, jax.nn.swish)
    ones = jnp.ones(4)
    expected = proxy_normalised(jax.nn.swish, y, ones, ZERO, ZERO, ZERO)
    np.testing.assert_array_equal(module(y), expected)
    np.testing.assert_array_equal(AffineActivation(4, jax.nn.swish)(y), jax.nn.swish(y))


def test_moments_are_differentiated_through() -> None:
    y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))

    def function(*arguments: jax.Array) -> jax.Array:
        arrays = [jnp.asarray(argument) for argument in arguments]
        return proxy_normalised(jnp.tanh, *arrays, nodes=Nodes("gauss_hermite", 8))

    # Finite differences in float32.
    check_grads(
        function, (y, GAIN, BIAS, SHIFT, SCALE), order=1, modes=["rev"], atol=1e-2, rtol=1e-2
    )


def test_weight_decay_of_proxies_only() -> None:
    model = [ProxyNorm(3, jax.nn.relu), {"a": eqx.nn.Linear(2, 2, key=jax.random.key(0))}]
    filled = jax.tree.map(jnp.ones_like, eqx.filter(model, eqx.is_array))
    decay = optax.add_decayed_weights(0.1, mask=proxy_parameters)
    none = jax.tree.map(jnp.zeros_like, filled)
    updates, _ = decay.update(none, decay.init(filled), filled)
    assert sum(float(jnp.sum(u)) for u in jax.tree.leaves(updates)) == pytest.approx(6 * 0.1)
    np.testing.assert_allclose(updates[0].proxy_shift, 0.1)
    np.testing.assert_allclose(updates[0].proxy_scale, 0.1)


def test_outputs_do_not_depend_on_the_batch() -> None:
    module = ProxyNorm(8, jax.nn.relu)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6, 8)).astype(np.float32))
    layer = jax.jit(lambda x: module(layer_norm(x, 1)))
    np.testing.assert_allclose(layer(x)[:1], layer(x[:1]), rtol=1e-5, atol=1e-6)
