import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency.element import E5M2
from qmgen.efficiency.formats import FP8_152, Format
from qmgen.efficiency.loss_scaling import (
    BackoffLossScale,
    ConstantLossScale,
    LogMaxLossScale,
    LossScale,
    keep_if,
    value_and_scaled_grad,
)
from qmgen.efficiency.quantise import fake_quantise
from qmgen.efficiency.quantised_matmul import MatmulFormats, quantised_matmul
from qmgen.errors import InputError


def scales(rule: LossScale, largest: np.ndarray) -> np.ndarray:
    """Scales after each of these largest gradients."""

    def step(state: tuple, value: jax.Array) -> tuple:
        state = rule.update(state, value)
        return state, state.scale

    return np.asarray(jax.jit(lambda x: jax.lax.scan(step, rule.init(), x)[1])(largest))


def test_backoff_halves_on_overflow_and_doubles_after_patience() -> None:
    rule = BackoffLossScale(initial=8.0, patience=3, smallest=2.0, largest=16.0)
    inf, nan = np.inf, np.nan
    largest = np.array([1, 1, 1, 1, 1, inf, nan, inf, inf, 1, 1, inf, 1, 1, 1], np.float32)
    expected = [8, 8, 16, 16, 16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 4]
    np.testing.assert_array_equal(scales(rule, largest), expected)


def test_constant_stays() -> None:
    assert scales(ConstantLossScale(4.0), np.array([1, np.inf], np.float32)).tolist() == [4, 4]


def test_logmax_lets_one_step_in_a_thousand_overflow() -> None:
    rng = np.random.default_rng(0)
    largest = np.exp2(-20 + 2 * rng.normal(size=20_000)).astype(np.float32)
    rule = LogMaxLossScale(E5M2.max, largest=2.0**40)
    found = scales(rule, largest)[2000:]
    # log2(57344) + 20 - 3.09 * 2, the averages' own spread aside.
    assert np.log2(found).mean() == pytest.approx(29.63, abs=0.1)
    overflows = (found[:-1] * largest[2001:] > E5M2.max).mean()
    assert 0.0002 < overflows < 0.003


def test_logmax_steps_back_after_overflows() -> None:
    rule = LogMaxLossScale(E5M2.max)
    largest = np.concatenate([np.full(50, 2.0**-10), np.full(5, np.inf), np.zeros(1)])
    found = scales(rule, largest.astype(np.float32))
    assert (np.diff(found[49:55]) <= 0).all()
    assert found[54] < found[49] / 4
    assert np.isfinite(found).all()


def test_a_loss_scale_rescues_gradients_that_underflow() -> None:
    # Gradients of about 2^-20 are below the smallest number of 1.5.2, 2^-17.
    formats = MatmulFormats(gradients=Format(FP8_152.element, saturate=False))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(32, 16)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(32, 8)), jnp.float32)

    def loss(weights: jax.Array, formats: MatmulFormats) -> jax.Array:
        return jnp.mean(quantised_matmul(x, weights, formats) * target) * 2.0**-12

    exact = jax.grad(loss)(weights, MatmulFormats())
    for exponent, finite, error in ((0, True, 1.0), (12, True, 0.1), (40, False, None)):
        rule = ConstantLossScale(2.0**exponent)
        step = value_and_scaled_grad(loss, rule, rule.init(), weights, formats)
        assert bool(step.finite) == finite
        assert float(step.value) == pytest.approx(float(loss(weights, MatmulFormats())))
        if error is not None:
            difference = jnp.linalg.norm(step.gradients - exact) / jnp.linalg.norm(exact)
            assert float(difference) <= error
            assert (float(difference) == 1) == (exponent == 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_but_nan_is_seen(value: float) -> None:
    rule = BackoffLossScale()
    done = jax.jit(
        lambda w: value_and_scaled_grad(lambda w: jnp.sum(w * value), rule, rule.init(), w)
    )(np.ones((64, 64), np.float32))
    assert not done.finite
    assert done.state.scale == rule.initial / 2


def test_overflown_steps_are_left_out_under_jit() -> None:
    rule = BackoffLossScale(initial=2.0**20, patience=4)
    format = Format(E5M2, saturate=False)

    @jax.jit
    def step(weight: jax.Array, state: tuple) -> tuple:
        def loss(weight: jax.Array) -> jax.Array:
            # The rounding of the gradient: a product with a rounded constant, backwards.
            return _round_gradient(weight, format)[0] * 3.0

        done = value_and_scaled_grad(loss, rule, state, weight)
        return keep_if(done.finite, weight - 0.1 * done.gradients, weight), done.state

    weight, state = jnp.ones(1), rule.init()
    moved = []
    for _ in range(8):
        new, state = step(weight, state)
        moved.append(bool(new[0] != weight[0]))
        weight = new
    # 3 * 2^20 overflows, as does 3 * 2^15; 3 * 2^14 doesn't.
    assert moved == [False] * 6 + [True] * 2
    assert np.isfinite(np.asarray(weight)).all()


def _round_gradient(x: jax.Array, format: Format) -> jax.Array:
    @jax.custom_vjp
    def identity(x: jax.Array) -> jax.Array:
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (fake_quantise(g, format),))
    return identity(x)


def test_bad_rules() -> None:
    with pytest.raises(InputError, match="factor"):
        BackoffLossScale(factor=1.0)
    with pytest.raises(InputError, match="limit"):
        LogMaxLossScale(0.0)
    with pytest.raises(InputError, match="decay"):
        LogMaxLossScale(1.0, decay=1.0)
