"""Unit variance of every operation, and gradients that stay multiples of the true ones."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from qmgen.efficiency import formats
from qmgen.efficiency import unit_scaled_nonlinear as nonlinear
from qmgen.efficiency import unit_scaling as unit
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.efficiency.signal_to_noise import signal_to_noise_db
from qmgen.efficiency.unit_scaled_layers import MLP, LayerNorm, Linear, LinearReadout, RMSNorm
from qmgen.efficiency.unit_scaling import Constraint
from qmgen.errors import InputError

FP8 = MatmulFormats(formats.FP8_E4M3, formats.FP8_E4M3, formats.FP8_E5M2)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


X, WEIGHT = normal(512, 96), normal(160, 96)
TOKENS = np.random.default_rng(0).integers(0, 64, (16, 32))
LABELS = np.random.default_rng(1).integers(0, 40, 512)
HEADS = [normal(8, 64, 4, 16, seed=seed) for seed in range(3)]
# The gradients of queries and keys that attention leaves below unit scale.
SMALL = 16**-0.5
# Function, arguments, and standard deviations of its value and its gradients.
CASES: dict[str, tuple[Callable[..., jax.Array], list[np.ndarray], list[float]]] = {
    "linear": (
        lambda x, w, b: unit.linear(x, w, b, constraint=None),
        [X, WEIGHT, normal(160) * 0],
        [1, 1, 1, 1],
    ),
    "readout": (unit.linear_readout, [X, WEIGHT], [96**-0.5, 1, 1]),
    "matmul": (
        lambda a, b: unit.matmul(a, b, constraint=None),
        [normal(4, 128, 48), normal(4, 48, 32)],
        [1, 1, 1],
    ),
    "add": (
        lambda *t: unit.add(*t, constraint=None),
        [normal(512, 96, seed=s) for s in range(3)],
        [1, 1, 1, 1],
    ),
    "residual": (
        lambda x, w: unit.residual(lambda v: unit.linear(v, w), x, 0.5),
        [X, normal(96, 96)],
        [1, 1, 1],
    ),
    "embedding": (
        lambda table: unit.embedding(jnp.asarray(TOKENS), table),
        [normal(64, 96)],
        [1, 1],
    ),
    "layer norm": (
        unit.layer_norm,
        [3 * X, np.ones(96, np.float32), normal(96) * 0],
        [1, 1 / 3, 1, 1],
    ),
    "RMS norm": (unit.rms_norm, [X, np.ones(96, np.float32)], [1, 1, 1]),
    "dropout": (lambda x: unit.dropout(x, 0.3, jax.random.key(1)), [X], [1, 1]),
    "cross-entropy": (
        lambda z: unit.cross_entropy(z, jnp.asarray(LABELS)),
        [0.1 * normal(512, 40)],
        [0, 1],
    ),
    "mean squared error": (unit.mean_squared_error, [X, normal(512, 96, seed=1)], [0, 1, 1]),
    "gated SiLU": (nonlinear.gated_silu, [X, normal(512, 96, seed=1)], [1, 1, 1.03]),
    "softmax": (lambda x: nonlinear.softmax(x, constraint=None), [X], [1, 1]),
    "attention": (nonlinear.attention, HEADS, [1, SMALL, SMALL, 1]),
    # Positions share the factor, though early ones are means of a few, of which the first has no
    # gradient of its query.
    "causal attention": (
        lambda *h: nonlinear.attention(*h, causal=True),
        HEADS,
        [1.06, 0.9 * SMALL, 0.9 * SMALL, 1.06],
    ),
    **{
        name: (lambda x, f=function: f(x, constraint=None), [X], [1, 1])
        for name, function in {
            "GELU": nonlinear.gelu,
            "ReLU": nonlinear.relu,
            "SiLU": nonlinear.silu,
            "tanh": nonlinear.tanh,
            "sigmoid": nonlinear.sigmoid,
            "GELU of 3 x": lambda x, **rest: nonlinear.gelu(x, multiplier=3.0, **rest),
        }.items()
    },
}


@pytest.fixture(scope="module")
def deviations() -> dict[str, list[float]]:
    """All of them in one program, which compiles faster than many."""

    def of_all(
        arguments: dict[str, list[jax.Array]], noise: jax.Array
    ) -> dict[str, list[jax.Array]]:
        results = {}
        for name, given in arguments.items():
            value, pullback = jax.vjp(CASES[name][0], *given)
            gradient = noise[: value.size].reshape(value.shape) if value.ndim else jnp.ones(())
            results[name] = [value.std(), *(g.std() for g in pullback(gradient))]
        return results

    # Run once, so that compiling is what takes time.
    compiled = jax.jit(of_all, compiler_options={"xla_backend_optimization_level": 0})
    arguments = {name: case[1] for name, case in CASES.items()}
    measured = compiled(arguments, normal(1 << 17, seed=9))
    return jax.tree.map(float, measured)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_have_unit_scale(
    name: str, deviations: dict[str, list[float]]
) -> None:
    # Biases and gains have few numbers.
    np.testing.assert_allclose(deviations[name], CASES[name][2], rtol=0.15, atol=1e-6)
    np.testing.assert_allclose(deviations[name][:2], CASES[name][2][:2], rtol=0.06, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "published"),
    [
        (nonlinear.gelu, (1.70, 1.48)),
        (nonlinear.relu, (1.71, 1.41)),
        (nonlinear.tanh, (1.59, 1.47)),
        (nonlinear.sigmoid, (4.80, 4.72)),
        (nonlinear.silu, (1.79, 1.62)),
    ],
    ids=["GELU", "ReLU", "tanh", "sigmoid", "SiLU"],
)
def test_factors_of_activations(function, published: tuple[float, float]) -> None:
    assert nonlinear.elementwise_factors(function.args[0]) == pytest.approx(published, abs=0.005)


def test_factors_that_are_known_exactly() -> None:
    forward, backward = nonlinear.elementwise_factors(jax.nn.relu)
    assert forward == pytest.approx((2 / (1 - 1 / math.pi)) ** 0.5, rel=1e-5)
    assert backward == pytest.approx(2**0.5, rel=1e-5)
    # E[sin^2] = (1 - e^-2) / 2 and E[cos^2] = (1 + e^-2) / 2.
    sine = nonlinear.elementwise_factors(jnp.sin)
    e = math.exp(-2)
    assert sine == pytest.approx(((2 / (1 - e)) ** 0.5, (2 / (1 + e)) ** 0.5), rel=1e-5)


@pytest.mark.parametrize(("size", "multiplier"), [(2, 1.0), (16, 4.0), (256, 1.0), (64, 0.25)])
def test_deviations_of_softmax(size: int, multiplier: float) -> None:
    rng = np.random.default_rng(0)
    x, gradient = rng.normal(size=(2, 1_000_000 // size, size))
    p = np.exp(multiplier * x)
    p /= p.sum(-1, keepdims=True)
    back = multiplier * p * (gradient - (p * gradient).sum(-1, keepdims=True))
    expected = nonlinear.softmax_deviations(size, multiplier)
    assert (p.std(), back.std()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("multiplier", [0.25, 1.0, 4.0])
def test_factor_of_gated_silu(multiplier: float) -> None:
    """The closed form against E[(g sigmoid(a g))^2], the variance of x g sigmoid(a g)."""
    g = np.linspace(-12, 12, 20_001)
    density = np.exp(-(g**2) / 2) / math.sqrt(2 * math.pi)
    exact = np.trapezoid((g / (1 + np.exp(-multiplier * g))) ** 2 * density, g) ** -0.5
    one = np.asarray(nonlinear.gated_silu(jnp.ones(1), jnp.ones(1), multiplier=multiplier))
    assert one[0] * (1 + math.exp(-multiplier)) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("multiplier", [1.0, 4.0])
def test_factor_of_attention(causal: bool, multiplier: float) -> None:
    """The closed form against the spread of weights, sum_j p_ij^2, of normal queries and keys."""
    length, size = 128, 16
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 40, length, size))
    weights = np.exp(multiplier / size * np.einsum("bis,bjs->bij", q, k))
    if causal:
        weights = np.tril(weights)
    weights /= weights.sum(-1, keepdims=True)
    exact = np.mean(np.sum(weights**2, -1)) ** -0.5
    assert nonlinear.attention_factor(length, size, causal, multiplier) == pytest.approx(
        exact, rel=0.12
    )
    assert nonlinear.attention_factor(1, size, causal, multiplier) == pytest.approx(1.0)


def test_primitives_touch_one_direction() -> None:
    x = jnp.asarray([1.0, -2.0])
    for function, value, slope in (
        (unit.scale_forward, 3.0, 1.0),
        (unit.scale_backward, 1.0, 3.0),
    ):
        y, pullback = jax.vjp(lambda v, f=function: f(v, 3.0), x)
        np.testing.assert_array_equal(y, value * x)
        np.testing.assert_array_equal(pullback(jnp.ones(2))[0], slope * np.ones(2))
        # Forward mode has the same gradient.
        _, tangent = jax.jvp(lambda v, f=function: f(v, 3.0), (x,), (jnp.ones(2),))
        np.testing.assert_array_equal(tangent, slope * np.ones(2))
        assert function(x.astype(jnp.float16), 3.0).dtype == jnp.float16


def test_constraints() -> None:
    assert unit.constrained(None, 2.0, 8.0) == (2.0, 8.0)
    assert unit.constrained("to_output", 2.0, 8.0, 1.0) == (2.0, 2.0, 2.0)
    assert unit.constrained("geometric_mean", 2.0, 8.0) == pytest.approx((4.0, 4.0))


def graph(parameters: dict[str, jax.Array], constraint: Constraint) -> jax.Array:
    """Residual branches whose products are not square, between cut edges."""

    def mixing(v: jax.Array) -> jax.Array:
        parts = unit.linear(v, parameters["into"], constraint=constraint)
        q, k, values = jnp.split(parts, 3, -1)
        logits = unit.matmul(q, jnp.swapaxes(k, -1, -2), constraint=constraint)
        mixed = unit.matmul(
            nonlinear.softmax(logits, constraint=constraint), values, constraint=constraint
        )
        return unit.linear(mixed, parameters["out"], constraint=constraint)

    def hidden(v: jax.Array) -> jax.Array:
        up = nonlinear.gelu(
            unit.linear(unit.layer_norm(v), parameters["up"], constraint=constraint),
            constraint=constraint,
        )
        return unit.linear(up, parameters["down"], constraint=constraint)

    x = unit.residual(mixing, parameters["x"], 0.7)
    x = unit.residual(hidden, x, 0.3)
    x = unit.add(x, nonlinear.tanh(x, constraint=constraint), constraint=constraint or "to_output")
    return unit.linear_readout(x, parameters["readout"])


SHAPES = {
    "into": (12, 6),
    "out": (6, 4),
    "up": (24, 6),
    "down": (6, 24),
    "readout": (3, 6),
    "x": (2, 5, 6),
}


def gradient_ratios(constraint: Constraint) -> dict[str, np.ndarray]:
    """Slopes by the gradient over those by differences, along four directions for each array."""
    with jax.enable_x64():
        rng = np.random.default_rng(0)
        flat, unravel = ravel_pytree({name: rng.normal(size=s) for name, s in SHAPES.items()})
        weights = rng.normal(size=(2, 5, 3))
        masks = [
            ravel_pytree({name: np.full(s, name == chosen) for name, s in SHAPES.items()})[0]
            for chosen in SHAPES
            for _ in range(4)
        ]
        directions = rng.normal(size=(len(masks), flat.size)) * np.array(masks)

        @jax.jit
        def slopes(flat: jax.Array, directions: jax.Array) -> jax.Array:
            def value(flat: jax.Array) -> jax.Array:
                return jnp.sum(weights * graph(unravel(flat), constraint))

            step = 1e-5
            points = jnp.stack([flat + step * directions, flat - step * directions])
            above, below = jax.vmap(jax.vmap(value))(points)
            return directions @ jax.grad(value)(flat) * 2 * step / (above - below)

        found = np.asarray(slopes(flat, directions)).reshape(-1, 4)
    return dict(zip(SHAPES, found, strict=True))


@pytest.mark.parametrize(
    "constraint", [pytest.param("to_output", marks=pytest.mark.slow), "geometric_mean"]
)
def test_constrained_gradients_are_multiples_of_the_true_ones(constraint: Constraint) -> None:
    for name, ratios in gradient_ratios(constraint).items():
        assert ratios[0] > 0
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_without_constraint_branches_do_not_fit_together() -> None:
    ratios = gradient_ratios(None)
    # Cut edges are right all the same.
    np.testing.assert_allclose(ratios["readout"], ratios["readout"][0], rtol=1e-6)
    assert np.ptp(ratios["x"]) > 0.05 * abs(ratios["x"].mean())


def block_deviations(width: int) -> tuple[float, list[float]]:
    """Three blocks of linear, GELU, linear, four times as wide inside."""
    keys = jax.random.split(jax.random.key(0), 6)
    sizes = [(width, 4 * width), (4 * width, width)] * 3
    layers = [Linear(a, b, key=k, constraint=None) for (a, b), k in zip(sizes, keys, strict=True)]

    def network(layers: list[Linear], x: jax.Array) -> jax.Array:
        for up, down in zip(layers[::2], layers[1::2], strict=True):
            x = down(nonlinear.gelu(up(x), constraint=None))
        return x

    @eqx.filter_jit
    def run(layers: list[Linear], x: jax.Array, g: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        y, pullback = jax.vjp(lambda layers: network(layers, x), layers)
        return y.std(), [v.std() for v in jax.tree.leaves(pullback(g))]

    y, gradients = run(layers, normal(96, width), normal(96, width, seed=1))
    return float(y), [float(g) for g in gradients]


@pytest.mark.parametrize(
    "width", [64, *(pytest.param(w, marks=pytest.mark.slow) for w in (256, 1024))]
)
def test_weight_gradients_of_a_network_at_any_width(width: int) -> None:
    output, gradients = block_deviations(width)
    assert 1.1 < output < 1.6
    assert all(0.5 < value < 2 for value in gradients)


def test_bare_casts_of_a_unit_scaled_layer() -> None:
    """Its products cast well in all three directions, as nothing is far from 1."""
    x, weight, gradient = normal(128, 256), normal(192, 256), normal(128, 192)

    @jax.jit
    def run(x: jax.Array, weight: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        wide, pullback = jax.vjp(unit.linear, x, weight)
        cast, pullback_cast = jax.vjp(lambda x, w: unit.linear(x, w, formats=FP8), x, weight)
        return [wide, *pullback(gradient)], [cast, *pullback_cast(gradient)]

    wide, cast = run(x, weight)
    # E4M3 with itself has 28.5 dB, E5M2 with E4M3 25.
    for exact, approximate, least in zip(wide, cast, (28, 24, 24), strict=True):
        assert float(signal_to_noise_db(exact, approximate)) > least
    rounded = np.asarray(fake_quantise(x, formats.FP8_E4M3))
    expected = rounded @ np.asarray(fake_quantise(weight, formats.FP8_E4M3)).T / 16
    np.testing.assert_allclose(cast[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_layers() -> None:
    key = jax.random.key(0)
    x = jnp.asarray(normal(64, 32))
    for layer in (Linear(32, 8, key=key, use_bias=True), LinearReadout(32, 8, key=key)):
        assert layer(x).shape == (64, 8)
        assert layer.weight.std() == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(LayerNorm(32, use_gain=True)(x).std(-1), 1, rtol=1e-3)
    np.testing.assert_allclose(RMSNorm(32)(x), unit.rms_norm(x), rtol=1e-6)
    half = LayerNorm(32)(x.astype(jnp.float16))
    assert half.dtype == jnp.float16
    model = MLP(32, 4, 64, 2, key=key, use_bias=True, formats=FP8)
    assert [layer.weight.shape for layer in model.layers] == [(64, 32), (64, 64)]
    plain = MLP(32, 4, 64, 2, key=key, use_bias=True)
    assert float(signal_to_noise_db(plain(x), model(x))) > 20


def test_bad_input() -> None:
    with pytest.raises(InputError, match="rate"):
        unit.dropout(jnp.asarray(X), 1.0, jax.random.key(0))
    with pytest.raises(InputError, match="two classes"):
        unit.cross_entropy(jnp.ones((3, 1)), jnp.zeros(3, int))
    with pytest.raises(InputError, match="constant"):
        nonlinear.softmax(jnp.ones((3, 1)))
    with pytest.raises(InputError, match="variance"):
        nonlinear.elementwise(jnp.zeros_like, jnp.ones(3))
    with pytest.raises(InputError, match="nothing to add"):
        unit.add()
    with pytest.raises(InputError, match="at least one"):
        MLP(4, 4, 8, 0, key=jax.random.key(0))
