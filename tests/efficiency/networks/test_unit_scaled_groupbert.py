"""GroupBERT's layer at unit scale, with all of its products with weights in FP8."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import expit

from qmgen.efficiency import formats, umup
from qmgen.efficiency.networks import grouped
from qmgen.efficiency.networks.bert import corrupted, masked_language_loss
from qmgen.efficiency.networks.smiles_tokens import PAD
from qmgen.efficiency.networks.unit_scaled_groupbert import (
    ConvolutionModule,
    GroupBertLayer,
    GroupedLinear,
    MaskedLanguageModel,
    gate_factor,
    windows,
)
from qmgen.efficiency.quantised_matmul import MatmulFormats
from tests.efficiency.networks.test_groupbert import (
    KEY,
    LENGTH,
    VOCABULARY,
    tokens_with_pads,
    trained,
)

# Bare casts, without any scale.
FP8 = MatmulFormats(formats.FP8_E4M3, formats.FP8_E4M3, formats.FP8_E5M2)


@cache
def model_of(format: MatmulFormats | None, width: int = 32) -> MaskedLanguageModel:
    # Compiled as one program, and not a number at a time.
    return eqx.filter_jit(
        lambda: MaskedLanguageModel(VOCABULARY, 16, 1, width, 2, key=KEY, formats=format)
    )()


def test_gate_factor_is_an_integral() -> None:
    variance = dblquad(
        lambda v, g: (v * expit(g)) ** 2 * np.exp(-(v**2 + g**2) / 2) / (2 * np.pi), -9, 9, -9, 9
    )[0]
    assert gate_factor() == pytest.approx(variance**-0.5, rel=1e-6)


def test_grouped_products_are_those_of_grouped() -> None:
    """But for the factor, fan-in^-1/2."""

    @jax.jit
    def both() -> list[tuple[jax.Array, jax.Array]]:
        layer = GroupedLinear(24, 12, 4, key=KEY)
        x = jax.random.normal(KEY, (2, 5, 24))
        expected = grouped.grouped_linear(x, layer.layers.weight) * 6**-0.5
        module = ConvolutionModule(32, key=KEY)
        inside = jax.random.normal(KEY, (2, LENGTH, 32))
        # (groups, out, 7 places x 16) as (7, 16, groups x out).
        kernel = module.convolution.layers.weight.reshape(32, 7, 16).transpose(1, 2, 0)
        convolved = grouped.grouped_convolution(inside, kernel) * 112**-0.5
        return [(layer(x), expected), (module.convolution(windows(inside, 2)), convolved)]

    for found, expected in both():
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@eqx.filter_jit
def scales(layer: GroupBertLayer, x: jax.Array, gradient: jax.Array) -> tuple:
    """Standard deviations of the output and of all gradients."""
    real = jnp.ones(x.shape[:2], bool)
    y, pullback = eqx.filter_vjp(lambda f, v: f(v, real), layer, x)
    return y.std(), *jax.tree.map(jnp.std, pullback(gradient))


@pytest.mark.parametrize(
    "format", [None, pytest.param(FP8, marks=pytest.mark.slow)], ids=["wide", "FP8"]
)
def test_a_layer_keeps_unit_scale(format: MatmulFormats | None) -> None:
    layer = model_of(format, 64).stack.layers[0]
    x, gradient = np.random.default_rng(0).normal(size=(2, 16, 24, 64)).astype(np.float32)
    output, of_layer, of_x = scales(layer, jnp.asarray(x), jnp.asarray(gradient))
    # GELU's mean is no part of its variance, and comes out of the next product as a vector that all
    # places share, which attention's average over places then makes larger.
    assert float(output) == pytest.approx(1, abs=0.3)
    assert float(of_x) == pytest.approx(1, abs=0.3)
    found = [float(value) for value in jax.tree.leaves(of_layer)]
    # The gate's gradient has 0.38 by the factor that it shares.
    assert len(found) == 12
    assert all(0.3 < value < 2 for value in found), found


@pytest.mark.slow
def test_pads_never_change_outputs() -> None:
    model = model_of(None)
    tokens = tokens_with_pads(3)
    layer, real = model.stack.layers[0], jnp.asarray(tokens != PAD)
    x = np.random.default_rng(0).normal(size=(3, LENGTH, 32)).astype(np.float32)
    noise = np.where(real[..., None], x, 100).astype(np.float32)
    run = eqx.filter_jit(lambda v: layer(v, real))
    np.testing.assert_allclose(run(noise)[real], run(x)[real], rtol=1e-4, atol=1e-5)


def test_roles_of_stacked_weights() -> None:
    built = model_of(None)
    layer = umup.roles(built).stack.layers[0]
    assert layer.first_ffn.down.layers.weight == umup.Role("hidden", 32)
    assert layer.convolution.convolution.layers.weight == umup.Role("hidden", 112)
    assert jax.tree.structure(umup.roles(built)) == jax.tree.structure(
        eqx.filter(built, eqx.is_inexact_array)
    )


@pytest.mark.slow
def test_loss_and_its_gradient() -> None:
    """The value is the mean, the gradient a multiple of the mean's."""
    model = model_of(None)
    tokens = jnp.asarray(tokens_with_pads(8))

    @eqx.filter_jit
    def both(readout: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        def changed(weight: jax.Array) -> MaskedLanguageModel:
            return eqx.tree_at(lambda m: m.readout.weight, model, weight)

        return [
            jax.value_and_grad(loss)(readout)
            for loss in (
                lambda w: changed(w).loss(tokens, KEY),
                lambda w: masked_language_loss(changed(w), tokens, VOCABULARY, KEY),
            )
        ]

    (value, gradient), (expected, mean) = both(model.readout.weight)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    count = int(corrupted(tokens, VOCABULARY, KEY).chosen.sum())
    factor = count * VOCABULARY * (VOCABULARY - 1) ** -0.5
    np.testing.assert_allclose(gradient, factor * mean, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", [None, FP8], ids=["wide", "FP8"])
def test_training_finds_masked_symbols(format: MatmulFormats | None) -> None:
    model = model_of(format)
    losses = trained(
        model,
        lambda model, tokens, key: model.loss(tokens, key),
        umup.adam(0.25, umup.roles(model)),
        250,
    )
    assert losses[0] > 2.5
    assert losses[-20:].mean() < 0.3
