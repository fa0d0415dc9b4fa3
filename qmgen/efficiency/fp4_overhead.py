"""What each switch of an FP4 recipe costs beside the products, counted on paper.

Hu et al., 2509.17791, weigh what a technique gains against what it computes in addition; their
code counts one point for each technique that is on (`switches`). Here it is the operations on
vectors that a cast needs beyond the plainest one, and the bytes that it reads beyond one pass, for
each number that is cast: two operands forwards, four backwards. Products themselves run on matrix
units in any recipe and count nothing.

An exponential, logarithm or reciprocal counts as eight operations: CUDA's programming guide has 16
of them a clock and multiprocessor beside 128 float32 operations (compute capability 8.9 and 9.0).
Wide numbers are read as BF16.
"""

import math
from dataclasses import dataclass

from qmgen.efficiency.fp4_training import FP4Recipe
from qmgen.efficiency.gradient_approximations import Step

_TRANSCENDENTAL = 8
_WIDE_BYTES = 2
_FLOAT32_BYTES = 4
# The plainest cast: magnitude into the running maximum, product with the reciprocal of the scale,
# conversion.
PLAIN_CAST = 3
# Philox4x32-10 (Salmon et al., SC 2011): ten rounds of 4 multiplications, 4 exclusive or and 2 key
# additions make 128 bits. A number takes 16 of them, as in the authors' simulation, and is then
# added to and cut off.
_RANDOM_ROUNDING = 10 * (4 + 4 + 2) * 16 / 128 + 2
# Which of E2M1's 14 steps (binary search), place in it (difference and product), product with the
# gradient; and the slope itself.
_LOCATE = math.ceil(math.log2(14)) + 2 + 1
_SLOPES: dict[Step, int] = {
    "straight_through": 0,
    # Magnitude, x^(-4/5) as exp2 of a multiple of log2, factor, bound.
    "power": 1 + 2 * _TRANSCENDENTAL + 1 + 1 + 1,
    # Logistic function (negation and factor, exponential, sum, reciprocal), s (1 - s), factor.
    "sigmoid": 1 + _TRANSCENDENTAL + 1 + _TRANSCENDENTAL + 2 + 1,
    # Magnitude, comparison, choice.
    "spline": 3,
}
# Error of the cast, times the gradient, summed over the block, added where the maximum is.
_ABSMAX_GRADIENT = 1 + 1 + 1 + 1
# Beside that, softmax of the magnitudes in units of the RMS: square and sum, quotient, exponential
# and sum, quotient; then the sign, and a product.
_SOFTMAX_GRADIENT = _ABSMAX_GRADIENT + 2 + 1 + _TRANSCENDENTAL + 1 + 1 + 2
# AdaClip: magnitude into a maximum, comparison, product; AdaGN: square, sum, product.
_STABLE_SPAM = 3 + 3
# Product with the reciprocal of the scale, and a look whether it is finite.
_UNSCALE = 2


@dataclass(frozen=True)
class Overhead:
    """Operations on vectors, and bytes read."""

    operations: float | int = 0.0
    bytes: float | int = 0.0

    def __add__(self, other: "Overhead") -> "Overhead":
        return Overhead(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: float | int) -> "Overhead":
        """The same for each of so many numbers."""
        return Overhead(self.operations * count, self.bytes * count)


@dataclass(frozen=True)
class LayerShape:
    """A product of rows x inputs with inputs x outputs."""

    rows: int
    inputs: int
    outputs: int

    @property
    def activations(self) -> int:
        """Numbers that come in."""
        return self.rows * self.inputs

    @property
    def weights(self) -> int:
        """Weights."""
        return self.inputs * self.outputs

    @property
    def gradients(self) -> int:
        """Numbers that go out, and so gradients that come back."""
        return self.rows * self.outputs

    @property
    def casts(self) -> int:
        """Numbers that a step casts: each operand along two axes."""
        return 2 * (self.activations + self.weights + self.gradients)


def cast_overhead(recipe: FP4Recipe, rotated: bool, stochastic: bool) -> Overhead:
    """For each number of one cast, in a product that is rotated or not."""
    cost = Overhead()
    if recipe.tensor_scale:
        # Maximum of the blocks' scales, and their quotient by it; blocks can be cast only after the
        # whole tensor has been seen, which is a second pass.
        cost += Overhead(2 / recipe.block, _WIDE_BYTES)
    if stochastic:
        cost += Overhead(_RANDOM_ROUNDING)
    if rotated:
        # Signs, and a fast Walsh-Hadamard transform: log2(block) additions a number. The factor
        # 1 / sqrt(block) goes into the scale.
        cost += Overhead(1 + math.log2(recipe.block))
    return cost


def gradient_overhead(recipe: FP4Recipe) -> Overhead:
    """For each number of a forward operand: its gradient on the way through the cast."""
    gradient = recipe.cast_gradient
    operations = 0.0
    if gradient.step != "straight_through":
        operations += _LOCATE + _SLOPES[gradient.step]
    if gradient.scale != "none":
        operations += _ABSMAX_GRADIENT if gradient.scale == "absmax" else _SOFTMAX_GRADIENT
    if gradient.scale_step != "straight_through":
        # Of 255 or fewer scales, once a block.
        operations += (8 + 2 + 1 + _SLOPES[gradient.scale_step]) / recipe.block
    if not operations:
        return Overhead()
    if recipe.rotation in ("forward", "all"):
        # Into the rotated operand's gradient and back.
        operations += 2 * (1 + math.log2(recipe.block))
    # The wide operand is needed once more.
    return Overhead(operations, _WIDE_BYTES)


def layer_overhead(recipe: FP4Recipe, shape: LayerShape) -> Overhead:
    """Of one step of training of one linear layer, optimiser included."""
    turns = {
        "forward": recipe.rotation in ("forward", "all"),
        "backward": recipe.rotation in ("backward", "all"),
    }
    everything = recipe.stochastic == "all"
    backward = recipe.stochastic in ("backward", "all")
    forwards = cast_overhead(recipe, turns["forward"], everything)
    backwards = cast_overhead(recipe, turns["backward"], backward)
    gradients = cast_overhead(recipe, turns["backward"], recipe.stochastic != "none")
    operands = shape.activations + shape.weights
    total = forwards.times(operands) + backwards.times(operands)
    total += gradients.times(2 * shape.gradients)
    total += gradient_overhead(recipe).times(operands)
    same_weights = recipe.weight_tiles and recipe.rotation == "none"
    if same_weights and recipe.stochastic in ("none", "gradients"):
        # Tiles are the same both ways, so weights are cast once.
        total += Overhead(-PLAIN_CAST, -_WIDE_BYTES).times(shape.weights)
        total += forwards.times(-shape.weights)
    if recipe.optimiser == "stable_spam":
        # Maximum and norm each want a pass over the gradient before it is used.
        total += Overhead(_STABLE_SPAM, 2 * _FLOAT32_BYTES).times(shape.weights)
    if recipe.loss_scaling:
        total += Overhead(_UNSCALE).times(shape.weights)
    return total


def overhead_per_number(recipe: FP4Recipe, shapes: tuple[LayerShape, ...]) -> Overhead:
    """Mean over all numbers that a step casts; the plainest cast itself takes `PLAIN_CAST`."""
    total = Overhead()
    for shape in shapes:
        total += layer_overhead(recipe, shape)
    return total.times(1 / sum(shape.casts for shape in shapes))


def switches(recipe: FP4Recipe) -> int:
    """How many techniques are on, the authors' own measure of complexity."""
    gradient = recipe.cast_gradient
    return sum(
        (
            gradient.step != "straight_through",
            gradient.scale != "none",
            gradient.scale_step != "straight_through",
            recipe.rotation != "none",
            recipe.stochastic != "none",
            recipe.tensor_scale,
        )
    )
