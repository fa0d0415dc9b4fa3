"""The design space of training in FP4: every switch in one value, and models trained with it.

Hu et al., 2509.17791: all operands of a layer's three products are E2M1 in blocks. What blocks are
scaled by, how numbers and scales are rounded, what gradients see of it, rotations, loss scaling and
the optimiser can be chosen apart from each other.
"""

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import PyTree

from qmgen.efficiency.element import E2M1, E4M3FN, E8M0, UE5M3
from qmgen.efficiency.formats import Format, ScaleFormat
from qmgen.efficiency.fp8_linear import quantise_linears
from qmgen.efficiency.gradient_approximations import STRAIGHT_THROUGH, CastGradient
from qmgen.efficiency.granularity import Granularity, blocks_along, tiles
from qmgen.efficiency.loss_scaling import BackoffLossScale, ConstantLossScale, LossScale
from qmgen.efficiency.quantised_matmul import MatmulFormats
from qmgen.errors import InputError

ScaleName = Literal["E8M0", "E4M3", "UE5M3"]
Products = Literal["none", "forward", "backward", "all"]

_ELEMENTS = {"E8M0": E8M0, "E4M3": E4M3FN, "UE5M3": UE5M3}
_ROUNDINGS: dict[str, Literal["nearest_even", "toward_zero", "up"]] = {
    "nearest_even": "nearest_even",
    "up": "up",
    "down": "toward_zero",
}


@dataclass(frozen=True)
class FP4Recipe:
    """One point of the design space; the default is its plainest with UE5M3 scales.

    Attributes
    ----------
    scale
        Format of the blocks' scales.
    block
        Numbers that share one, 16 or 32.
    scale_rounding
        Of absmax / 6. Powers of two (E8M0) are of absmax / 4, the largest power of two of E2M1,
        unless they are rounded up: so "down" is the rule of OCP's microscaling formats. "up" never
        clips a number.
    tensor_scale
        A float32 scale above those of the blocks.
    weight_tiles
        Weights are scaled in tiles of block x block, the same ones forwards and backwards.
    stochastic
        What is rounded stochastically: nothing, the gradients alone, all operands of the two
        backward products, or those of all three.
    rotation
        Products whose operands are turned by a random Hadamard matrix of the block's size.
    cast_gradient
        Gradients of steps, of absmax and of the scale's rounding.
    loss_scaling
        Multiply the loss as far as gradients stay finite (Backoff).
    optimiser
        Adam, or StableSPAM.

    Raises
    ------
    InputError
        Another block, or a tensor scale above powers of two.
    """

    scale: ScaleName = "UE5M3"
    block: int = 16
    scale_rounding: Literal["nearest_even", "up", "down"] = "nearest_even"
    tensor_scale: bool = False
    weight_tiles: bool = False
    stochastic: Literal["none", "gradients", "backward", "all"] = "none"
    rotation: Products = "none"
    cast_gradient: CastGradient = STRAIGHT_THROUGH
    loss_scaling: bool = False
    optimiser: Literal["adam", "stable_spam"] = "adam"

    def __post_init__(self) -> None:
        if self.block not in (16, 32):
            raise InputError(f"FP4 has blocks of 16 or 32 numbers, not of {self.block}")
        if self.tensor_scale and self.scale == "E8M0":
            raise InputError(
                "E8M0 has the range of float32, so a tensor scale above it does nothing; leave it "
                "out, or choose E4M3 or UE5M3"
            )

    @property
    def is_random(self) -> bool:
        """Whether each step needs a key, see `qmgen.efficiency.fp8_linear.with_keys`."""
        return self.stochastic != "none" or self.rotation != "none"

    def formats(self) -> MatmulFormats:
        """Formats of the operands of a layer's products."""
        blocks = self._format(blocks_along(self.block))
        weights = blocks
        if self.weight_tiles:
            weights = self._format(tiles(self.block, self.block))
        gradients = blocks
        if self.stochastic in ("gradients", "all"):
            gradients = gradients.with_rounding("stochastic")
        if self.stochastic == "all":
            blocks = blocks.with_rounding("stochastic")
            weights = weights.with_rounding("stochastic")
        return MatmulFormats(
            activations=blocks,
            weights=weights,
            gradients=gradients,
            stochastic_backward=self.stochastic == "backward",
            rotation=self.rotation,
            rotation_block=self.block,
            cast_gradient=self.cast_gradient,
        )

    def loss_scale(self) -> LossScale:
        """Rule of the loss scale."""
        return BackoffLossScale() if self.loss_scaling else ConstantLossScale()

    def _format(self, granularity: Granularity) -> Format:
        powers_of_two = self.scale == "E8M0" and self.scale_rounding != "up"
        scale = ScaleFormat(
            _ELEMENTS[self.scale],
            target="max_exponent" if powers_of_two else "max",
            rounding=_ROUNDINGS[self.scale_rounding],
        )
        return Format(E2M1, scale, granularity, self.tensor_scale)


def train_in_fp4(model: PyTree, recipe: FP4Recipe) -> PyTree:
    """Replace each linear layer of a model by one that multiplies in FP4 while it is trained.

    Call the model on whole batches (`apply_linear`), and give it keys in each step if the recipe
    is random (`with_keys`). What should stay wide, such as a first or last layer, is left out by
    giving the other parts one by one.
    """
    return quantise_linears(model, recipe.formats())


MXFP4_RECIPE = FP4Recipe("E8M0", 32, "down")
NVFP4_RECIPE = FP4Recipe("E4M3", tensor_scale=True)
UE5M3_RECIPE = FP4Recipe()
# The paper's best trade-off: rotations, tensor scaling where scales have a range, and stochastic
# rounding.
MXFP4_BEST = replace(MXFP4_RECIPE, rotation="all", stochastic="backward")
NVFP4_BEST = replace(NVFP4_RECIPE, rotation="all", stochastic="backward")
# Its follow-up, 2609.02846: weights in tiles, gradients alone stochastic, nothing rotated.
UE5M3_BEST = replace(UE5M3_RECIPE, tensor_scale=True, weight_tiles=True, stochastic="gradients")
