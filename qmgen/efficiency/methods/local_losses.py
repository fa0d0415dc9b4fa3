"""Layers trained by losses of their own instead of by gradients from the end of the network.

Laskin et al., 2012.03837 ("Parallel training of deep networks with local updates"). Each piece of
the network has a head and the task's loss, and no gradient leaves it at its input, so that pieces
can be trained at the same time (`local_pipeline`). Pieces of one layer are greedy, larger ones
chunked; overlapping ones share a layer with each neighbour. One piece with all layers is
backpropagation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from qmgen.errors import InputError

Layer = Callable[[Any], Any]
"""From what comes out of the layer before to what goes into the next one."""


def greedy(depth: int) -> tuple[range, ...]:
    """Pieces of one layer."""
    return chunked(depth, 1)


def chunked(depth: int, size: int) -> tuple[range, ...]:
    """Pieces of `size` layers, none of which shares a layer; as many as `depth` are one piece.

    Raises
    ------
    InputError
        The size doesn't divide the depth.
    """
    if depth < 1 or size < 1 or depth % size:
        raise InputError(f"{depth} layers can't be cut into pieces of {size}")
    return tuple(range(start, start + size) for start in range(0, depth, size))


def overlapping(depth: int) -> tuple[range, ...]:
    """Pieces of two layers, of which the second is the next one's first.

    So gradients cross one boundary: that of the loss after a layer trains the layer before, too.

    Raises
    ------
    InputError
        There are fewer than two layers.
    """
    if depth < 2:
        raise InputError(f"overlapping pieces have two layers, and there are {depth}")
    return tuple(range(start, start + 2) for start in range(depth - 1))


def _check(pieces: Sequence[range], depth: int) -> None:
    stop = 0
    for piece in pieces:
        if piece.step != 1 or not piece or piece.start > stop or piece.stop <= stop:
            raise InputError(f"pieces {list(pieces)} leave a gap or don't go on")
        stop = piece.stop
    if stop != depth or pieces[0].start != 0:
        raise InputError(f"pieces {list(pieces)} aren't those of {depth} layers")


def local_losses(
    layers: Sequence[Layer],
    heads: Sequence[Layer],
    pieces: Sequence[range],
    x: PyTree,
    loss: Callable[[Any], Float[Array, ""]],
) -> Float[Array, " pieces"]:
    """Loss of each piece, whose sum's gradient is that of training with local losses.

    The derivative of a piece's loss by a layer's weights is zero unless the layer is in the piece.

    Parameters
    ----------
    layers, heads
        Of the network, and of each piece: what makes the output of its last layer a prediction. In
        use only the last head counts.
    pieces
        Which layers each has, in order, such as `chunked(len(layers), 2)`.
    x
        What goes into the first layer. If it depends on weights, such as those of an embedding, the
        first piece trains them.
    loss
        Of a prediction.

    Raises
    ------
    InputError
        Pieces leave a gap, or there isn't a head for each.
    """
    _check(pieces, len(layers))
    if len(heads) != len(pieces):
        raise InputError(f"{len(pieces)} pieces need as many heads, not {len(heads)}")
    before = [x]
    losses = []
    for piece, head in zip(pieces, heads, strict=True):
        inside = before[piece.start]
        for number in piece:
            inside = layers[number](inside)
            if number + 1 == len(before):
                before.append(lax.stop_gradient(inside))
        losses.append(loss(head(inside)))
    return jnp.stack(losses)
