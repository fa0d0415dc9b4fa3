"""Entities in shards of equal size, triples in blocks by the shards of their ends.

Cattaneo, Justus, Mellor, Orr, Maloberti, Liu, Farnsworth, Fitzgibbon, Banaszewski, Luschi, "BESS:
Balanced Entity Sampling and Sharing for Large-Scale Knowledge Graph Completion",
arXiv:2211.12281.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64

from qmgen.errors import InputError


@dataclass(frozen=True)
class EntityShards:
    """Where each entity's row lies.

    Attributes
    ----------
    shard, place
        Shard of each entity, and its row there.
    counts
        Entities of each shard, which differ by at most 1.
    """

    shard: Int32[np.ndarray, " entities"]
    place: Int32[np.ndarray, " entities"]
    counts: Int64[np.ndarray, " shards"]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self.counts.size

    @property
    def rows(self) -> int:
        """Rows of each shard; the last one of some shards is padding."""
        return int(self.counts.max())

    @property
    def row(self) -> Int64[np.ndarray, " entities"]:
        """Row of each entity if shards follow each other."""
        return self.shard.astype(np.int64) * self.rows + self.place


def shard_entities(entities: int, shards: int, *, seed: int) -> EntityShards:
    """Share entities out at random, so that hubs do not gather anywhere.

    Raises
    ------
    InputError
        There are fewer entities than shards, or no shards.
    """
    if not 1 <= shards <= entities:
        raise InputError(f"{entities} entities can't be shared out among {shards} shards")
    order = np.random.default_rng(seed).permutation(entities)
    turn = np.empty(entities, dtype=np.int64)
    turn[order] = np.arange(entities)
    counts = np.bincount(turn % shards, minlength=shards).astype(np.int64)
    return EntityShards((turn % shards).astype(np.int32), (turn // shards).astype(np.int32), counts)


@dataclass(frozen=True)
class TripleBlocks:
    """Triples in blocks by the shards of their head and of their tail.

    Attributes
    ----------
    heads, tails
        Rows in their shards, block after block.
    relations
        Numbers of relations.
    start, count
        Where each block starts and how many triples it has; head's shard, then tail's.
    order
        Number of each triple before it was sorted into blocks.
    """

    heads: Int32[np.ndarray, " n"]
    relations: Int32[np.ndarray, " n"]
    tails: Int32[np.ndarray, " n"]
    start: Int64[np.ndarray, "shards shards"]
    count: Int64[np.ndarray, "shards shards"]
    order: Int64[np.ndarray, " n"]

    @property
    def weights(self) -> Float32[np.ndarray, "shards shards"]:
        """Weight of a block's loss that makes the sum of equal draws a mean over all triples."""
        return (self.count * (self.count.size / self.count.sum())).astype(np.float32)


def block_triples(triples: Int[np.ndarray, "n 3"], shards: EntityShards) -> TripleBlocks:
    """Sort triples into blocks.

    Raises
    ------
    InputError
        There are no triples.
    """
    if not len(triples):
        raise InputError("there are no triples to train on")
    heads, relations, tails = triples.T
    block = shards.shard[heads].astype(np.int64) * shards.shards + shards.shard[tails]
    order = np.argsort(block, kind="stable")
    count = np.bincount(block, minlength=shards.shards**2)
    shape = (shards.shards, shards.shards)
    return TripleBlocks(
        shards.place[heads[order]],
        relations[order].astype(np.int32),
        shards.place[tails[order]],
        (np.cumsum(count) - count).reshape(shape),
        count.reshape(shape).astype(np.int64),
        order,
    )
