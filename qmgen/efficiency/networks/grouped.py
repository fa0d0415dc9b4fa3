"""Linear layers and convolutions whose channels are in groups that don't see each other.

A group is a block on the diagonal of the dense weight: g groups have g times fewer weights and
multiply-accumulates. Channels are the last axis, and any number of axes may lead, as in
`unit_scaled_layers`. Group convolutions: Krizhevsky et al. 2012; of a fixed number of channels a
group: Masters et al., 2106.03640, and Chelombiev et al., 2106.05822.
"""

import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt

from qmgen.errors import InputError

AnyKey = Key[Array, ""] | UInt[Array, "2"]
Padding = Literal["same", "valid"]
# Channels last, weights as `kernel..., inputs, outputs`.
_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


def check_groups(inputs: int, outputs: int, groups: int) -> None:
    """Whether both numbers of channels are in whole groups.

    Raises
    ------
    InputError
        If they aren't.
    """
    if groups < 1 or inputs % groups or outputs % groups:
        raise InputError(
            f"{inputs} channels in and {outputs} out can't be cut into {groups} groups; choose a "
            f"divisor of {math.gcd(inputs, outputs)}"
        )


def grouped_linear(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "groups group_outputs group_inputs"]
) -> Float[Array, "*batch outputs"]:
    """The product of each group of channels with its own weights, y_g = W_g x_g.

    Raises
    ------
    InputError
        If x has another number of channels than the groups together.
    """
    groups, outputs, inputs = weight.shape
    if x.shape[-1] != groups * inputs:
        raise InputError(f"{x.shape[-1]} channels for {groups} groups of {inputs}")
    x = x.reshape(*x.shape[:-1], groups, inputs)
    return jnp.einsum("...gi,goi->...go", x, weight).reshape(*x.shape[:-2], groups * outputs)


def block_diagonal(
    weight: Float[Array, "groups group_outputs group_inputs"],
) -> Float[Array, "outputs inputs"]:
    """The dense weight of a grouped linear layer."""
    groups, outputs, inputs = weight.shape
    blocks = jnp.eye(groups, dtype=weight.dtype)[:, None, :, None] * weight[:, :, None, :]
    return blocks.reshape(groups * outputs, groups * inputs)


def grouped_convolution(
    x: Float[Array, "*shape inputs"],
    weight: Float[Array, "*kernel group_inputs outputs"],
    stride: int = 1,
    padding: Padding = "same",
    dense: bool = False,
) -> Float[Array, "*new_shape outputs"]:
    """Convolve along the axes before the last, as many as the kernel has.

    Parameters
    ----------
    x
        Any batch axes, one or two spatial axes, channels.
    weight
        Groups have `group_inputs` channels, so that one is a depthwise convolution, and all
        channels are a dense one; outputs of the first group come first.
    padding
        "same" gives ceil(size / stride) places, with a zero more after than before where the zeros
        are odd in number; "valid" has no zeros.
    dense
        Compute with `dense_kernel`, to train on a CPU: there gradients of a convolution in groups
        took up to 15 times as long (64 channels in groups of 16).

    Raises
    ------
    InputError
        Channels that aren't in whole groups, or a kernel of other than one or two dimensions.
    """
    spatial = weight.ndim - 2
    if spatial not in _LAYOUTS or x.ndim < spatial + 1:
        raise InputError(
            f"a kernel of shape {weight.shape} on values of shape {x.shape}; kernels have one or "
            "two spatial axes, inputs of a group, and outputs"
        )
    if x.shape[-1] % weight.shape[-2]:
        raise InputError(f"{x.shape[-1]} channels aren't whole groups of {weight.shape[-2]}")
    groups = x.shape[-1] // weight.shape[-2]
    check_groups(x.shape[-1], weight.shape[-1], groups)
    batch = x.shape[: -spatial - 1]
    y = jax.lax.conv_general_dilated(
        x.reshape(-1, *x.shape[-spatial - 1 :]),
        dense_kernel(weight, groups) if dense else weight,
        (stride,) * spatial,
        padding.upper(),
        dimension_numbers=_LAYOUTS[spatial],
        feature_group_count=1 if dense else groups,
    )
    return y.reshape(*batch, *y.shape[1:])


def dense_kernel(
    weight: Float[Array, "*kernel group_inputs outputs"], groups: int
) -> Float[Array, "*kernel inputs outputs"]:
    """The kernel of the convolution without groups that does the same, zeros between groups."""
    *kernel, inputs, outputs = weight.shape
    check_groups(inputs * groups, outputs, groups)
    weight = weight.reshape(*kernel, inputs, groups, outputs // groups)
    blocks = jnp.einsum("...igo,hg->...higo", weight, jnp.eye(groups, dtype=weight.dtype))
    return blocks.reshape(*kernel, groups * inputs, outputs)


class GroupedLinear(eqx.Module):
    """A linear layer in groups; weights start normal with variance 1 / group_inputs."""

    weight: Float[Array, "groups group_outputs group_inputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(
        self, inputs: int, outputs: int, groups: int, *, key: AnyKey, use_bias: bool = True
    ) -> None:
        check_groups(inputs, outputs, groups)
        shape = (groups, outputs // groups, inputs // groups)
        self.weight = jax.random.normal(key, shape) * shape[-1] ** -0.5
        self.bias = jnp.zeros(outputs) if use_bias else None

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer of a whole batch."""
        y = grouped_linear(x, self.weight)
        return y if self.bias is None else y + self.bias


class GroupedConvolution(eqx.Module):
    """A convolution in groups; weights start normal with variance 1 / (kernel places x inputs).

    Attributes
    ----------
    weight, stride, padding, dense
        As in `grouped_convolution`.
    """

    weight: Float[Array, "*kernel group_inputs outputs"]
    bias: Float[Array, " outputs"] | None
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    dense: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        *,
        groups: int,
        key: AnyKey,
        stride: int = 1,
        padding: Padding = "same",
        use_bias: bool = False,
        dense: bool = False,
    ) -> None:
        check_groups(inputs, outputs, groups)
        shape = (*kernel, inputs // groups, outputs)
        self.weight = jax.random.normal(key, shape) * math.prod(shape[:-1]) ** -0.5
        self.bias = jnp.zeros(outputs) if use_bias else None
        self.stride = stride
        self.padding = padding
        self.dense = dense

    def __call__(self, x: Float[Array, "*shape inputs"]) -> Float[Array, "*new_shape outputs"]:
        """The layer of a whole batch."""
        y = grouped_convolution(x, self.weight, self.stride, self.padding, self.dense)
        return y if self.bias is None else y + self.bias
