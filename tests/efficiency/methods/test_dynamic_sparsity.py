"""Sparse training: its exact limits, what stays constant, what is explored, and what it costs."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qmgen.efficiency.methods.block_sparse import pack_blocks
from qmgen.efficiency.methods.dynamic_sparsity import (
    SparsityRule,
    apply_masks,
    block_norms,
    expand_mask,
    explored_share,
    matrices,
    random_masks,
    rate_factor,
    reallocate,
    sparse_training,
    training_flops,
)
from qmgen.errors import InputError

WEIGHTS = {
    "first": np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32),
    "bias": np.zeros(16, np.float32),
    "second": np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32),
}
X = np.random.default_rng(2).normal(size=(32, 24)).astype(np.float32)
Y = np.random.default_rng(3).normal(size=(32, 8)).astype(np.float32)


def loss(weights: dict) -> jax.Array:
    hidden = jnp.tanh(X @ weights["first"].T + weights["bias"])
    return jnp.mean((hidden @ weights["second"].T - Y) ** 2)


def trained(optimiser: optax.GradientTransformation, weights: Any, loss: Any, steps: int) -> Any:
    """Weights and states of the optimiser after each step."""

    @jax.jit
    def run(weights: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            updates, state = optimiser.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
            after = optax.apply_updates(carry[0], updates), state
            return after, after

        return jax.lax.scan(step, (weights, optimiser.init(weights)), None, steps)[1]

    return jax.tree.map(lambda leaf: leaf if leaf.dtype.name[:3] == "key" else np.asarray(leaf),
                        run(weights))  # fmt: skip


def test_nothing_sparse_is_dense_training() -> None:
    rule = SparsityRule(0.0, (4, 4), steps=2, patterns=5)
    plain = optax.adam(0.01)
    found = expected = WEIGHTS["second"]
    optimiser = sparse_training(plain, rule, True, jax.random.key(0))
    state, plain_state = optimiser.init(found), plain.init(expected)
    gradient = jax.jit(jax.grad(lambda weight: jnp.mean((X[:, :16] @ weight.T - Y) ** 2)))
    # Operation by operation, as compiled programs round in other places.
    for _ in range(4):
        updates, state = optimiser.update(gradient(found), state, found)
        found = optax.apply_updates(found, updates)
        updates, plain_state = plain.update(gradient(expected), plain_state, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_array_equal(found, expected)
    assert (np.asarray(found) != WEIGHTS["second"]).all()
    assert explored_share(state) == 1


@pytest.mark.slow
def test_a_static_pattern_is_training_of_a_masked_network() -> None:
    rule = SparsityRule(0.75, (4, 8), steps=2, patterns=5, first_share=0.0)
    optimiser = sparse_training(optax.adam(0.01), rule, matrices(WEIGHTS), jax.random.key(0))
    masks = optimiser.init(WEIGHTS).masks
    found, state = trained(optimiser, apply_masks(WEIGHTS, masks), loss, 12)
    plain, _ = trained(optax.adam(0.01), WEIGHTS, lambda w: loss(apply_masks(w, masks)), 12)
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f[-1], e, rtol=1e-5, atol=1e-7),
        found,
        apply_masks(jax.tree.map(lambda leaf: leaf[-1], plain), masks),
    )
    assert explored_share(jax.tree.map(lambda leaf: leaf[-1], state)) == pytest.approx(0.25)


@pytest.mark.parametrize("block", [pytest.param((1, 1), marks=pytest.mark.slow), (4, 8)])
def test_sparsity_is_constant_and_blocks_begin_at_zero(block: tuple[int, int]) -> None:
    rule = SparsityRule(0.75, block, steps=3, patterns=6)
    sparse = matrices(WEIGHTS)
    optimiser = sparse_training(optax.adam(0.01), rule, sparse, jax.random.key(1))
    start = optimiser.init(WEIGHTS)
    weights, states = trained(optimiser, apply_masks(WEIGHTS, start.masks), loss, 20)
    adam = states.inner[0]
    for name in ("first", "second"):
        shape = WEIGHTS[name].shape
        active = rule.active_blocks(shape)
        assert active == np.prod(rule.grid(shape)) // 4
        before = np.asarray(start.masks[name])
        for step, mask in enumerate(states.masks[name]):
            assert mask.sum() == active
            whole = np.kron(mask, np.ones(block, bool))
            np.testing.assert_array_equal(whole, expand_mask(jnp.asarray(mask), shape))
            begun = np.kron(mask & ~before, np.ones(block, bool))
            for tensor in (weights[name], adam.mu[name], adam.nu[name]):
                assert not tensor[step][~whole].any()
                assert not tensor[step][begun].any()
            number, rest = divmod(step + 1, 3)
            share = 0.25 * (1 + np.cos(np.pi * min(number / 6, 1)))
            moves = np.round(share * active) if rest == 0 else 0
            assert (mask & ~before).sum() == (before & ~mask).sum() == moves
            before = mask
        # Blocks that began have learnt something, where they lead anywhere.
        assert (weights[name][-1][whole] != 0).mean() > 0.5
    assert weights["bias"][-1].any()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_weakest_go_and_others_begin(share: float) -> None:
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(12, 20)).astype(np.float32)
    mask = np.asarray(random_masks(weight, True, SparsityRule(0.4, (2, 4), 1, 1),
                                   jax.random.key(2)))  # fmt: skip
    norms = block_norms(jnp.asarray(weight), mask.shape)
    for row, column in itertools.product(range(6), range(5)):
        block = weight[2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
        assert norms[row, column] == pytest.approx(np.abs(block).sum(), rel=1e-5)
    new = np.asarray(reallocate(jnp.asarray(mask), norms, jnp.float32(share), jax.random.key(3)))
    # Of 18 active blocks, at most as many move as there are others.
    count = min(round(share * 18), 12)
    gone = sorted(np.asarray(norms)[mask])[:count]
    np.testing.assert_array_equal(sorted(np.asarray(norms)[mask & ~new]), gone)
    assert (new & ~mask).sum() == count
    assert new.sum() == 18


@pytest.mark.slow
@pytest.mark.parametrize(("patterns", "expected"), [(160, 0.989), (80, 0.902)])
def test_what_is_explored(patterns: int, expected: float) -> None:
    # What is inactive is drawn at random, so 0.9 prod(1 - p 0.1 / 0.9) is left; 0.989 and 0.90 are
    # what the method's description has of simulations.
    rule = SparsityRule(0.9, (1, 1), 1, patterns)
    shares = np.array([rule.share(number) for number in range(1, patterns + 1)])
    assert 1 - 0.9 * np.prod(1 - shares / 9) == pytest.approx(expected, abs=3e-3)
    weights = jnp.zeros((64, 64))
    optimiser = sparse_training(optax.sgd(1.0), rule, True, jax.random.key(4))
    noise = jax.random.normal(jax.random.key(5), (64, 64))
    _, states = trained(optimiser, weights, lambda w: jnp.sum(noise * w), patterns)
    # Of 4096 places the share has a standard deviation of 0.005 at most.
    assert states.explored[-1].mean() == pytest.approx(expected, abs=0.015)


def test_only_active_blocks_are_multiplied() -> None:
    rule = SparsityRule(0.75, (16, 16), 1, 1)
    weight = np.random.default_rng(5).normal(size=(64, 128)).astype(np.float32)
    mask = random_masks(weight, True, rule, jax.random.key(0))
    layer = pack_blocks(jnp.asarray(weight), mask)
    masked = apply_masks(weight, mask)
    np.testing.assert_array_equal(layer.dense(), masked)
    x = np.random.default_rng(6).normal(size=(40, 128)).astype(np.float32)
    np.testing.assert_allclose(
        layer(jnp.asarray(x)), x @ np.asarray(masked).T, rtol=1e-4, atol=1e-4
    )
    assert training_flops(weight, mask, 40) == 6 * 40 * 64 * 128 * 0.25
    assert training_flops(WEIGHTS, jax.tree.map(lambda _: jnp.array(True), WEIGHTS), 1) == 6 * 512
    # A third is the forward pass; XLA also counts adding blocks of a row up, 1 in 32.
    counted = jax.jit(layer.__call__).lower(x).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(training_flops(weight, mask, 40) / 3, rel=0.05)


def test_the_rate_by_sparsity() -> None:
    assert rate_factor(0.0) == 1
    assert rate_factor(0.9) == pytest.approx(6.4, abs=0.05)


def test_bad_rules_are_named() -> None:
    with pytest.raises(InputError, match="below 1"):
        SparsityRule(1.0, (1, 1), 1, 1)
    with pytest.raises(InputError, match="at least 1"):
        SparsityRule(0.5, (0, 1), 1, 1)
    with pytest.raises(InputError, match="first share"):
        SparsityRule(0.5, (1, 1), 1, 1, 1.5)
    with pytest.raises(InputError, match="leave it dense"):
        random_masks(
            WEIGHTS, matrices(WEIGHTS), SparsityRule(0.5, (16, 16), 1, 1), jax.random.key(0)
        )
    with pytest.raises(InputError, match="none left"):
        SparsityRule(0.9, (16, 8), 1, 1).active_blocks((16, 24))
    with pytest.raises(InputError, match="fit"):
        pack_blocks(jnp.zeros((6, 6)), jnp.ones((4, 1), bool))
    optimiser = sparse_training(optax.sgd(1.0), SparsityRule(0.5, (1, 1), 1, 1), True,
                                jax.random.key(0))  # fmt: skip
    with pytest.raises(InputError, match="needs the parameters"):
        optimiser.update(X, optimiser.init(X))
