"""Which numbers share a scale: a whole tensor, a channel, or a block."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from qmgen.errors import InputError


@dataclass(frozen=True)
class Granularity:
    """Blocks along some axes; each has one scale.

    Attributes
    ----------
    sizes
        (axis, numbers in a block along it); an axis that is no multiple has a shorter last block.
    rest
        Size along all other axes, None for the whole axis.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    rest: int | None = None

    def __post_init__(self) -> None:
        if any(size < 1 for _, size in self.sizes) or self.rest not in (None, 1):
            raise InputError("a block has at least one number along every axis")

    def block_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a block in an array of this shape.

        Raises
        ------
        InputError
            The array lacks an axis.
        """
        block = [max(size, 1) if self.rest is None else self.rest for size in shape]
        for axis, size in self.sizes:
            if not -len(shape) <= axis < len(shape):
                raise InputError(f"blocks along axis {axis} of an array of {len(shape)} axes")
            block[axis] = min(size, max(shape[axis], 1))
        return tuple(block)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many blocks an array of this shape has along each axis."""
        block = self.block_shape(shape)
        return tuple(-(-n // size) for n, size in zip(shape, block, strict=True))

    def along(self, axis: int) -> "Granularity":
        """These blocks along another axis, if they are along one; otherwise the same."""
        if self.rest == 1 and len(self.sizes) == 1:
            return Granularity(((axis, self.sizes[0][1]),), 1)
        return self


PER_TENSOR = Granularity()


def per_channel(axis: int) -> Granularity:
    """One scale for each index along an axis."""
    return Granularity(((axis, 1),))


def blocks_along(size: int, axis: int = -1) -> Granularity:
    """One scale for each `size` numbers along an axis."""
    return Granularity(((axis, size),), 1)


def tiles(rows: int, columns: int) -> Granularity:
    """One scale for each tile of the last two axes."""
    return Granularity(((-2, rows), (-1, columns)), 1)


def into_blocks(x: Float[Array, "*shape"], granularity: Granularity) -> Float[Array, "..."]:
    """Split every axis in two, blocks and numbers within one; zeros fill short blocks."""
    block = granularity.block_shape(x.shape)
    blocks = granularity.scale_shape(x.shape)
    fill = [(0, n * b - size) for n, b, size in zip(blocks, block, x.shape, strict=True)]
    if any(after for _, after in fill):
        x = jnp.pad(x, fill)
    return x.reshape(tuple(size for pair in zip(blocks, block, strict=True) for size in pair))


def spread(
    scales: Float[Array, "..."], shape: tuple[int, ...], granularity: Granularity
) -> Float[Array, "..."]:
    """Repeat each block's scale over its numbers, as far as broadcasting needs it."""
    block = granularity.block_shape(shape)
    blocks = granularity.scale_shape(shape)
    if all(1 in pair for pair in zip(blocks, block, strict=True)):
        return scales
    parts = tuple(size for n in blocks for size in (n, 1))
    full = tuple(size for pair in zip(blocks, block, strict=True) for size in pair)
    padded = tuple(n * b for n, b in zip(blocks, block, strict=True))
    repeated = jnp.broadcast_to(scales.reshape(parts), full).reshape(padded)
    return repeated[tuple(slice(size) for size in shape)]


def numbers_in_blocks(shape: tuple[int, ...], granularity: Granularity) -> Float[Array, "..."]:
    """How many numbers each block has; shape of the scales."""
    ones = into_blocks(jnp.ones(shape), granularity)
    return ones.sum(tuple(range(1, 2 * len(shape), 2)))


def scale_count(shape: tuple[int, ...], granularity: Granularity) -> int:
    """Number of scales of an array of this shape."""
    return math.prod(granularity.scale_shape(shape))
