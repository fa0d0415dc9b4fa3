from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from qmgen.efficiency.networks.flop_count import flops, multiply_accumulates
from qmgen.efficiency.networks.grouped import GroupedConvolution, GroupedLinear, grouped_convolution
from qmgen.errors import InputError


def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def of_compiler(function: Callable, *arguments: jax.ShapeDtypeStruct) -> float:
    """Operations by XLA, which leaves out products with a convolution's padding."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def convolution(stride: int, padding: str) -> Callable:
    return lambda x, w: grouped_convolution(x, w, stride, padding)


def pulled_back(function: Callable, argument: int) -> Callable:
    """The gradient by one argument only, which doesn't need the function's value."""

    def of(y: jax.Array, *arguments: jax.Array) -> jax.Array:
        return jax.vjp(function, *arguments)[1](y)[argument]

    return of


CONVOLUTIONS = [
    (1, "valid", (2, 9, 8), (3, 8, 4)),
    (1, "same", (2, 9, 8), (7, 2, 16)),
    (2, "same", (2, 9, 8, 6), (3, 3, 1, 6)),
    (2, "valid", (2, 8, 9, 6), (3, 2, 2, 9)),
]


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (jnp.matmul, [(3, 4, 5), (5, 7)]),
        (jnp.matmul, [(3, 4, 5), (3, 5, 7)]),
        (lambda x, y: jnp.einsum("bihd,bjhd->bhij", x, y), [(2, 4, 3, 5), (2, 6, 3, 5)]),
        *((convolution(stride, padding), shapes) for stride, padding, *shapes in CONVOLUTIONS),
    ],
)
def test_products_as_the_compiler_counts_them(
    function: Callable, shapes: list[tuple[int, ...]]
) -> None:
    arguments = [array(*shape) for shape in shapes]
    counted = multiply_accumulates(function, *arguments, count_padding=False)
    assert 2 * counted == of_compiler(function, *arguments)


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize(("stride", "padding", "x", "weight"), CONVOLUTIONS, ids=str)
def test_gradients_cost_what_values_do(
    stride: int, padding: str, x: tuple[int, ...], weight: tuple[int, ...], argument: int
) -> None:
    function = convolution(stride, padding)
    y = jax.eval_shape(function, array(*x), array(*weight))
    forward = multiply_accumulates(function, array(*x), array(*weight), count_padding=False)
    backward = multiply_accumulates(
        pulled_back(function, argument), y, array(*x), array(*weight), count_padding=False
    )
    assert backward == forward


def test_formulae() -> None:
    x = array(4, 16, 16, 32)
    make = lambda key: GroupedConvolution(32, 64, (3, 3), groups=4, key=key, stride=2)  # noqa: E731
    # Weights needn't exist.
    layer = eqx.filter_eval_shape(make, jax.random.key(0))
    # Padding counts: every place of the output has all nine taps.
    assert multiply_accumulates(layer, x) == 4 * 8 * 8 * 64 * 9 * 8
    assert flops(layer, x) == 2 * multiply_accumulates(layer, x)
    linear = GroupedLinear(32, 128, 4, key=jax.random.key(0))
    assert multiply_accumulates(linear, x) == 4 * 16 * 16 * 128 * 8


@jax.custom_vjp
def cube(w: jax.Array) -> jax.Array:
    return w @ w @ w


cube.defvjp(lambda w: (cube(w), w), lambda w, g: (3 * g @ w @ w,))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (jax.jit(lambda w: w @ w), 1),
        (lambda w: jax.lax.scan(lambda c, _: (c @ w @ w, None), w, length=7)[0], 14),
        (lambda w: jax.lax.fori_loop(0, 5, lambda _, c: c @ w, w), 5),
        (lambda w: jax.lax.cond(w[0, 0] > 0, lambda v: v, lambda v: v @ v, w), 1),
        (cube, 2),
        (jax.value_and_grad(lambda w: cube(w).sum()), 4),
        # The gradient alone doesn't need the value.
        (jax.grad(lambda w: cube(w).sum()), 2),
        (jax.checkpoint(lambda w: jnp.sin(w @ w) @ w), 2),
        (jax.vmap(jax.jit(lambda row: jax.nn.relu(jnp.ones((4, 4)) @ row))), 1),
        (lambda w: jnp.linalg.norm(w) + jax.nn.gelu(w).sum(), 0),
    ],
)
def test_inside_of_other_transformations(function: Callable, products: int) -> None:
    assert multiply_accumulates(function, array(4, 4)) == products * 4**3


def test_a_step_of_training_costs_three_times_the_values() -> None:
    model = eqx.nn.MLP(8, 8, 16, 2, key=jax.random.key(0))

    def loss(model: eqx.nn.MLP, x: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(model)(x) ** 2)

    forward = multiply_accumulates(loss, model, array(32, 8))
    assert forward == 32 * (8 * 16 + 16 * 16 + 16 * 8)
    # All but the gradient by the inputs, which the first layer needn't have.
    expected = 3 * forward - 32 * 8 * 16
    assert multiply_accumulates(eqx.filter_grad(loss), model, array(32, 8)) == expected


def test_unknown_number_of_turns() -> None:
    with pytest.raises(InputError, match=r"jax\.lax\.scan"):
        multiply_accumulates(
            lambda w: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: c @ w, w), array(4, 4)
        )
    assert multiply_accumulates(lambda w: jnp.argmax(w), array(4, 4)) == 0
