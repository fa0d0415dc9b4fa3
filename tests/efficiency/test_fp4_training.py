"""Recipes, the gradients they stand for, and their overhead."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency import formats
from qmgen.efficiency.casting import round_to
from qmgen.efficiency.element import E2M1, UE5M3
from qmgen.efficiency.fp4_overhead import (
    PLAIN_CAST,
    LayerShape,
    overhead_per_number,
    switches,
)
from qmgen.efficiency.fp4_training import (
    MXFP4_RECIPE,
    NVFP4_RECIPE,
    UE5M3_BEST,
    UE5M3_RECIPE,
    FP4Recipe,
    train_in_fp4,
)
from qmgen.efficiency.fp8_linear import QuantisedLinear, apply_linear, with_keys
from qmgen.efficiency.gradient_approximations import (
    CastGradient,
    approximate_quantise,
    step_slope,
)
from qmgen.efficiency.granularity import tiles
from qmgen.efficiency.hadamard import hadamard_matrix, random_signs
from qmgen.efficiency.quantise import block_scales, fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.errors import InputError

VALUES = np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def surrogate(u: np.ndarray, step: str) -> np.ndarray:
    """The curve through E2M1's steps whose slope `step_slope` is, in float64."""
    lower = np.clip(np.searchsorted(VALUES, u, side="right") - 1, 0, 13)
    height = VALUES[lower + 1] - VALUES[lower]
    place = 2 * (u - VALUES[lower]) / height - 1
    if step == "power":
        rise = np.sign(place) * np.abs(place) ** 0.2
    elif step == "sigmoid":
        rise = np.tanh(2 * place) / np.tanh(2)
    else:
        rise = np.clip(2 * place, -1, 1)
    return VALUES[lower] + height * (1 + rise) / 2


@pytest.mark.parametrize("step", ["power", "sigmoid", "spline"])
def test_slopes_are_those_of_their_curves(step: str) -> None:
    u = np.random.default_rng(0).uniform(-5.99, 5.99, 4000)
    difference = (surrogate(u + 1e-5, step) - surrogate(u - 1e-5, step)) / 2e-5
    slope = np.asarray(step_slope(jnp.asarray(u, jnp.float32), E2M1, step))
    # The power's slope has no bound in the middle, and is cut at 3. Kinks lie between two points.
    expected = np.minimum(difference, 3.0)
    close = np.abs(slope - expected) < 2e-3 * (1 + expected)
    assert close.mean() > 0.995
    assert np.ptp(slope) > 1


def test_the_rounding_of_scales_has_a_gradient() -> None:
    x, weights = normal((40, 16)), normal((40, 16), 1)
    scales = np.asarray(block_scales(x, formats.FP4_UE5M3)[0])
    error = np.asarray(fake_quantise(x, formats.FP4_UE5M3)) / scales - x / scales
    largest, rows = np.abs(x).argmax(1), np.arange(40)

    @jax.jit
    def through(x: jax.Array) -> jax.Array:
        gradient = CastGradient(scale="absmax", scale_step="spline")
        return jax.grad(
            lambda v: jnp.sum(weights * approximate_quantise(v, formats.FP4_UE5M3, gradient))
        )(x)

    wanted = jnp.asarray(np.abs(x).max(1) / np.float32(6))
    slope = np.asarray(step_slope(wanted, UE5M3, "spline"))
    assert {0.0, 2.0} == set(slope.tolist())
    expected = weights.copy()
    expected[rows, largest] += slope * np.sign(x[rows, largest]) / 6 * (weights * error).sum(1)
    np.testing.assert_allclose(through(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rotation", ["none", "forward"])
def test_products_send_gradients_through_the_forward_casts(rotation: str) -> None:
    # x's gradient is that of the rounded x, times the slopes; with a rotation T it is
    # T' (slopes * (T g)), the slopes being those at T x. Here in NumPy.
    x, weights, gradient = normal((6, 24)), normal((24, 16), 1), normal((6, 16), 2)
    key = jax.random.key(3)
    format = formats.FP4_UE5M3
    formats_of_product = MatmulFormats(
        format, format, None, False, rotation, 16, CastGradient("sigmoid")
    )

    @jax.jit
    def gradients(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(x: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.sum(gradient * quantised_matmul(x, weights, formats_of_product, key))

        return jax.grad(loss, (0, 1))(x, weights)

    # Gradients are wide here, so those before the casts are products with rounded operands.
    before = (
        gradient @ np.asarray(fake_quantise(weights, format.along(1))).T,
        np.asarray(fake_quantise(x, format.along(0))).T @ gradient,
    )
    fill, turn = (0, np.eye(24, dtype=np.float32))
    if rotation == "forward":
        # Zeros fill the second block.
        signs = np.asarray(random_signs(jax.random.split(key, 4)[3], 16))
        fill, turn = 8, np.kron(np.eye(2, dtype=np.float32), signs[:, None] * hadamard_matrix(16))
    found = gradients(x, weights)
    for got, value, start in (
        (found[0], x, before[0]),
        (found[1].T, weights.T, before[1].T),
    ):
        turned = np.pad(value, ((0, 0), (0, fill))) @ turn
        scales = np.repeat(np.asarray(block_scales(turned, format)[0]), 16, 1)
        slopes = step_slope(jnp.asarray(turned / scales[:, : 24 + fill]), E2M1, "sigmoid")
        through = np.pad(start, ((0, 0), (0, fill))) @ turn * np.asarray(slopes)
        np.testing.assert_allclose(got, (through @ turn.T)[:, :24], rtol=1e-3, atol=1e-3)


def test_recipes_are_the_named_formats() -> None:
    for recipe, format in (
        (MXFP4_RECIPE, formats.MXFP4),
        (NVFP4_RECIPE, formats.NVFP4),
        (UE5M3_RECIPE, formats.FP4_UE5M3),
        (FP4Recipe("E4M3"), formats.FP4_E4M3),
    ):
        assert recipe.formats() == MatmulFormats(
            format, format, format, rotation_block=recipe.block
        )
    best = UE5M3_BEST.formats()
    assert best.weights is not None
    assert best.gradients is not None
    assert best.weights.granularity == tiles(16, 16) == best.weights.along(0).granularity
    assert best.gradients.rounding == "stochastic"
    assert best.weights.rounding == "nearest_even"
    everything = replace(UE5M3_RECIPE, stochastic="all").formats()
    assert {f.rounding for f in (everything.activations, everything.weights) if f} == {"stochastic"}


def test_stochastic_rounding_has_the_right_mean() -> None:
    x = jnp.full(1 << 16, 0.3)
    draws = round_to(x, E2M1, "stochastic", key=jax.random.key(0))
    # Standard error of 0.245 / 256.
    assert float(draws.mean()) == pytest.approx(0.3, abs=0.003)
    assert set(np.unique(draws).tolist()) == {0.0, 0.5}
    assert set(np.unique(round_to(x, E2M1)).tolist()) == {0.5}


@pytest.mark.slow
def test_a_layer_learns_with_another_key_in_each_step() -> None:
    recipe = replace(MXFP4_RECIPE, rotation="forward", stochastic="gradients")
    layer = train_in_fp4(eqx.nn.Linear(32, 16, key=jax.random.key(0)), recipe)
    x = jnp.asarray(normal((64, 32)))
    target = np.asarray(x) @ normal((32, 16), 1) / 6

    def loss(layer: QuantisedLinear, key: jax.Array) -> jax.Array:
        return jnp.mean((apply_linear(with_keys(layer, key), x) - target) ** 2)

    step = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 31)
    losses = []
    for key in keys:
        value, gradients = step(layer, key)
        losses.append(float(value))
        layer = eqx.apply_updates(layer, jax.tree.map(lambda g: -2.0 * g, gradients))
    # Down to what rounding leaves, 15 dB below the power of 32 / 36.
    assert losses[0] > 0.8
    assert losses[-1] < 0.15
    with pytest.raises(InputError, match="key"):
        layer(x)


def test_every_layer_has_a_key_of_its_own() -> None:
    model = train_in_fp4(eqx.nn.MLP(4, 4, 4, 1, key=jax.random.key(0)), UE5M3_BEST)
    assert all(isinstance(layer, QuantisedLinear) for layer in model.layers)
    one, other = (with_keys(model, jax.random.key(number)) for number in (1, 2))
    keys = [jax.random.key_data(layer.key).tobytes() for m in (one, other) for layer in m.layers]
    assert len(set(keys)) == 4
    assert all(layer.key is None for layer in model.layers)


def test_overhead_counts_what_is_on() -> None:
    shape = LayerShape(64, 32, 16)
    numbers = shape.casts
    assert numbers == 2 * (64 * 32 + 32 * 16 + 64 * 16)

    def cost(**changes: object) -> float:
        recipe = replace(UE5M3_RECIPE, **changes)
        return overhead_per_number(recipe, (shape,)).operations

    assert cost() == 0
    # A sign and log2(16) additions for every number of every product.
    assert cost(rotation="all") == 5
    assert cost(rotation="forward") + cost(rotation="backward") == pytest.approx(5)
    assert cost(rotation="forward") == pytest.approx(5 * (64 * 32 + 32 * 16) / numbers)
    assert cost(stochastic="gradients") == pytest.approx(14.5 * 2 * 64 * 16 / numbers)
    assert cost(stochastic="all") == 14.5
    assert cost(weight_tiles=True) == pytest.approx(-PLAIN_CAST * 32 * 16 / numbers)
    assert cost(cast_gradient=CastGradient("power")) > cost(cast_gradient=CastGradient("spline"))
    assert cost(cast_gradient=CastGradient(scale="softmax")) > cost(
        cast_gradient=CastGradient(scale="absmax")
    )
    assert overhead_per_number(replace(UE5M3_RECIPE, tensor_scale=True), (shape,)).bytes == 2
    # Weights weigh less, the more rows there are.
    spam = replace(UE5M3_RECIPE, optimiser="stable_spam", loss_scaling=True)
    many = overhead_per_number(spam, (replace(shape, rows=6400),)).operations
    assert 0 < many < overhead_per_number(spam, (shape,)).operations / 50
    assert switches(UE5M3_RECIPE) == 0
    assert switches(replace(UE5M3_BEST, cast_gradient=CastGradient("power", "absmax"))) == 4


def test_walsh_hadamard_takes_the_additions_that_are_counted() -> None:
    vector, additions = normal((16,)).astype(np.float64), 0
    expected = vector @ hadamard_matrix(16) * 4
    half = 1
    while half < 16:
        pairs = vector.reshape(-1, 2, half)
        vector = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).ravel()
        additions += 16
        half *= 2
    np.testing.assert_allclose(vector, expected, rtol=1e-6)
    assert additions == 4 * 16


def test_bad_recipes() -> None:
    with pytest.raises(InputError, match="16 or 32"):
        FP4Recipe(block=24)
    with pytest.raises(InputError, match="E8M0"):
        replace(MXFP4_RECIPE, tensor_scale=True)
    with pytest.raises(InputError, match="absmax"):
        CastGradient(scale_step="power")
