"""u-muP: residual weights, roles, the optimiser, and learning rates that carry over."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import PyTree

from qmgen.efficiency import formats, umup
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.umup import Hyperparameters, Role
from qmgen.efficiency.unit_scaled_layers import MLP, DepthStack, LayerNorm
from qmgen.efficiency.unit_scaled_transformer import Decoder, SelfAttention, transformer_stack
from qmgen.efficiency.unit_scaling import cross_entropy
from qmgen.errors import InputError

FP8 = MatmulFormats(formats.FP8_E4M3, formats.FP8_E4M3, formats.FP8_E5M2)


def test_branches_contribute_what_the_multipliers_say() -> None:
    hyper = Hyperparameters(residual=0.5, residual_attention_ratio=3.0)
    # Amplitudes in the output of unit-scaled branches and of the input of the stack.
    stream, attention, ffn = 1.0, [], []
    for to_attention, to_ffn in umup.residual_weights(5, hyper):
        for tau, kind in ((to_attention, attention), (to_ffn, ffn)):
            norm = math.hypot(1, tau)
            stream /= norm
            for earlier in (attention, ffn):
                earlier[:] = [value / norm for value in earlier]
            kind.append(tau / norm)
    np.testing.assert_allclose(attention, attention[0], rtol=1e-12)
    np.testing.assert_allclose(ffn, ffn[0], rtol=1e-12)
    assert attention[0] / ffn[0] == pytest.approx(3)
    total = np.sum(np.square(attention + ffn))
    assert total + stream**2 == pytest.approx(1)
    # Each kind contributes residual^2 times the input's variance on average.
    assert total / 2 / stream**2 == pytest.approx(0.25)


def test_roles_of_a_decoder() -> None:
    model = Decoder(11, 4, 16, 2, key=jax.random.key(0))
    roles = umup.roles(model)
    assert roles.embedding.weight == Role("embedding", 16)
    assert roles.stack.layers[3].ffn.down.weight == Role("hidden", 64, 4)
    assert roles.readout.weight == Role("output", 16)
    assert roles.stack.layers[3].ffn.down.weight.learning_rate_factor == pytest.approx(1 / 16)
    parameters = eqx.filter(model, eqx.is_inexact_array)
    assert jax.tree.structure(roles) == jax.tree.structure(parameters)


def test_roles_of_other_models() -> None:
    key = jax.random.key(0)
    model = {
        "mlp": MLP(5, 3, 8, 2, key=key, use_bias=True),
        "residual": DepthStack((LayerNorm(8, use_gain=True), LayerNorm(8))),
        "activation": jax.nn.relu,
    }
    roles = umup.roles(model)
    assert roles["mlp"].layers[0].weight == Role("hidden", 5)
    assert roles["mlp"].layers[0].bias == Role("vector", 8)
    assert roles["residual"].layers[0].gain == Role("vector", 8, 2)
    assert roles["residual"].layers[0].gain.learning_rate_factor == pytest.approx(2**-0.5)
    assert roles["activation"] is None
    with pytest.raises(InputError, match=r"\['plain'\]"):
        umup.roles({"plain": jnp.ones((3, 3))})


@pytest.mark.slow
def test_steps_by_role() -> None:
    """Adam's first step is the sign of the gradient, times the learning rate of the role."""
    model = eqx.filter(Decoder(7, 2, 8, 2, key=jax.random.key(0)), eqx.is_inexact_array)
    roles = umup.roles(model)
    optimiser = umup.adam(0.5, roles, weight_decay=0.25, schedule=lambda step: 0.5 / (step + 1))
    gradients = jax.tree.map(lambda p: jnp.where(p > 0, 3.0, -1e-3), model)
    updates, state = optimiser.update(gradients, optimiser.init(model), model)

    def expected(role: Role, gradient: jax.Array, parameter: jax.Array, rate: float) -> jax.Array:
        return -rate * (0.5 * role.learning_rate_factor * jnp.sign(gradient) + 0.25 * parameter)

    jax.tree.map(
        lambda r, u, g, p: np.testing.assert_allclose(u, expected(r, g, p, 0.5), rtol=1e-4),
        *(roles, updates, gradients, model),
    )
    # Without a gradient it is the decay that is left, independent of the learning rate.
    nothing = jax.tree.map(jnp.zeros_like, model)
    fresh = umup.adam(1e-6, roles, weight_decay=0.25)
    updates, _ = fresh.update(nothing, fresh.init(model), model)
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -0.25 * p, rtol=1e-6), updates, model)
    again, _ = optimiser.update(gradients, state, model)
    ratio = again.readout.weight / expected(
        roles.readout.weight, gradients.readout.weight, model.readout.weight, 0.25
    )
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="loss_softmax"):
        Hyperparameters(loss_softmax=0.0)
    with pytest.raises(InputError, match="even"):
        SelfAttention(12, 4, key=jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 6])
def test_a_stack_keeps_unit_scale(depth: int) -> None:
    stack = transformer_stack(depth, 128, 4, key=jax.random.key(0))
    x, gradient = np.random.default_rng(0).normal(size=(2, 8, 64, 128)).astype(np.float32)

    @eqx.filter_jit
    def run(stack: DepthStack, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        y, pullback = eqx.filter_vjp(lambda s, v: s(v), stack, x)
        return y.std(), [g.std() for g in jax.tree.leaves(pullback(gradient))]

    output, gradients = run(stack, x)
    # What positions share, such as means of activations, attention does not average out as its
    # factor assumes, and from layer to layer it adds up: 1.3 after two layers, 1.6 after six.
    assert 0.8 < float(output) < 1.8
    assert all(0.5 < float(value) < 5 for value in gradients)


def trained(model: Decoder, steps: int, learning_rate: float) -> list[float]:
    """Losses on sequences that count up by a number of their own."""
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = umup.adam(learning_rate, umup.roles(model))
    rng = np.random.default_rng(0)

    @jax.jit
    def step(parameters, state, tokens):
        loss, gradients = jax.value_and_grad(lambda p: eqx.combine(p, static).loss(tokens))(
            parameters
        )
        updates, state = optimiser.update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state, loss

    state, losses = optimiser.init(parameters), []
    for _ in range(steps):
        start, stride = rng.integers(0, 8, (2, 16, 1))
        tokens = jnp.asarray((start + stride * np.arange(17)) % 8)
        parameters, state, loss = step(parameters, state, tokens)
        losses.append(float(loss))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("format", [None, FP8], ids=["wide", "FP8"])
def test_a_decoder_learns(format: MatmulFormats | None) -> None:
    """All but the first two tokens follow from those before; bare casts are enough."""
    model = Decoder(8, 2, 32, 2, key=jax.random.key(0), formats=format)
    losses = trained(model, 150, 0.5)
    assert losses[0] == pytest.approx(math.log(8), abs=0.3)
    assert np.mean(losses[-10:]) < 0.4


Loss = Callable[[PyTree, jax.Array, jax.Array], jax.Array]
Optimiser = Callable[[jax.Array], optax.GradientTransformation]


def teacher(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.random.default_rng(0)
    first, second = weights.normal(size=(32, 64)) / 32**0.5, weights.normal(size=(64, 10))
    x = np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)
    return x, np.argmax(np.tanh(x @ first) @ second, 1)


def unit_scaled(width: int) -> tuple[Loss, PyTree, Optimiser]:
    model = MLP(32, 10, width, 3, key=jax.random.key(0))
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    roles = umup.roles(model)
    loss = lambda p, x, y: cross_entropy(eqx.combine(p, static)(x), y)  # noqa: E731
    return loss, parameters, lambda rate: umup.adam(rate, roles)


def standard(width: int) -> tuple[Loss, PyTree, Optimiser]:
    shapes = [(width, 32), (width, width), (width, width), (10, width)]
    keys = jax.random.split(jax.random.key(0), 4)
    normal = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]

    def loss(weights: PyTree, x: jax.Array, y: jax.Array) -> jax.Array:
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight.T)
        logits = x @ weights[-1].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss, [weight * weight.shape[1] ** -0.5 for weight in normal], optax.adam


def final_losses(problem: tuple[Loss, PyTree, Optimiser], exponents: range) -> np.ndarray:
    """Loss in the last tenth of 300 steps at learning rates 2^k."""
    loss, parameters, optimiser = problem
    steps = 300
    x, y = teacher(steps * 256, 1)
    batches = (x.reshape(steps, 256, -1), y.reshape(steps, 256))

    @jax.jit
    def run(learning_rate: jax.Array) -> jax.Array:
        rule = optimiser(learning_rate)

        def step(carry, batch):
            value, gradients = jax.value_and_grad(loss)(carry[0], *batch)
            updates, state = rule.update(gradients, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), value

        _, losses = jax.lax.scan(step, (parameters, rule.init(parameters)), batches)
        return jnp.mean(losses[-steps // 10 :])

    return np.array([run(jnp.float32(2.0**k)) for k in exponents])


@pytest.mark.slow
def test_the_best_learning_rate_carries_over() -> None:
    """Of 16 times the width it moves by 2 at most, in the standard parametrisation by 4 or more."""
    widths = (32, 128, 512)
    losses = [final_losses(unit_scaled(width), range(-6, 0)) for width in widths]
    best = [int(np.argmin(found)) for found in losses]
    assert 0 < min(best) <= max(best) < 5
    assert max(best) - min(best) <= 1
    # Taking it along from the narrowest costs little.
    for found in losses:
        assert found[best[0]] < 1.05 * found.min()
    plain = [int(np.argmin(final_losses(standard(width), range(-12, -5)))) for width in (32, 512)]
    assert plain[0] - plain[1] >= 2
