"""A linear layer that holds and multiplies active blocks only.

What a mask of `dynamic_sparsity` saves in memory and operations; large enough blocks are products
of small dense matrices.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from qmgen.errors import InputError


class BlockSparse(eqx.Module):
    """x W^T with the blocks of W that aren't zero.

    Attributes
    ----------
    blocks
        Weights of each one.
    row, column
        Where it is, counted in blocks.
    outputs, inputs
        Shape of W.
    """

    blocks: Float[Array, "active height width"]
    row: Int[Array, " active"]
    column: Int[Array, " active"]
    outputs: int = eqx.field(static=True)
    inputs: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Outputs of rows of inputs."""
        _, height, width = self.blocks.shape
        batch = x.shape[:-1]
        parts = x.reshape(*batch, self.inputs // width, width)[..., self.column, :]
        products = jnp.einsum("...nw,nhw->...nh", parts, self.blocks)
        zeros = jnp.zeros((*batch, self.outputs // height, height), products.dtype)
        return zeros.at[..., self.row, :].add(products).reshape(*batch, self.outputs)

    def dense(self) -> Float[Array, "outputs inputs"]:
        """W."""
        _, height, width = self.blocks.shape
        grid = (self.outputs // height, self.inputs // width)
        whole = jnp.zeros((*grid, height, width), self.blocks.dtype)
        whole = whole.at[self.row, self.column].set(self.blocks)
        return whole.transpose(0, 2, 1, 3).reshape(self.outputs, self.inputs)


def pack_blocks(
    weight: Float[Array, "outputs inputs"], mask: Bool[Array, "rows columns"]
) -> BlockSparse:
    """Take a matrix's active blocks; not under jit, as their number is a shape.

    Raises
    ------
    InputError
        The mask's rows or columns don't divide the matrix's.
    """
    (outputs, inputs), (rows, columns) = weight.shape, mask.shape
    if outputs % rows or inputs % columns:
        raise InputError(f"a mask of {mask.shape} blocks doesn't fit a matrix of {weight.shape}")
    row, column = jnp.nonzero(mask)
    blocks = weight.reshape(rows, outputs // rows, columns, inputs // columns)
    return BlockSparse(blocks[row, :, column, :], row, column, outputs, inputs)
