"""What a step multiplies, and how much of it a format's range has no room for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from qmgen.efficiency.casting import round_to
from qmgen.efficiency.element import FloatElement
from qmgen.efficiency.formats import Format
from qmgen.efficiency.fp8_linear import apply_linear, replace_linears
from qmgen.efficiency.granularity import spread
from qmgen.efficiency.quantise import block_scales
from qmgen.errors import InputError


class LayerTensors(NamedTuple):
    """Of each call of a linear layer, in their order."""

    weights: list[Float[Array, "outputs inputs"]]
    activations: list[Float[Array, "*batch inputs"]]
    gradients: list[Float[Array, "*batch outputs"]]


class RangeShares(NamedTuple):
    """Of all numbers but 0, those that become 0, and those too large for the format."""

    underflow: float
    overflow: float


class _Calls:
    """What the layers of one pass were given; lives no longer than the pass."""

    def __init__(self, taps: list[Array] | None) -> None:
        self.taps = taps
        self.weights: list[Array] = []
        self.activations: list[Array] = []
        self.outputs: list[Array] = []

    def output(self, weight: Array, x: Array, y: Array) -> Array:
        place = len(self.outputs)
        self.weights.append(weight)
        self.activations.append(x)
        self.outputs.append(y)
        return y if self.taps is None else y + self.taps[place]


class _Tapped(eqx.Module):
    """A linear layer that tells what it is given."""

    layer: Any
    calls: _Calls = eqx.field(static=True)

    @property
    def weight(self) -> Array:
        return self.layer.weight

    def __call__(self, x: Array, *, key: Key[Array, ""] | None = None) -> Array:
        return self.calls.output(self.layer.weight, x, apply_linear(self.layer, x))


def layer_tensors(
    loss: Callable[[PyTree], Float[Array, ""]], model: PyTree, also: tuple[type, ...] = ()
) -> LayerTensors:
    """Weights, inputs and gradients of outputs of a model's linear layers in one step.

    Parameters
    ----------
    loss
        Function of the model, not jitted by itself; layers are called as `apply_linear` does.
    also
        Types of other layers that count as linear and have a `weight`.
    """

    def run(taps: list[Array] | None) -> tuple[Array, _Calls]:
        calls = _Calls(taps)
        return loss(replace_linears(model, lambda layer: _Tapped(layer, calls), also)), calls

    def tapped(taps: list[Array]) -> tuple[Array, tuple[list[Array], list[Array]]]:
        value, calls = run(taps)
        return value, (calls.weights, calls.activations)

    outputs = jax.eval_shape(lambda: run(None)[1].outputs)
    taps = [jnp.zeros(output.shape, output.dtype) for output in outputs]
    gradients, (weights, activations) = jax.jit(jax.grad(tapped, has_aux=True))(taps)
    return LayerTensors(weights, activations, gradients)


def range_shares(tensors: Sequence[Float[Array, "..."]], format: Format) -> RangeShares:
    """Over several tensors, each cast by itself.

    Too large is what would round to more than the element's largest number if there was more; a
    cast clips it or makes it infinite. What is not finite counts as that.

    Raises
    ------
    InputError
        The element is no float.
    """
    if not isinstance(format.element, FloatElement):
        raise InputError("shares of a range are those of floats; choose a float element")
    total, vanished, clipped = 0, 0, 0
    for x in tensors:
        counts = [int(count) for count in _counts(x, format)]
        total, vanished, clipped = total + counts[0], vanished + counts[1], clipped + counts[2]
    return RangeShares(vanished / max(total, 1), clipped / max(total, 1))


@eqx.filter_jit
def _counts(x: Array, format: Format) -> tuple[Array, Array, Array]:
    assert isinstance(format.element, FloatElement)
    element, x = format.element, x.astype(jnp.float32)
    scales, tensor_scale = block_scales(x, format)
    if scales is not None:
        total = scales if tensor_scale is None else scales * tensor_scale
        x = x / spread(total, x.shape, format.granularity)
    limit = element.max + 2.0 ** (element.max_exponent - element.fraction_bits - 1)
    there = x != 0
    return (
        jnp.sum(there),
        jnp.sum(there & (round_to(x, element) == 0)),
        jnp.sum(there & ~(jnp.abs(x) < limit)),
    )
