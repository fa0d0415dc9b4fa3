"""EfficientNet, and what makes it efficient on hardware as it is.

Tan and Le, 1905.11946, scale one network in width, depth and resolution, B0 to B7. Masters et al.,
2106.03640, change three things: convolutions in groups of 16 channels in place of depthwise ones,
with the expansion before them cut from 6 to 4 for it; layer norm with proxy-normalised activations
in place of batch norm; training at half the pixels, and fine-tuning of the top layers at all.

Images are `batch height width channels`. There is neither dropout nor stochastic depth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt

from qmgen.efficiency.networks.grouped import GroupedConvolution, GroupedLinear
from qmgen.efficiency.networks.norms import group_norm
from qmgen.efficiency.networks.proxy_norm import AffineActivation, ProxyNorm
from qmgen.errors import InputError

AnyKey = Key[Array, ""] | UInt[Array, "2"]


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first one has the stride."""

    kernel: int
    stride: int
    channels: int
    blocks: int
    expands: bool = True


@dataclass(frozen=True)
class Architecture:
    """Widths before, in and after the blocks."""

    stem: int
    stages: tuple[Stage, ...]
    head: int


@dataclass(frozen=True)
class Scaling:
    """Factors of channels and of blocks, and the size of images in pixels."""

    width: float
    depth: float
    resolution: int


@dataclass(frozen=True)
class Variant:
    """What Masters et al. vary.

    Attributes
    ----------
    group_size
        Channels in a group of the spatial convolutions; 1 is depthwise.
    expansion
        Channels in a block over those at its input.
    norm_groups
        Of group norm; 1 is layer norm.
    proxy
        Proxy norm for activations. Norms then have no gain and bias of their own, and the last
        norm in a block, which no activation follows, a gain only.
    """

    group_size: int
    expansion: int
    norm_groups: int
    proxy: bool


ORIGINAL = Variant(group_size=1, expansion=6, norm_groups=4, proxy=False)
EFFICIENT = Variant(group_size=16, expansion=4, norm_groups=1, proxy=True)

B0 = Architecture(
    32,
    (
        Stage(3, 1, 16, 1, expands=False),
        Stage(3, 2, 24, 2),
        Stage(5, 2, 40, 2),
        Stage(3, 2, 80, 3),
        Stage(5, 1, 112, 3),
        Stage(5, 2, 192, 4),
        Stage(3, 1, 320, 1),
    ),
    1280,
)
SCALINGS = {
    "B0": Scaling(1.0, 1.0, 224),
    "B1": Scaling(1.0, 1.1, 240),
    "B2": Scaling(1.1, 1.2, 260),
    "B3": Scaling(1.2, 1.4, 300),
    "B4": Scaling(1.4, 1.8, 380),
    "B5": Scaling(1.6, 2.2, 456),
    "B6": Scaling(1.8, 2.6, 528),
    "B7": Scaling(2.0, 3.1, 600),
}
# Of training with about half the pixels, where the authors have one. They leave the same remainder
# by 32 as the full size, so that strides cut both alike.
HALF_RESOLUTIONS = {"B0": 160, "B1": 176, "B2": 196, "B3": 204, "B4": 252, "B5": 328}


def scaled(architecture: Architecture, scaling: Scaling) -> Architecture:
    """Channels to the nearest multiple of eight that isn't 10 % less, blocks rounded up."""

    def channels(count: int) -> int:
        exact = scaling.width * count
        nearest = max(8, int(exact + 4) // 8 * 8)
        return nearest if nearest >= 0.9 * exact else nearest + 8

    stages = tuple(
        Stage(
            s.kernel, s.stride, channels(s.channels), math.ceil(scaling.depth * s.blocks), s.expands
        )
        for s in architecture.stages
    )
    return Architecture(channels(architecture.stem), stages, channels(architecture.head))


def group_count(channels: int, group_size: int) -> int:
    """The most groups of at least that size that channels can be cut into, at least one."""
    most = max(channels // group_size, 1)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class NormActivation(eqx.Module):
    """Norm over the image, and the activation with its gain and bias."""

    activation: ProxyNorm | AffineActivation
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, variant: Variant) -> None:
        kind = ProxyNorm if variant.proxy else AffineActivation
        self.activation = kind(channels, jax.nn.swish)
        self.groups = variant.norm_groups

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Of a batch."""
        return self.activation(group_norm(x, self.groups, 2))


class OutputNorm(eqx.Module):
    """Norm over the image at a block's end, where no activation follows."""

    gain: Float[Array, " channels"]
    bias: Float[Array, " channels"] | None
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, variant: Variant) -> None:
        self.gain = jnp.ones(channels)
        self.bias = None if variant.proxy else jnp.zeros(channels)
        self.groups = variant.norm_groups

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Of a batch."""
        y = self.gain * group_norm(x, self.groups, 2)
        return y if self.bias is None else y + self.bias


class SqueezeExcite(eqx.Module):
    """Channels times a factor in (0, 1) that depends on all of their means; activation is plain."""

    reduce: GroupedLinear
    expand: GroupedLinear

    def __init__(self, channels: int, reduced: int, *, key: AnyKey) -> None:
        first, second = jax.random.split(key)
        self.reduce = GroupedLinear(channels, reduced, 1, key=first)
        self.expand = GroupedLinear(reduced, channels, 1, key=second)

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Of a batch."""
        means = jnp.mean(x, (1, 2), keepdims=True)
        return x * jax.nn.sigmoid(self.expand(jax.nn.swish(self.reduce(means))))


class MBConv(eqx.Module):
    """Expansion, a spatial convolution in groups, squeeze-excite, projection; plus x if it fits.

    Squeeze-excite reduces to a quarter of the block's input channels.
    """

    expand: GroupedConvolution | None
    expand_activation: NormActivation | None
    spatial: GroupedConvolution
    activation: NormActivation
    squeeze_excite: SqueezeExcite
    project: GroupedConvolution
    norm: OutputNorm
    residual: bool = eqx.field(static=True)

    def __init__(
        self, inputs: int, stage: Stage, stride: int, variant: Variant, *, key: AnyKey, dense: bool
    ) -> None:
        keys = jax.random.split(key, 4)
        inside = inputs * variant.expansion if stage.expands else inputs
        self.expand = self.expand_activation = None
        if stage.expands:
            self.expand = GroupedConvolution(inputs, inside, (1, 1), groups=1, key=keys[0])
            self.expand_activation = NormActivation(inside, variant)
        self.spatial = GroupedConvolution(
            inside,
            inside,
            (stage.kernel, stage.kernel),
            groups=group_count(inside, variant.group_size),
            key=keys[1],
            stride=stride,
            dense=dense,
        )
        self.activation = NormActivation(inside, variant)
        self.squeeze_excite = SqueezeExcite(inside, max(inputs // 4, 1), key=keys[2])
        self.project = GroupedConvolution(inside, stage.channels, (1, 1), groups=1, key=keys[3])
        self.norm = OutputNorm(stage.channels, variant)
        self.residual = stride == 1 and inputs == stage.channels

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        """Of a batch."""
        y = x
        if self.expand is not None and self.expand_activation is not None:
            y = self.expand_activation(self.expand(y))
        y = self.squeeze_excite(self.activation(self.spatial(y)))
        y = self.norm(self.project(y))
        return x + y if self.residual else y


class EfficientNet(eqx.Module):
    """A stem with stride 2, blocks, a head of 1x1, the mean over the image, a linear layer.

    Parameters
    ----------
    outputs
        Classes, or quantities.
    channels
        Of images.
    dense
        Compute grouped convolutions by dense kernels, as in `grouped_convolution`.
    """

    stem: GroupedConvolution
    stem_activation: NormActivation
    blocks: tuple[MBConv, ...]
    head: GroupedConvolution
    head_activation: NormActivation
    classifier: GroupedLinear

    def __init__(
        self,
        architecture: Architecture,
        variant: Variant,
        outputs: int,
        *,
        key: AnyKey,
        channels: int = 3,
        dense: bool = False,
    ) -> None:
        for_stem, for_blocks, for_head, for_classifier = jax.random.split(key, 4)
        width = architecture.stem
        self.stem = GroupedConvolution(channels, width, (3, 3), groups=1, key=for_stem, stride=2)
        self.stem_activation = NormActivation(width, variant)
        blocks: list[MBConv] = []
        for stage in architecture.stages:
            for i in range(stage.blocks):
                key = jax.random.fold_in(for_blocks, len(blocks))
                stride = 1 if i else stage.stride
                blocks.append(MBConv(width, stage, stride, variant, key=key, dense=dense))
                width = stage.channels
        self.blocks = tuple(blocks)
        self.head = GroupedConvolution(width, architecture.head, (1, 1), groups=1, key=for_head)
        self.head_activation = NormActivation(architecture.head, variant)
        self.classifier = GroupedLinear(architecture.head, outputs, 1, key=for_classifier)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch outputs"]:
        """Logits, or whatever the loss takes outputs for."""
        x = self.stem_activation(self.stem(images))
        for block in self.blocks:
            x = block(x)
        x = self.head_activation(self.head(x))
        return self.classifier(jnp.mean(x, (1, 2)))


def efficientnet(
    name: str, variant: Variant = EFFICIENT, outputs: int = 1000, *, key: AnyKey
) -> EfficientNet:
    """One of B0 to B7.

    Raises
    ------
    InputError
        There is none of that name.
    """
    if name not in SCALINGS:
        raise InputError(f"no EfficientNet {name!r}; choose one of {', '.join(SCALINGS)}")
    return EfficientNet(scaled(B0, SCALINGS[name]), variant, outputs, key=key)


def top_layers(model: EfficientNet, blocks: int = 0) -> Any:
    """The model's shape with True at what fine-tuning at another resolution trains.

    For `equinox.partition`: the head, its norm's parameters, the last linear layer, and that many
    of the last blocks.

    Raises
    ------
    InputError
        More blocks than there are.
    """
    if not 0 <= blocks <= len(model.blocks):
        raise InputError(f"{blocks} top blocks of a network of {len(model.blocks)}")

    def parts(m: EfficientNet) -> tuple[Any, ...]:
        top = m.blocks[len(m.blocks) - blocks :]
        return (m.head, m.head_activation, m.classifier, *top)

    nothing = jax.tree.map(lambda _: False, model)
    of_arrays: Callable[[Any], Any] = lambda part: jax.tree.map(eqx.is_inexact_array, part)  # noqa: E731
    return eqx.tree_at(parts, nothing, tuple(of_arrays(part) for part in parts(model)))
