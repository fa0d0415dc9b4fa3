"""Rates per sample, variances against all batches there are, ghost norm against PyTorch."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from qmgen.efficiency.methods.ghost_batch_norm import GhostBatchNorm
from qmgen.efficiency.methods.small_batch import (
    gradient_variance,
    learning_rate,
    sgd,
    update_variance,
)
from qmgen.errors import InputError

RNG = np.random.default_rng(0)
SAMPLES = 7
X = RNG.normal(size=(SAMPLES, 3)).astype(np.float32)
Y = RNG.normal(size=SAMPLES).astype(np.float32)
WEIGHTS = {"w": RNG.normal(size=3).astype(np.float32), "b": np.float32(0.3)}


def loss(weights: Any, sample: Any) -> jax.Array:
    x, y = sample
    return (jnp.tanh(x @ weights["w"] + weights["b"]) - y) ** 2


PER_SAMPLE = jax.vmap(jax.grad(loss), (None, 0))(WEIGHTS, (X, Y))
GRADIENTS = np.column_stack([PER_SAMPLE["w"], PER_SAMPLE["b"]]).astype(np.float64)


def step(base_rate: float, rows: list[int]) -> np.ndarray:
    optimiser = sgd(base_rate, len(rows))

    def mean(weights: Any) -> jax.Array:
        return jnp.mean(jax.vmap(loss, (None, 0))(weights, (X[rows], Y[rows])))

    updates, _ = optimiser.update(jax.grad(mean)(WEIGHTS), optimiser.init(WEIGHTS), WEIGHTS)
    return np.append(updates["w"], updates["b"])


def test_a_step_is_the_sum_over_samples() -> None:
    rows = [0, 3, 5]
    np.testing.assert_allclose(step(0.01, rows), -0.01 * GRADIENTS[rows].sum(0), rtol=1e-5)
    assert learning_rate(2.0**-6, 32) == 0.5


def test_variance_is_that_of_single_gradients() -> None:
    found = jax.jit(lambda: gradient_variance(loss, WEIGHTS, (X, Y)))()
    assert found == pytest.approx(GRADIENTS.var(0).sum(), rel=1e-4)


@pytest.mark.parametrize("batch", range(1, SAMPLES + 1))
def test_updates_vary_as_those_of_all_batches(batch: int) -> None:
    chosen = itertools.combinations(range(SAMPLES), batch)
    steps = np.array([-0.01 * GRADIENTS[list(rows)].sum(0) for rows in chosen])
    expected = steps.var(0).sum()
    found = update_variance(GRADIENTS.var(0).sum(), 0.01, batch, SAMPLES)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_variance_grows_with_the_batch() -> None:
    few = [update_variance(1.0, 0.1, batch, 10**6) for batch in (2, 8, 32)]
    np.testing.assert_allclose(np.array(few) / few[0], [1, 4, 16], rtol=1e-3)


@pytest.mark.parametrize("shape", [(12, 5), (12, 4, 5)])
@pytest.mark.parametrize("group", [4, 12])
def test_groups_are_batches_of_pytorch(shape: tuple[int, ...], group: int) -> None:
    x = RNG.normal(2.0, 3.0, shape).astype(np.float32)
    norm = GhostBatchNorm(5, group)
    gain, shift = (RNG.normal(size=5).astype(np.float32) for _ in range(2))
    norm = jax.tree.unflatten(jax.tree.structure(norm), [jnp.asarray(gain), jnp.asarray(shift)])
    other = torch.nn.BatchNorm1d(5)
    other.weight.data, other.bias.data = torch.tensor(gain), torch.tensor(shift)
    source = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    expected = torch.cat([other(part) for part in source.split(group)])
    (expected**3).sum().backward()

    @jax.jit
    def run(x: Any) -> Any:
        def cubes(x: Any) -> Any:
            y, moments = norm(x, norm.moments())
            return (y**3).sum(), (y, moments)

        return jax.grad(cubes, has_aux=True)(x)

    gradient, (y, moments) = run(x)
    close = {"rtol": 1e-3, "atol": 1e-4}  # rounding of variances in float32
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected.detach(), **close)
    np.testing.assert_allclose(np.moveaxis(gradient, -1, 1), source.grad, rtol=1e-2, atol=2e-3)
    np.testing.assert_allclose(moments.mean, other.running_mean, **close)
    np.testing.assert_allclose(moments.variance, other.running_var, **close)
    other.eval()
    in_use = np.moveaxis(np.asarray(norm.in_use(jnp.asarray(x), moments)), -1, 1)
    np.testing.assert_allclose(in_use, other(source).detach(), **close)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(InputError, match="at least one sample"):
        learning_rate(0.1, 0)
    with pytest.raises(InputError, match="drawn from 4"):
        update_variance(1.0, 0.1, 5, 4)
    with pytest.raises(InputError, match="no variance"):
        GhostBatchNorm(3, 1)
    norm = GhostBatchNorm(3, 4)
    with pytest.raises(InputError, match="don't fill"):
        norm(jnp.zeros((6, 3)), norm.moments())
