"""Fisher information against closed forms, and bits that follow it against even ones."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmgen.efficiency.bit_allocation import (
    Sensitivity,
    allocate_bits,
    class_log_likelihood,
    mean_of_squares,
    normal_log_likelihood,
    predicted_kl,
    sampled_fisher,
    sensitivities,
)
from qmgen.errors import InputError

RNG = np.random.default_rng(0)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_fisher_of_a_softmax_layer() -> None:
    weights = RNG.normal(size=(5, 4)).astype(np.float32)
    x = RNG.normal(size=(500, 5)).astype(np.float32)

    def log_likelihood(parameters, example, key):
        return class_log_likelihood(example @ parameters["w"], key)

    fisher = jax.jit(lambda p: sampled_fisher(log_likelihood, p, x, jax.random.key(0), draws=64))
    p = softmax(x @ weights)
    # F of w_ic = E[x_i^2 p_c (1 - p_c)].
    exact = np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x)
    np.testing.assert_allclose(fisher({"w": weights})["w"], exact, rtol=0.06)


def test_fisher_of_a_regression_does_not_depend_on_labels() -> None:
    weights = RNG.normal(size=(3, 2)).astype(np.float32)
    x = RNG.normal(size=(2000, 3)).astype(np.float32)
    spread = 0.25

    def log_likelihood(parameters, example, key):
        return normal_log_likelihood(example @ parameters, spread, key)

    fisher = jax.jit(lambda p: sampled_fisher(log_likelihood, p, x, jax.random.key(1), draws=16))
    exact = np.repeat(np.mean(x**2, 0)[:, None], 2, 1) / spread**2
    np.testing.assert_allclose(fisher(weights), exact, rtol=0.05)


def test_gradients_from_elsewhere() -> None:
    gradients = [{"a": np.array([1.0, 2.0])}, {"a": np.array([3.0, 0.0])}]
    np.testing.assert_array_equal(mean_of_squares(gradients)["a"], [5, 2])
    with pytest.raises(InputError, match="one example"):
        mean_of_squares([])


def test_predicted_kl_is_the_measured_one() -> None:
    weights = RNG.normal(size=(6, 5))
    x = RNG.normal(size=(400, 6))
    p = softmax(x @ weights)
    exact = np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x)
    measured, predicted = [], []
    for _ in range(300):
        change = 1e-3 * RNG.normal(size=weights.shape)
        q = softmax(x @ (weights + change))
        measured.append(np.mean(np.sum(p * np.log(p / q), 1)))
        predicted.append(predicted_kl({"w": exact}, {"w": change}))
    assert np.mean(predicted) == pytest.approx(np.mean(measured), rel=0.03)


def rounded(x: np.ndarray, bits: float) -> np.ndarray:
    """To a grid of so many points within three RMS."""
    step = 6 * np.sqrt(np.mean(x**2)) / 2**bits
    return np.rint(x / step) * step


def test_allocation_beats_even_bits() -> None:
    # The first layer sees large inputs, the last two small ones; the second is a large tensor.
    shapes, scales = [(8, 4), (64, 4), (16, 4)], [8.0, 0.1, 0.02]
    tensors = {str(i): RNG.normal(size=shape) for i, shape in enumerate(shapes)}
    inputs = {
        str(i): s * RNG.normal(size=(600, n))
        for i, ((n, _), s) in enumerate(zip(shapes, scales, strict=True))
    }

    def output(values: dict[str, np.ndarray]) -> np.ndarray:
        return softmax(sum(inputs[name] @ value for name, value in values.items()))

    p = output(tensors)
    fisher = {
        name: np.einsum("ni,nc->ic", x**2, p * (1 - p)) / len(x) for name, x in inputs.items()
    }

    def divergence(bits: dict[str, float]) -> float:
        q = output({name: rounded(x, bits[name]) for name, x in tensors.items()})
        return float(np.mean(np.sum(p * np.log(p / q), 1)))

    bits = allocate_bits(sensitivities(tensors, fisher), 5.0)
    size = sum(x.size for x in tensors.values())
    assert sum(bits[name] * x.size for name, x in tensors.items()) == pytest.approx(5 * size)
    assert bits["0"] > bits["1"] > bits["2"]
    flat = divergence(dict.fromkeys(tensors, 5.0))
    assert divergence(bits) < 0.3 * flat
    # The formula predicts both.
    for shares in (bits, dict.fromkeys(tensors, 5.0)):
        change = {name: rounded(x, shares[name]) - x for name, x in tensors.items()}
        assert predicted_kl(fisher, change) == pytest.approx(divergence(shares), rel=0.5)


SENSITIVITIES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(
        Sensitivity,
        size=st.integers(1, 10**6),
        rms=st.just(0.0) | st.floats(1e-6, 1e3),
        fisher=st.just(0.0) | st.floats(1e-12, 1e6),
    ),
    min_size=1,
    max_size=8,
)


@given(SENSITIVITIES, st.floats(2.0, 16.0), st.booleans())
@settings(max_examples=100, deadline=None)
def test_budget_and_bounds(tensors: dict[str, Sensitivity], mean: float, whole: bool) -> None:
    bits = allocate_bits(tensors, mean, whole=whole)
    assert all(2 <= value <= 16 for value in bits.values())
    sizes = {name: t.size for name, t in tensors.items()}
    total = sum(sizes[name] * value for name, value in bits.items())
    assert total <= mean * sum(sizes.values()) * (1 + 1e-9)
    if whole:
        assert all(value == int(value) for value in bits.values())
    # Where no bound holds a tensor back, bits differ as the rule says.
    free = [n for n, value in bits.items() if 2 < value < 16 and np.isfinite(tensors[n].wanted)]
    for name in free:
        difference = bits[name] - bits[free[0]]
        assert difference == pytest.approx(
            tensors[name].wanted - tensors[free[0]].wanted, abs=1.01 if whole else 1e-6
        )


def test_bad_budgets() -> None:
    tensors = {"a": Sensitivity(10, 1.0, 1.0)}
    with pytest.raises(InputError, match="between"):
        allocate_bits(tensors, 1.0)
    with pytest.raises(InputError, match="no tensors"):
        allocate_bits({}, 4.0)
    assert allocate_bits({"a": Sensitivity(10, 0.0, 1.0)}, 4.5, whole=True) == {"a": 4}
