"""Values and gradients of the authors' own package, unit-scaling, on the same numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import unit_scaling as theirs
import unit_scaling.functional as package
from unit_scaling.core.functional import transformer_residual_scaling_rule
from unit_scaling.optim import lr_scale_func_adam
from unit_scaling.scale import scale_fwd

from qmgen.efficiency import umup
from qmgen.efficiency import unit_scaled_nonlinear as nonlinear
from qmgen.efficiency import unit_scaling as unit
from qmgen.efficiency.unit_scaled_transformer import Decoder, FeedForward


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


X = normal(24, 10)
WEIGHT, BIAS = normal(14, 10), normal(14)
LABELS = np.random.default_rng(0).integers(0, 10, 24)
TOKENS = np.random.default_rng(0).integers(0, 7, (3, 5))
# batch, length, heads, size here, and heads before length there.
HEADS = [normal(2, 9, 3, 4, seed=seed) for seed in range(3)]


def their_attention(*heads: torch.Tensor, **options: object) -> torch.Tensor:
    turned = [part.transpose(1, 2) for part in heads]
    return package.scaled_dot_product_attention(*turned, **options).transpose(1, 2)


def their_residual(x: torch.Tensor) -> torch.Tensor:
    return package.residual_apply(lambda v: package.silu_glu(v, v), x, 0.3)


Case = tuple[Callable[..., jax.Array], Callable[..., torch.Tensor], list[np.ndarray]]
CASES: dict[str, Case] = {
    "linear": (unit.linear, lambda x, w: package.linear(x, w, None), [X, WEIGHT]),
    "linear, own factors": (
        lambda x, w: unit.linear(x, w, constraint=None),
        lambda x, w: package.linear(x, w, None, constraint=None),
        [X, WEIGHT],
    ),
    "linear, geometric mean": (
        lambda x, w: unit.linear(x, w, constraint="geometric_mean"),
        lambda x, w: package.linear(x, w, None, constraint="gmean"),
        [X, WEIGHT],
    ),
    # There the bias is multiplied by the factor of the product, too.
    "linear with bias": (
        unit.linear,
        lambda x, w, b: package.linear(x, w, scale_fwd(b, 10**0.5)),
        [X, WEIGHT, BIAS],
    ),
    "readout": (unit.linear_readout, lambda x, w: package.linear_readout(x, w, None), [X, WEIGHT]),
    "matmul": (unit.matmul, package.matmul, [normal(3, 4, 5), normal(3, 5, 6)]),
    "matmul, own factors": (
        lambda a, b: unit.matmul(a, b, constraint=None),
        lambda a, b: package.matmul(a, b, constraint=None),
        [normal(3, 4, 5), normal(3, 5, 6)],
    ),
    "add": (unit.add, package.add, [X, normal(24, 10, seed=1)]),
    "add, own factors": (
        lambda a, b: unit.add(a, b, constraint=None),
        lambda a, b: package.add(a, b, constraint=None),
        [X, normal(24, 10, seed=1)],
    ),
    "residual": (
        lambda x: unit.residual(lambda v: nonlinear.gated_silu(v, v), x, 0.3),
        their_residual,
        [X],
    ),
    "embedding": (
        lambda table: unit.embedding(jnp.asarray(TOKENS), table),
        lambda table: package.embedding(torch.from_numpy(TOKENS), table),
        [normal(7, 6)],
    ),
    "layer norm": (
        unit.layer_norm,
        lambda x, g, b: package.layer_norm(x, (10,), g, b),
        [X, normal(10), normal(10, seed=1)],
    ),
    "RMS norm": (
        unit.rms_norm,
        lambda x, g: package.rms_norm(x, (10,), g),
        [X, normal(10)],
    ),
    "cross-entropy": (
        lambda z: unit.cross_entropy(z, jnp.asarray(LABELS), multiplier=1.5),
        lambda z: package.cross_entropy(z, torch.from_numpy(LABELS), mult=1.5),
        [X],
    ),
    "mean squared error": (
        unit.mean_squared_error,
        package.mse_loss,
        [X, normal(24, 10, seed=1)],
    ),
    "gated SiLU": (
        lambda x, g: nonlinear.gated_silu(x, g, multiplier=0.7),
        lambda x, g: package.silu_glu(x, g, mult=0.7),
        [X, normal(24, 10, seed=1)],
    ),
    "attention": (
        lambda *h: nonlinear.attention(*h, multiplier=2.0),
        lambda *h: their_attention(*h, mult=2.0),
        HEADS,
    ),
    "causal attention": (
        lambda *h: nonlinear.attention(*h, causal=True),
        lambda *h: their_attention(*h, is_causal=True),
        HEADS,
    ),
}
# Here our factors are integrals and theirs a fit: the same but for a constant near 1.
FITTED: dict[str, Case] = {
    "GELU": (nonlinear.gelu, package.gelu, [X]),
    "GELU of 2 x": (
        lambda x: nonlinear.gelu(x, multiplier=2.0),
        lambda x: package.gelu(x, mult=2.0),
        [X],
    ),
    "SiLU": (nonlinear.silu, package.silu, [X]),
    "SiLU, own factors": (
        lambda x: nonlinear.silu(x, constraint=None),
        lambda x: package.silu(x, constraint=None),
        [X],
    ),
    "softmax": (nonlinear.softmax, lambda x: package.softmax(x, -1), [X]),
}


def value_and_gradients(
    function: Callable[..., torch.Tensor], arguments: list[np.ndarray], gradient: np.ndarray
) -> list[np.ndarray]:
    leaves = [torch.from_numpy(a).requires_grad_() for a in arguments]
    value = function(*leaves)
    value.backward(torch.from_numpy(gradient))
    return [value.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


@pytest.fixture(scope="module")
def ours() -> dict[str, list[np.ndarray]]:
    """Value, gradients, and the gradient of the value, of all cases by one program."""
    cases = CASES | FITTED

    def of_all(
        arguments: dict[str, list[jax.Array]], noise: jax.Array
    ) -> dict[str, list[jax.Array]]:
        results = {}
        for name, given in arguments.items():
            value, pullback = jax.vjp(cases[name][0], *given)
            gradient = noise[: value.size].reshape(value.shape)
            results[name] = [gradient, value, *pullback(gradient)]
        return results

    # Run once, so that compiling is what takes time.
    compiled = jax.jit(of_all, compiler_options={"xla_backend_optimization_level": 0})
    done = compiled({name: case[2] for name, case in cases.items()}, normal(1000, seed=9))
    return jax.tree.map(np.array, done)


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_package(name: str, ours: dict[str, list[np.ndarray]]) -> None:
    gradient, *got = ours[name]
    expected = value_and_gradients(CASES[name][1], CASES[name][2], gradient)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FITTED)
def test_same_but_for_a_fitted_factor(name: str, ours: dict[str, list[np.ndarray]]) -> None:
    gradient, *got = ours[name]
    expected = value_and_gradients(FITTED[name][1], FITTED[name][2], gradient)
    for mine, other in zip(got, expected, strict=True):
        factor = np.sum(mine * other) / np.sum(other**2)
        # Their softmax, times size^0.9, has unit RMS; ours has unit deviations from its mean.
        assert factor == pytest.approx(1, abs=0.05 if name != "softmax" else 0.3)
        np.testing.assert_allclose(mine, factor * other, rtol=1e-4, atol=1e-5)


def test_dropout_scales_alike() -> None:
    x = np.full((4, 64), 3.0, np.float32)
    mine = np.asarray(unit.dropout(jnp.asarray(x), 0.25, jax.random.key(0)))
    other = package.dropout(torch.from_numpy(x), 0.25).numpy()
    np.testing.assert_allclose(np.unique(mine), np.unique(other), rtol=1e-6)


def test_feed_forward_is_their_mlp() -> None:
    module = theirs.MLP(8)
    layer = FeedForward(8, 32, key=jax.random.key(0))
    x, gradient = normal(6, 8), normal(6, 8, seed=1)
    with torch.no_grad():
        for mine, other in (
            (layer.up, module.linear_1),
            (layer.gate, module.linear_gate),
            (layer.down, module.linear_2),
        ):
            other.weight.copy_(torch.from_numpy(np.array(mine.weight)))
    expected = value_and_gradients(module, [x], gradient)
    value, pullback = jax.jit(lambda f, v, g: (lambda y, p: (y, p(g)))(*jax.vjp(f, v)))(
        layer, x, gradient
    )
    np.testing.assert_allclose(value, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pullback[0], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("residual", "ratio"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.25)])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_residual_weights(residual: float, ratio: float, depth: int) -> None:
    rule = transformer_residual_scaling_rule(residual, ratio)
    hyper = umup.Hyperparameters(residual=residual, residual_attention_ratio=ratio)
    mine = np.ravel(umup.residual_weights(depth, hyper))
    np.testing.assert_allclose(mine, [rule(i, 2 * depth) for i in range(2 * depth)], rtol=1e-12)


def test_learning_rates_are_theirs() -> None:
    module = theirs.TransformerDecoder(hidden_size=16, vocab_size=11, layers=3, heads=2)
    factors = {name: lr_scale_func_adam(value) for name, value in module.named_parameters()}
    roles = umup.roles(Decoder(11, 3, 16, 2, key=jax.random.key(0)))
    layer, prefix = roles.stack.layers[1], "layers.1."
    for role, name in (
        (roles.embedding.weight, "embedding.weight"),
        (layer.attention.into.weight, prefix + "mhsa.linear_qkv.weight"),
        (layer.attention.out.weight, prefix + "mhsa.linear_o.weight"),
        (layer.ffn.up.weight, prefix + "mlp.linear_1.weight"),
        (layer.ffn.gate.weight, prefix + "mlp.linear_gate.weight"),
        (layer.ffn.down.weight, prefix + "mlp.linear_2.weight"),
        (roles.readout.weight, "projection.weight"),
    ):
        found = [value for full, value in factors.items() if full.endswith(name)]
        assert found
        assert role.learning_rate_factor == pytest.approx(found[0], rel=1e-12)
