"""GroupBERT's layer: its weights, operations and padding, and masked-language training."""

import math
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from qmgen.efficiency.fp8_linear import FP8_AMAX, QuantisedLinear, quantise_linears
from qmgen.efficiency.networks.bert import (
    BertLayer,
    MaskedLanguageModel,
    corrupted,
    masked_language_loss,
    weight_count,
)
from qmgen.efficiency.networks.flop_count import multiply_accumulates
from qmgen.efficiency.networks.groupbert import GroupBertLayer
from qmgen.efficiency.networks.smiles_tokens import BEGIN, END, MASK, PAD, SPECIAL
from qmgen.errors import InputError

WIDTH, HEADS, LENGTH, VOCABULARY = 32, 2, 12, 20
KEY = jax.random.key(0)


@cache
def layer_of(kind: str) -> eqx.Module:
    def layer() -> eqx.Module:
        if kind == "GroupBERT":
            return GroupBertLayer(WIDTH, HEADS, key=KEY)
        return BertLayer(WIDTH, HEADS, key=KEY, order=kind)

    # Compiled as one program, and not a number at a time.
    return eqx.filter_jit(layer)()


@pytest.mark.parametrize("width", [16, 64, 768])
def test_weights_of_a_layer(width: int) -> None:
    """The paper's 19 d^2 + 112 d and BERT's 12 d^2, and by hand biases and norms."""
    group = eqx.filter_eval_shape(GroupBertLayer, width, 2, key=KEY)
    plain = eqx.filter_eval_shape(BertLayer, width, 2, key=KEY)

    def counts(layer: eqx.Module) -> tuple[int, int]:
        sizes = [leaf for leaf in jax.tree.leaves(layer) if isinstance(leaf, jax.ShapeDtypeStruct)]
        return sum(s.size for s in sizes if s.ndim > 1), sum(s.size for s in sizes)

    assert counts(group) == (19 * width**2 + 112 * width, 19 * width**2 + 142 * width)
    assert counts(plain) == (12 * width**2, 12 * width**2 + 13 * width)


def test_weight_count_and_cost() -> None:
    """Each weight is used once a token, and attention multiplies pairs of tokens on top."""
    layer = layer_of("GroupBERT")
    assert weight_count(layer) == 19 * WIDTH**2 + 112 * WIDTH
    x, mask = jnp.ones((3, LENGTH, WIDTH)), jnp.ones((3, LENGTH), bool)
    pairs = 2 * 3 * LENGTH**2 * WIDTH
    assert multiply_accumulates(layer, x, mask) == 3 * LENGTH * weight_count(layer) + pairs


def tokens_with_pads(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tokens = np.full((rows, LENGTH), PAD, np.int32)
    for row in tokens:
        size = rng.integers(3, LENGTH + 1)
        row[:size] = [BEGIN, *rng.integers(len(SPECIAL), VOCABULARY, size - 2), END]
    return tokens


def model_of(kind: str, depth: int = 1) -> MaskedLanguageModel:
    layers = tuple(layer_of(kind) for _ in range(depth))
    return MaskedLanguageModel(VOCABULARY, 16, WIDTH, layers, key=KEY)


@pytest.mark.parametrize(
    "kind", ["GroupBERT", *(pytest.param(k, marks=pytest.mark.slow) for k in ("pre", "post"))]
)
def test_pads_never_change_outputs(kind: str) -> None:
    model = eqx.filter_jit(model_of(kind))
    tokens = tokens_with_pads(4)
    logits = np.asarray(model(tokens))
    longer = np.pad(tokens, ((0, 0), (0, 4)), constant_values=PAD)
    padded = np.asarray(model(longer))[:, :LENGTH]
    real = tokens != PAD
    np.testing.assert_allclose(padded[real], logits[real], rtol=1e-4, atol=1e-5)
    # What is at the places of pads makes no difference either, only what is at tokens does.
    layer = eqx.filter_jit(layer_of(kind))
    x = np.random.default_rng(0).normal(size=(4, LENGTH, WIDTH)).astype(np.float32)
    other = np.where(real[..., None], x, 1e3).astype(np.float32)
    before, after = (np.asarray(layer(v, real)) for v in (x, other))
    np.testing.assert_allclose(after[real], before[real], rtol=1e-4, atol=1e-5)
    assert not np.allclose(layer(x + 1e-2 * real[..., None] * x**2, real)[real], before[real])


def theirs(layer: GroupBertLayer, x: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The paper's layer in PyTorch's own operations."""
    functional = torch.nn.functional

    def array(value: jax.Array) -> torch.Tensor:
        return torch.tensor(np.asarray(value))

    def linear(layer: eqx.nn.Linear, v: torch.Tensor) -> torch.Tensor:
        return functional.linear(v, array(layer.weight), array(layer.bias))

    def norm(layer: eqx.nn.LayerNorm, v: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(v, (WIDTH,), array(layer.weight), array(layer.bias))

    def feed_forward(module, v: torch.Tensor) -> torch.Tensor:
        hidden = functional.gelu(linear(module.up, v))
        # A grouped linear layer is a grouped convolution of kernel 1.
        weight = array(module.down.weight).reshape(WIDTH, WIDTH, 1)
        down = functional.conv1d(hidden.mT, weight, array(module.down.bias), groups=4).mT
        return linear(module.mix, down)

    v, token = torch.tensor(x), torch.tensor(real)
    module = layer.convolution
    # GLU of PyTorch is a sigmoid(b) of the halves a and b.
    halves = linear(module.gate_and_value, norm(layer.norms[0], v))
    inside = functional.glu(halves.roll(WIDTH, -1)) * token[..., None]
    kernel = array(module.convolution.weight).permute(2, 1, 0)
    mixed = functional.conv1d(
        inside.mT, kernel, array(module.convolution.bias), padding=3, groups=WIDTH // 16
    ).mT
    v = v + linear(module.out, functional.silu(norm(module.norm, mixed)))
    v = v + feed_forward(layer.first_ffn, norm(layer.norms[1], v))
    attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(array(layer.attention.into.weight))
        attention.in_proj_bias.copy_(array(layer.attention.into.bias))
        attention.out_proj.weight.copy_(array(layer.attention.out.weight))
        attention.out_proj.bias.copy_(array(layer.attention.out.bias))
        inside = norm(layer.norms[2], v)
        v = v + attention(inside, inside, inside, key_padding_mask=~token)[0]
    return (v + feed_forward(layer.second_ffn, norm(layer.norms[3], v))).numpy()


def test_layer_is_that_of_torch_operations() -> None:
    layer = layer_of("GroupBERT")
    # Biases and gains other than 0 and 1.
    rng = np.random.default_rng(1)
    layer = jax.tree.map(
        lambda v: v + rng.normal(0, 0.1, v.shape).astype(np.float32) if eqx.is_array(v) else v,
        layer,
    )
    x = np.random.default_rng(0).normal(size=(3, LENGTH, WIDTH)).astype(np.float32)
    real = tokens_with_pads(3) != PAD
    found = np.asarray(eqx.filter_jit(layer)(x, real))
    np.testing.assert_allclose(found[real], theirs(layer, x, real)[real], rtol=2e-4, atol=2e-5)


def test_shares_of_the_corruption() -> None:
    """15 % of symbols, of these 80 % MASK, 10 % any symbol and 10 % as before, to 4 sigma."""
    tokens = np.tile(np.arange(VOCABULARY, dtype=np.int32), (400, 50))
    shown, chosen = map(np.asarray, corrupted(jnp.asarray(tokens), VOCABULARY, KEY))
    symbols = tokens >= len(SPECIAL)
    assert not chosen[~symbols].any()
    np.testing.assert_array_equal(shown[~chosen], tokens[~chosen])
    count = chosen.sum()
    assert count / symbols.sum() == pytest.approx(0.15, abs=4 * math.sqrt(0.13 / symbols.sum()))
    tolerance = 4 * math.sqrt(0.16 / count)
    assert np.mean(shown[chosen] == MASK) == pytest.approx(0.8, abs=tolerance)
    # A symbol drawn at random is the same one now and then.
    same = 0.1 + 0.1 / (VOCABULARY - len(SPECIAL))
    assert np.mean(shown[chosen] == tokens[chosen]) == pytest.approx(same, abs=tolerance)
    assert shown[chosen & (shown != MASK)].min() >= len(SPECIAL)


def test_loss_counts_chosen_places_only() -> None:
    tokens = jnp.asarray(tokens_with_pads(8))
    logits = jax.random.normal(jax.random.key(1), (*tokens.shape, VOCABULARY))

    @jax.jit
    def run(tokens: jax.Array) -> tuple:
        given = []

        def model(shown: jax.Array) -> jax.Array:
            given.append(shown)
            return logits

        loss = masked_language_loss(model, tokens, VOCABULARY, KEY)
        return loss, given[0], corrupted(tokens, VOCABULARY, KEY)

    loss, given, (shown, chosen) = jax.tree.map(np.array, run(tokens))
    np.testing.assert_array_equal(given, shown)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(np.array(logits))[torch.tensor(chosen)],
        torch.tensor(np.array(tokens))[torch.tensor(chosen)].long(),
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(run(jnp.full_like(tokens, PAD))[0]) == 0


def test_dense_products_in_fp8() -> None:
    layer = layer_of("GroupBERT")
    rounded = quantise_linears(layer, FP8_AMAX)
    assert isinstance(rounded.attention.into, QuantisedLinear)
    x = jax.random.normal(KEY, (2, LENGTH, WIDTH))
    real = jnp.ones((2, LENGTH), bool)
    wide, narrow = eqx.filter_jit(lambda a, b: (a(x, real) - x, b(x, real) - x))(layer, rounded)
    error = float(jnp.std(narrow - wide) / jnp.std(wide))
    # E4M3 rounds by up to 1/16, 0.026 on average; several products are one after another.
    assert 0.005 < error < 0.1


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no multiple"):
        GroupBertLayer(40, 2, key=KEY)
    with pytest.raises(InputError, match="heads"):
        BertLayer(32, 3, key=KEY)
    with pytest.raises(InputError, match="16 places"):
        model_of("pre")(jnp.zeros((1, 17), jnp.int32))
    with pytest.raises(InputError, match="special tokens only"):
        corrupted(jnp.zeros((1, 3), jnp.int32), len(SPECIAL), KEY)


def rings(rows: int, seed: int) -> np.ndarray:
    """Strings that count up from anywhere, so that near symbols say what a masked one is."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 8, (rows, 1))
    return np.asarray(len(SPECIAL) + (start + np.arange(LENGTH)) % 8, np.int32)


def trained(model: eqx.Module, loss, optimiser, steps: int) -> np.ndarray:
    """Losses of all steps, in one scan."""
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    batches = rings(steps * 16, 0).reshape(steps, 16, LENGTH)

    @jax.jit
    def run(parameters):
        def step(carry, inputs):
            parameters, state = carry
            tokens, key = inputs
            value, gradients = jax.value_and_grad(
                lambda p: loss(eqx.combine(p, static), tokens, key)
            )(parameters)
            updates, state = optimiser.update(gradients, state, parameters)
            return (optax.apply_updates(parameters, updates), state), value

        keys = jax.random.split(KEY, steps)
        start = (parameters, optimiser.init(parameters))
        return jax.lax.scan(step, start, (batches, keys))[1]

    return np.asarray(run(parameters))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GroupBERT", "post"])
def test_training_finds_masked_symbols(kind: str) -> None:
    losses = trained(
        model_of(kind, 1 if kind == "GroupBERT" else 2),
        lambda model, tokens, key: masked_language_loss(model, tokens, VOCABULARY, key),
        optax.adam(3e-3),
        250,
    )
    assert losses[0] > 2.5
    assert losses[-20:].mean() < 0.3
