"""The causal language model: its cache, its places, and what it generates."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qmgen.efficiency.networks.decoder import Decoder, generated, rotated
from qmgen.efficiency.networks.smiles_tokens import BEGIN, END, MASK, PAD, Vocabulary
from qmgen.efficiency.networks.sparq import SparQ
from qmgen.errors import InputError

KEY = jax.random.key(0)
VOCABULARY, WIDTH, HEADS, LONGEST = 10, 32, 4, 24


@cache
def model_of(key_heads: int = 2) -> Decoder:
    # Compiled as one program, and not a number at a time.
    return eqx.filter_jit(
        lambda: Decoder(VOCABULARY, 2, WIDTH, HEADS, LONGEST, key=KEY, key_heads=key_heads)
    )()


def some_tokens(rows: int = 3, length: int = 20) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (rows, length)), jnp.int32)


decoded = eqx.filter_jit(lambda model, tokens, sparq: model.decoded(tokens, 5, sparq))
generate = eqx.filter_jit(generated)


@pytest.mark.parametrize("key_heads", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sparq", [None, SparQ(8, LONGEST, 3)], ids=["dense", "SparQ"])
def test_steps_give_what_whole_rows_give(key_heads: int, sparq: SparQ | None) -> None:
    """SparQ with all components and tokens, too."""
    model, tokens = model_of(key_heads), some_tokens()
    whole = eqx.filter_jit(model)(tokens)
    np.testing.assert_allclose(decoded(model, tokens, sparq), whole[:, 5:], rtol=1e-4, atol=1e-5)


def test_later_tokens_are_not_seen() -> None:
    model, tokens = eqx.filter_jit(model_of()), some_tokens()
    other = tokens.at[:, 12:].set((tokens[:, 12:] + 1) % VOCABULARY)
    before, after = model(tokens), model(other)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert not np.allclose(before[:, 12:], after[:, 12:])


def test_rotation_is_equinox_s_and_relative() -> None:
    size = 8
    x = jax.random.normal(KEY, (1, 6, 2, size))
    rotation = eqx.nn.RotaryPositionalEmbedding(size)
    angles = rotation.precompute_freqs_cis(size, 30, 10_000.0, jnp.float32)
    expected = jax.vmap(jax.vmap(rotation, 1, 1))(x)
    np.testing.assert_allclose(
        rotated(x, tuple(v[:6] for v in angles)), expected, rtol=1e-5, atol=1e-6
    )
    products = [
        jnp.einsum("bqhd,bkhd->bhqk", *(rotated(x, tuple(v[at : at + 6] for v in angles)),) * 2)
        for at in (0, 20)
    ]
    np.testing.assert_allclose(*products, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_greedy_generation_is_the_best_token_each_time() -> None:
    """Against reading everything anew for each token."""
    model, read = model_of(), eqx.filter_jit(model_of())
    prompt = jnp.asarray([[BEGIN, 4, 5], [BEGIN, 7, 8]], jnp.int32)
    found = np.asarray(generate(model, prompt, 10))
    tokens, ended = np.asarray(prompt), np.zeros(2, bool)
    for step in range(10):
        padded = np.pad(tokens, ((0, 0), (0, LONGEST - tokens.shape[1])))
        logits = np.array(read(jnp.asarray(padded)))[:, tokens.shape[1] - 1]
        logits[:, [PAD, BEGIN, MASK]] = -np.inf
        best = np.where(ended, PAD, logits.argmax(-1))
        np.testing.assert_array_equal(found[:, step], best)
        ended |= best == END
        tokens = np.concatenate([tokens, best[:, None].astype(np.int32)], 1)


@pytest.mark.slow
def test_no_step_without_room() -> None:
    model = model_of()
    _, caches = eqx.filter_jit(lambda m, t: m.read(t))(model, some_tokens(1, LONGEST - 1))
    step = eqx.filter_jit(lambda m, t, c: m.step(t, c))
    logits, caches = step(model, jnp.zeros(1, jnp.int32), caches)
    assert np.isfinite(logits).all()
    with pytest.raises(eqx.EquinoxRuntimeError, match="no room behind 24"):
        step(model, jnp.zeros(1, jnp.int32), caches)


def trained(model: Decoder, rows: np.ndarray, steps: int) -> Decoder:
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(1e-2)

    @jax.jit
    def run(parameters):
        def step(carry, _):
            gradients = jax.grad(lambda p: eqx.combine(p, static).loss(rows))(carry[0])
            updates, state = optimiser.update(gradients, carry[1])
            return (optax.apply_updates(carry[0], updates), state), None

        start = (parameters, optimiser.init(parameters))
        return jax.lax.scan(step, start, length=steps)[0][0]

    return eqx.combine(run(parameters), static)


@pytest.mark.slow
def test_a_decoder_learns_strings_and_writes_them() -> None:
    """Three strings by heart: drawn and best ones are among them, with SparQ as without."""
    strings = ["CCO", "N=CC", "O=CN"]
    vocabulary = Vocabulary(("=", "C", "N", "O"))
    rows = jnp.asarray(vocabulary.batch(strings))
    fresh = Decoder(len(vocabulary), 2, WIDTH, HEADS, LONGEST, key=KEY)
    model = trained(fresh, rows, 150)
    assert float(model.loss(rows)) < 0.4  # of six tokens one is drawn from three, ln 3 / 5
    prompt = jnp.full((40, 1), BEGIN, jnp.int32)
    for sparq in (None, SparQ(4, 4, 2)):
        tokens = np.asarray(generate(model, prompt, 8, key=KEY, sparq=sparq))
        found = [string for row in tokens for string in vocabulary.strings(row)]
        # Draws may be unlikely ones, and SparQ leaves tokens out.
        assert set(strings) <= set(found)
        assert np.mean([string in strings for string in found]) > 0.9
        best = np.asarray(generate(model, prompt[:1], 8, sparq=sparq))
        assert vocabulary.strings(best[0])[0] in strings


def test_loss_leaves_pads_out() -> None:
    model = eqx.filter_jit(lambda model, rows: model.loss(rows))
    tokens = np.array(some_tokens(2, 12)) % 6 + 4
    padded = np.pad(tokens, ((0, 0), (0, 3)), constant_values=PAD).astype(np.int32)
    expected = model(model_of(), jnp.asarray(tokens, jnp.int32))
    assert float(model(model_of(), jnp.asarray(padded))) == pytest.approx(float(expected), rel=1e-5)


def test_bad_input() -> None:
    model = model_of()
    with pytest.raises(InputError, match="even size"):
        Decoder(VOCABULARY, 1, 36, 4, LONGEST, key=KEY)
    with pytest.raises(InputError, match="of keys"):
        Decoder(VOCABULARY, 1, 32, 4, LONGEST, key=KEY, key_heads=3)
    with pytest.raises(InputError, match="has room for 24"):
        model(some_tokens(1, LONGEST + 1))
    for prompt in (0, 20):
        with pytest.raises(InputError, match="prompt of"):
            model.decoded(some_tokens(), prompt)
    with pytest.raises(InputError, match="20 tokens and 5 steps"):
        generated(model, some_tokens(), 5)
