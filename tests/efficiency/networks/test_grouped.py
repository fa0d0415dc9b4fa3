import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from qmgen.efficiency.networks.grouped import (
    GroupedConvolution,
    GroupedLinear,
    block_diagonal,
    dense_kernel,
    grouped_convolution,
    grouped_linear,
)
from qmgen.errors import InputError

# Rounding of float32 sums of up to a few hundred products of size one.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_linear_is_the_block_diagonal_product(groups: int) -> None:
    layer = GroupedLinear(12, 24, groups, key=jax.random.key(0))
    x = normal(2, 5, 12)
    dense = np.asarray(block_diagonal(layer.weight))
    assert np.count_nonzero(dense) == layer.weight.size == 12 * 24 // groups
    np.testing.assert_allclose(layer(x), x @ dense.T, **CLOSE)
    if groups == 1:
        np.testing.assert_allclose(dense, layer.weight[0])


def test_groups_do_not_see_each_other() -> None:
    weight = normal(4, 2, 3)
    jacobian = np.asarray(jax.jacobian(lambda x: grouped_linear(x, weight))(normal(12)))
    np.testing.assert_allclose(jacobian, block_diagonal(weight), **CLOSE)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("shape", "kernel"), [((9,), (7,)), ((6, 7), (3, 3))], ids=str)
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_convolution_is_that_of_torch(
    shape: tuple[int, ...], kernel: tuple[int, ...], groups: int, stride: int
) -> None:
    x = normal(2, *shape, 8)
    weight = normal(*kernel, 8 // groups, 16)
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[len(shape)]
    expected = convolve(
        torch.tensor(np.moveaxis(np.array(x), -1, 1)),
        torch.tensor(np.moveaxis(np.array(weight), (-1, -2), (0, 1))),
        stride=stride,
        groups=groups,
    )
    y = grouped_convolution(x, weight, stride, "valid")
    np.testing.assert_allclose(np.moveaxis(np.asarray(y), -1, 1), expected.numpy(), **CLOSE)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolution_is_that_of_the_dense_kernel(groups: int) -> None:
    x, weight = normal(2, 3, 6, 5, 8), normal(3, 3, 8 // groups, 16)

    def value(x: jax.Array, weight: jax.Array, dense: bool) -> tuple[jax.Array, jax.Array]:
        y = grouped_convolution(x, weight, 2, dense=dense)
        return jnp.sum(jnp.sin(y)), y

    of = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True), static_argnums=2)
    ((_, grouped), gradients), ((_, dense), expected) = of(x, weight, False), of(x, weight, True)
    assert grouped.shape == (2, 3, 3, 3, 16)
    np.testing.assert_allclose(grouped, dense, **CLOSE)
    for gradient, other in zip(gradients, expected, strict=True):
        # Sums of up to 54 terms of size one.
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-4)
    kernel = np.asarray(dense_kernel(weight, groups))
    assert kernel.shape == (3, 3, 8, 16)
    assert np.count_nonzero(kernel) == weight.size


def test_depthwise_convolution_filters_each_channel_by_itself() -> None:
    x, weight = normal(10, 6), normal(3, 1, 6)
    y = np.asarray(grouped_convolution(x, weight, 1, "same"))
    for channel in range(6):
        # NumPy convolves with the kernel turned round.
        expected = np.convolve(x[:, channel], weight[::-1, 0, channel], "same")
        np.testing.assert_allclose(y[:, channel], expected, **CLOSE)


def test_initial_scale() -> None:
    x = normal(64, 16, 64)
    linear = GroupedLinear(64, 64, 4, key=jax.random.key(0))
    convolution = GroupedConvolution(64, 64, (5,), groups=4, key=jax.random.key(1), padding="valid")
    for layer in (linear, convolution):
        assert float(jnp.std(layer(x))) == pytest.approx(1.0, abs=0.1)


def test_bad_groups() -> None:
    with pytest.raises(InputError, match="divisor of 4"):
        GroupedLinear(12, 8, 3, key=jax.random.key(0))
    with pytest.raises(InputError, match="groups"):
        grouped_linear(jnp.ones((2, 5)), jnp.ones((2, 3, 3)))
    with pytest.raises(InputError, match="whole groups of 4"):
        grouped_convolution(jnp.ones((5, 6)), jnp.ones((3, 4, 6)))
    with pytest.raises(InputError, match="two spatial axes"):
        grouped_convolution(jnp.ones((4, 4, 4, 6)), jnp.ones((3, 3, 3, 6, 6)))
