"""`scalify` inside and around jit, grad, vmap, scan, and with pytrees of all kinds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qmgen.efficiency.scalify import ScaledArray, as_scaled, scalify, unscale
from tests.efficiency.scalify_functions import inputs, rnn, tripled_gradient
from tests.efficiency.test_scalify_functions import assert_same, compiled

A, B, M, V = inputs()


def loss(a: Any, m: Any, v: Any) -> Any:
    return jnp.sum((jnp.tanh(a @ m + v) @ v) * jax.nn.logsumexp(a, 1))


def test_gradient_inside() -> None:
    """Gradients are ScaledArrays of the arguments' shapes and dtypes."""
    arguments = [x * np.float32(2.0**-6) for x in (A, M, V)]
    got = compiled(scalify(jax.grad(loss, (0, 1, 2))))(*as_scaled(arguments))
    for gradient, argument in zip(got, arguments, strict=True):
        assert isinstance(gradient, ScaledArray)
        assert (gradient.shape, gradient.dtype) == (argument.shape, argument.dtype)
        assert (gradient.scale.shape, gradient.scale.dtype) == ((), np.float32)
    assert_same(unscale(got), compiled(jax.grad(loss, (0, 1, 2)))(*arguments))


def test_gradient_outside() -> None:
    """Custom derivatives (relu at 0, logsumexp, one that is wrong on purpose) hold there, too."""
    a = A.copy()
    a[0, 0] = 0

    def through(a: Any) -> Any:
        return jnp.sum(jax.nn.relu(a) * V) + loss(a, M, V) + jnp.sum(tripled_gradient(a) * B)

    got = compiled(jax.grad(lambda a: unscale(scalify(through)(as_scaled(a)))))(a)
    assert_same(got, compiled(jax.grad(through))(a))


def test_gradient_by_the_leaves() -> None:
    scaled = ScaledArray(A, np.float32(0.25))

    def through(a: Any) -> Any:
        return unscale(scalify(loss)(a, M, V))

    got = compiled(jax.grad(through))(scaled)
    by_value = compiled(jax.grad(loss))(A * np.float32(0.25), M, V)
    assert_same(got.data, by_value * scaled.scale)
    assert_same(got.scale, jnp.sum(by_value * A), 1e-4)


@pytest.mark.slow
def test_second_derivatives() -> None:
    def bent(x: Any) -> Any:
        return jnp.sum(jax.nn.relu(x) ** 3 * jnp.sin(x)) + jax.nn.logsumexp(x)

    got = compiled(scalify(jax.hessian(bent)))(ScaledArray(V, np.float32(0.5)))
    assert_same(unscale(got), compiled(jax.hessian(bent))(V / 2))
    outside = compiled(jax.hessian(lambda x: unscale(scalify(bent)(as_scaled(x)))))(V)
    assert_same(outside, compiled(jax.hessian(bent))(V))


def test_a_scale_for_each_example() -> None:
    factors = np.float32([2.0**-18, 1, 2.0**18, 4, 2.0**-3])
    rows = A * factors[:, None]

    def one(row: Any, m: Any) -> Any:
        return row @ m / jnp.max(jnp.abs(row)), jax.nn.softmax(row)

    scaled = jax.vmap(as_scaled)(rows)
    assert scaled.scale.shape == (5,)
    got = compiled(lambda x: jax.vmap(unscale)(jax.vmap(scalify(one), (0, None))(x, M)))(scaled)
    assert_same(got, compiled(jax.vmap(one, (0, None)))(rows, M))


def test_one_scale_for_all_examples() -> None:
    axes = ScaledArray(0, None)
    gradient = scalify(jax.grad(lambda row: jax.nn.logsumexp(row) * row[0]))
    got = compiled(jax.vmap(gradient, in_axes=(axes,)))(ScaledArray(A, np.float32(8)))
    assert got.scale.shape == (5,)
    want = jax.vmap(jax.grad(lambda row: jax.nn.logsumexp(row) * row[0]))(A * np.float32(8))
    assert_same(got.data * got.scale[:, None], want)


@pytest.mark.slow
def test_inside_a_loop_and_in_itself() -> None:
    def step(carry: Any, row: Any) -> tuple[Any, Any]:
        carry = scalify(lambda c, r: jnp.tanh(c @ M) * 0.5 + r)(carry, row)
        return carry, unscale(scalify(jnp.sum)(carry))

    start = as_scaled(V)
    last, sums = compiled(lambda c: lax.scan(step, c, jnp.asarray(A)))(start)
    want, of_plain = V, []
    for row in A:
        want = np.tanh(want @ M) * 0.5 + row
        of_plain.append(want.sum())
    np.testing.assert_allclose(unscale(last), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums, of_plain, rtol=1e-4)
    twice = compiled(scalify(scalify(loss)))(as_scaled(A), M, V)
    assert_same(unscale(twice), compiled(loss)(A, M, V))


def test_carries_become_scaled() -> None:
    """One by one: what is scaled in one turn reaches the next carry only in the turn after."""

    def chain(x: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            first, second, third, turns = carry
            return (first * x, first, second + 1.0, turns + 1), third

        ones = jnp.ones_like(x)
        return lax.scan(step, (ones, ones, ones, 0), None, length=4)

    (carry, thirds) = compiled(scalify(chain))(ScaledArray(V, np.float32(4)))
    assert [isinstance(part, ScaledArray) for part in carry] == [True, True, True, False]
    assert isinstance(thirds, ScaledArray)
    assert thirds.scale.shape == ()
    assert_same(unscale((carry, thirds)), compiled(chain)(V * np.float32(4)))


def test_loops_of_all_kinds() -> None:
    scaled, plain = ScaledArray(A, np.float32(2.0**-9)), A * np.float32(2.0**-9)

    def backwards(a: Any) -> Any:
        return lax.scan(lambda c, row: (c * 0.5 + row, c), jnp.zeros(6), a, reverse=True, unroll=2)

    def empty(a: Any) -> Any:
        return lax.scan(lambda c, row: (c + row, c), a[0], a[:0])

    def until(a: Any) -> Any:
        """The condition reads a scaled carry that began plain."""
        return lax.while_loop(
            lambda state: jnp.max(state[0]) < 3.0,
            lambda state: (state[0] + jnp.abs(a), state[1] + 1),
            (jnp.zeros_like(a), 0),
        )

    for function in (backwards, empty, until):
        got = compiled(scalify(function))(scaled)
        assert_same_or_empty(unscale(got), compiled(function)(plain))


def assert_same_or_empty(got: Any, want: Any) -> None:
    for value, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert value.shape == expected.shape
        if value.size:
            assert_same(value, expected)


def test_a_loop_of_gradients() -> None:
    """Descent by scan, in float16 and scaled, with a gradient that plain float16 makes 0."""
    target = np.float32(2.0**-14) * V

    def descend(x: Any, target: Any) -> Any:
        def square(x: Any) -> Any:
            return jnp.sum((x - target) ** 2)

        return lax.scan(lambda x, _: (x - 0.25 * jax.grad(square)(x), square(x)), x, None, 12)

    half = as_scaled(target, dtype=jnp.float16)
    last, losses = compiled(scalify(descend))(as_scaled(jnp.zeros(6, jnp.float16)), half)
    assert last.dtype == losses.dtype == np.float16
    np.testing.assert_allclose(unscale(last), target, rtol=3e-3)
    assert unscale(losses)[0] == pytest.approx(np.sum(target**2), rel=1e-2)
    _, plain = compiled(descend)(jnp.zeros(6, jnp.float16), target.astype(np.float16))
    assert plain[0] == 0


@pytest.mark.slow
def test_derivatives_of_a_loop() -> None:
    def total(m: Any) -> Any:
        last, outputs = rnn(A, m, V)
        return jnp.sum(last) + jnp.sum(outputs**2)

    got = compiled(jax.grad(lambda m: unscale(scalify(total)(as_scaled(m)))))(M)
    assert_same(got, compiled(jax.grad(total))(M))


def test_checkpoints_stay() -> None:
    def kept(m: Any) -> Any:
        return jnp.sum(jax.checkpoint(lambda m: jnp.sin(A @ m) ** 2)(m))

    outside = jax.make_jaxpr(jax.grad(lambda m: unscale(scalify(kept)(as_scaled(m)))))(M)
    assert "remat" in str(outside) or "checkpoint" in str(outside)
    inside = jax.make_jaxpr(scalify(jax.grad(kept)))(as_scaled(M))
    assert "optimization_barrier" in str(inside)


class State(NamedTuple):
    weights: Any
    name: str
    extra: Any = None


def test_pytrees_in_and_out() -> None:
    def function(state: State, *, factor: float, rows: dict[str, Any]) -> Any:
        assert factor == 3.0
        scaled = state.weights["w"] * factor + rows["plain"]
        return State({"w": scaled}, state.name, [state.weights["n"] + 1, None, "text", 7]), 2.5

    state = State({"w": as_scaled(A), "n": np.arange(3)}, "layer")
    (got, number) = scalify(function)(state, factor=3.0, rows={"plain": B})
    assert isinstance(got.weights["w"], ScaledArray)
    np.testing.assert_allclose(unscale(got.weights["w"]), A * 3.0 + B, rtol=1e-6)
    assert got.name == "layer"
    np.testing.assert_array_equal(got.extra[0], [1, 2, 3])
    assert got.extra[1:] == [None, "text", 7]
    assert number == 2.5


def test_what_does_not_depend_on_scaled_arrays_is_plain() -> None:
    scaled, plain = scalify(lambda a, b: (a * b, b + 1.0))(as_scaled(A), B)
    assert isinstance(scaled, ScaledArray)
    np.testing.assert_array_equal(plain, B + 1)


def test_random_numbers_and_keys() -> None:
    def noisy(key: jax.Array, a: Any) -> Any:
        return jax.random.normal(key, a.shape) * a

    got = compiled(scalify(noisy))(jax.random.key(3), ScaledArray(A, np.float32(2)))
    assert_same(unscale(got), compiled(noisy)(jax.random.key(3), A * 2))
