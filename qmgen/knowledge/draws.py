"""What steps of training work on: triples of every block, and entities to replace their ends."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from qmgen.knowledge.negatives import Negatives, Replaced, SharedNegatives, negatives_of
from qmgen.knowledge.sharding import EntityShards, TripleBlocks

Corrupted = Literal["tail", "head", "both"]


class Draws(NamedTuple):
    """What steps of training work on, each array with the shard that holds it before others.

    Attributes
    ----------
    heads, relations
        Of the positive triples: head's shard, tail's shard, draw.
    tails
        Of the same triples: tail's shard, head's shard, draw.
    negatives
        Rows that a shard lends: their shard, the shard that corrupts triples with them, draw.
        Where negatives are each triple's own, as many for each triple follow each other, triples
        in the order of their tail's shard and draw.
    kept
        Which of its negatives a triple is compared with, if they are its own: head's shard, tail's
        shard, draw of the triple, draws of one lending shard after the other. None if negatives
        are shared.
    """

    heads: Int32[np.ndarray, "steps shards shards b"]
    relations: Int32[np.ndarray, "steps shards shards b"]
    tails: Int32[np.ndarray, "steps shards shards b"]
    negatives: Int32[np.ndarray, "steps shards shards k"]
    kept: Bool[np.ndarray, "steps shards shards b n"] | None


class ShuffledBlocks:
    """Triples of each block in random order, none of them again before all have come.

    Blocks go through their triples at their own pace, and a new order follows when one ends.

    Parameters
    ----------
    blocks
        What to go through.
    rng
        Generator of the orders, which `take` advances.
    """

    def __init__(self, blocks: TripleBlocks, rng: np.random.Generator) -> None:
        self.blocks = blocks
        self._rng = rng
        self._left = {
            place: np.empty(0, dtype=np.int64) for place in np.ndindex(blocks.count.shape)
        }

    def take(self, number: int) -> Int64[np.ndarray, "shards shards number"]:
        """Give the next triples of each block, as places in the arrays of `TripleBlocks`.

        A block without triples gives some of others, which have no weight.
        """
        count = np.maximum(self.blocks.count, 1)
        chosen = np.empty((*count.shape, number), dtype=np.int64)
        for place, left in self._left.items():
            orders = max(0, -(-(number - left.size) // count[place]))
            new = self._rng.permuted(np.tile(np.arange(count[place]), (orders, 1)), axis=1)
            order = np.concatenate([left, new.ravel()])
            chosen[place], self._left[place] = order[:number], order[number:].copy()
        return np.minimum(self.blocks.start[..., None] + chosen, len(self.blocks.heads) - 1)


def corrupted_heads(corrupted: Corrupted, per_block: int) -> int:
    """How many triples of each block lose their head; they come first."""
    return {"tail": 0, "head": per_block, "both": per_block // 2}[corrupted]


def draw_steps(
    shuffled: ShuffledBlocks,
    shards: EntityShards,
    *,
    steps: int,
    per_block: int,
    negatives: int | Negatives,
    corrupted: Corrupted,
    rng: np.random.Generator,
) -> Draws:
    """Draw triples and negatives for several steps, negatives with replacement.

    The same number comes from each block, so that shards have the same work and send and receive
    the same amount. Nothing depends on how many devices hold the shards.

    Parameters
    ----------
    shuffled, shards
        What to draw from.
    steps
        Steps of training.
    per_block
        Triples from each block and step.
    negatives
        Which entities shards lend to each other and to themselves; a number is that of shared
        ones.
    corrupted
        As of the `Objective`.
    rng
        Generator of negatives, which this advances.

    Raises
    ------
    InputError
        The negatives do not suit the triples.
    """
    blocks = shuffled.blocks
    shape = (steps, *blocks.count.shape)
    taken = shuffled.take(steps * per_block).reshape(*blocks.count.shape, steps, per_block)
    chosen = np.moveaxis(taken, 2, 0)
    negatives = negatives_of(negatives)
    kept = None
    if isinstance(negatives, SharedNegatives):
        drawn = rng.random((*shape, negatives.count)) * shards.counts[:, None, None]
        lent = drawn.astype(np.int32)
    else:
        replaced = _replaced(blocks, chosen, corrupted_heads(corrupted, per_block))
        places, used = negatives.lend(replaced, shards, rng)
        lent = np.ascontiguousarray(np.moveaxis(places, 4, 1)).reshape(*shape, -1)
        kept = used.reshape(*chosen.shape, -1)
    return Draws(
        blocks.heads[chosen],
        blocks.relations[chosen],
        np.ascontiguousarray(blocks.tails[chosen].swapaxes(1, 2)),
        lent,
        kept,
    )


def _replaced(blocks: TripleBlocks, chosen: np.ndarray, heads: int) -> Replaced:
    of_head = np.arange(chosen.shape[-1]) < heads
    own, other = np.ogrid[: chosen.shape[1], : chosen.shape[2]]
    # Where a block is empty, its triples are another's and these places wrong, without any weight.
    shard = np.where(of_head, own[..., None], other[..., None])
    return Replaced(
        blocks.order[chosen],
        len(blocks.order),
        heads,
        np.broadcast_to(shard, chosen.shape),
        np.where(of_head, blocks.heads[chosen], blocks.tails[chosen]),
    )
