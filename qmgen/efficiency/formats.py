"""A number format as one value: element, scales, who shares them, rounding.

The named ones are those of the papers and of the OCP's specification of microscaling formats.
"""

from dataclasses import dataclass, replace
from typing import Literal

from qmgen.efficiency.element import (
    E2M1,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
    FLOAT32,
    INT4,
    INT8,
    NF4,
    UE5M3,
    Element,
    FloatElement,
)
from qmgen.efficiency.float_bits import Rounding
from qmgen.efficiency.granularity import PER_TENSOR, Granularity, blocks_along
from qmgen.errors import InputError


@dataclass(frozen=True)
class ScaleFormat:
    """How a block's scale comes from its numbers: `element` of (statistic / target).

    Attributes
    ----------
    element
        Format of the scale itself.
    statistic
        "absmax" or "rms" of the block's numbers, or "signmax", its number of largest magnitude with
        the sign, so that this one always becomes the target and never minus it.
    target
        What the statistic becomes in the element: "max", its largest number; "max_exponent", the
        largest power of two (MX formats); or a number.
    rounding
        Of the scale's magnitude.

    Raises
    ------
    InputError
        "signmax" and a scale without sign.
    """

    element: FloatElement = FLOAT32
    statistic: Literal["absmax", "rms", "signmax"] = "absmax"
    target: Literal["max", "max_exponent"] | float = "max"
    rounding: Literal["nearest_even", "toward_zero", "up"] = "nearest_even"

    def __post_init__(self) -> None:
        if self.statistic == "signmax" and not self.element.signed:
            raise InputError("'signmax' keeps a sign in the scale; give it a format that has one")

    def target_in(self, element: Element) -> float:
        """The target as a number."""
        if self.target == "max":
            return element.max
        if self.target == "max_exponent":
            return 2.0**element.max_exponent
        return float(self.target)


@dataclass(frozen=True)
class FixedScale:
    """The same scale for every tensor, 2^exponent; nothing of it is stored."""

    exponent: int


@dataclass(frozen=True)
class Format:
    """A number is an element times the scale of its block times that of its tensor.

    Attributes
    ----------
    element
        What a code stands for.
    scale
        How blocks are scaled; None for not at all.
    granularity
        Which numbers are a block.
    tensor_scale
        A float32 scale above those of the blocks, by which the largest block scale becomes the
        largest number of the scale's format (NVFP4).
    rounding
        Of the elements; "stochastic" needs a key.
    saturate
        Clip what is too large, otherwise it becomes infinity or NaN where the element has them.

    Raises
    ------
    InputError
        The parts don't fit together.
    """

    element: Element
    scale: ScaleFormat | FixedScale | None = None
    granularity: Granularity = PER_TENSOR
    tensor_scale: bool = False
    rounding: Rounding = "nearest_even"
    saturate: bool = True

    def __post_init__(self) -> None:
        if self.tensor_scale and not isinstance(self.scale, ScaleFormat):
            raise InputError("a tensor scale is above block scales; give `scale` a ScaleFormat")

    def along(self, axis: int) -> "Format":
        """The same with blocks along another axis, if it has blocks along one."""
        return replace(self, granularity=self.granularity.along(axis))

    def with_rounding(self, rounding: Rounding) -> "Format":
        """The same with another rounding of the elements."""
        return replace(self, rounding=rounding)


_MX_SCALE = ScaleFormat(E8M0, target="max_exponent", rounding="toward_zero")
# OCP microscaling formats 1.0: blocks of 32 with a power of two, 2^(floor(log2 absmax) - emax).
MXFP8 = Format(E4M3FN, _MX_SCALE, blocks_along(32))
MXFP8_E5M2 = Format(E5M2, _MX_SCALE, blocks_along(32))
MXFP4 = Format(E2M1, _MX_SCALE, blocks_along(32))
# Blocks of 16 with a scale in 8 bits, and a float32 scale of the tensor.
NVFP4 = Format(E2M1, ScaleFormat(E4M3FN), blocks_along(16), tensor_scale=True)
# Hu et al., 2509.17791: the same blocks without a tensor scale.
FP4_E4M3 = Format(E2M1, ScaleFormat(E4M3FN), blocks_along(16))
FP4_UE5M3 = Format(E2M1, ScaleFormat(UE5M3), blocks_along(16))
# Bare casts. Noune et al., 2206.02915: 1.4.3 for weights and activations, 1.5.2 for gradients.
FP8_143 = Format(E4M3FNUZ)
FP8_152 = Format(E5M2FNUZ)
FP8_E4M3 = Format(E4M3FN)
FP8_E5M2 = Format(E5M2)
INT8_ABSMAX = Format(INT8, ScaleFormat())
INT4_ABSMAX = Format(INT4, ScaleFormat(), blocks_along(128))
NF4_ABSMAX = Format(NF4, ScaleFormat(), blocks_along(64))
