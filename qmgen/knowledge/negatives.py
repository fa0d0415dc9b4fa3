"""Which entities take the place of a true one: shared by a batch, or each triple's own.

Cattaneo et al., arXiv:2211.12281, section on negative sampling. Every shard lends as many rows to
every shard, so that work and traffic stay the same on all devices, and a triple meets entities of
all shards, not only of those where its ends lie.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from qmgen.errors import InputError
from qmgen.knowledge.sharding import EntityShards


class Replaced(NamedTuple):
    """The true ends that negatives replace, for some steps' triples.

    Attributes
    ----------
    triple
        Number of the triple in what blocks were made of: step, head's shard, tail's shard, draw.
    triples
        How many there are.
    heads
        How many of a block's draws, the first ones, lose their head; the others lose their tail.
    shard, place
        Where the true end lies.
    """

    triple: Int[np.ndarray, "steps shards shards b"]
    triples: int
    heads: int
    shard: Int[np.ndarray, "steps shards shards b"]
    place: Int[np.ndarray, "steps shards shards b"]


class Lent(NamedTuple):
    """Rows that each shard lends to each triple.

    Attributes
    ----------
    places
        Row: step, head's shard, tail's shard, draw, shard that lends, negative.
    kept
        Which of them the triple is compared with.
    """

    places: Int32[np.ndarray, "steps shards shards b shards k"]
    kept: Bool[np.ndarray, "steps shards shards b shards k"]


@dataclass(frozen=True)
class SharedNegatives:
    """The same for all triples of a shard and step, at random.

    The true end may be among them.

    Attributes
    ----------
    count
        Entities that each shard lends to each shard.
    """

    count: int

    def from_each(self, shards: EntityShards) -> int:
        """Negatives of a triple from each shard."""
        return self.count


@dataclass(frozen=True)
class OwnNegatives:
    """Each triple's own, at random, but never its true end.

    Where the true end is drawn, that negative counts for nothing.

    Attributes
    ----------
    count
        Entities that each shard lends to each triple.
    """

    count: int

    def from_each(self, shards: EntityShards) -> int:
        """Negatives of a triple from each shard."""
        return self.count

    def lend(self, replaced: Replaced, shards: EntityShards, rng: np.random.Generator) -> Lent:
        """Draw for some steps."""
        drawn = rng.random((*replaced.place.shape, shards.shards, self.count))
        places = (drawn * shards.counts[:, None]).astype(np.int32)
        return Lent(places, ~_true_end(places, replaced))


@dataclass(frozen=True)
class TypedNegatives:
    """Each triple's own, at random among the entities of the true end's type, but never that one.

    Where a shard has none of the type, it lends any of its entities, which count for nothing, so
    that traffic stays the same; so does the true end.

    Attributes
    ----------
    count
        Entities that each shard lends to each triple.
    type_of
        Type of each entity, such as `KnowledgeGraph.type_of`.
    """

    count: int
    type_of: Int[np.ndarray, " entities"]

    def from_each(self, shards: EntityShards) -> int:
        """Negatives of a triple from each shard."""
        return self.count

    def lend(self, replaced: Replaced, shards: EntityShards, rng: np.random.Generator) -> Lent:
        """Draw for some steps.

        Raises
        ------
        InputError
            There is not one type for each entity.
        """
        if self.type_of.shape != shards.shard.shape:
            raise InputError(
                f"{self.type_of.size} types were given for {shards.shard.size} entities; give one "
                "for each, such as the graph's type_of"
            )
        types = int(self.type_of.max()) + 1
        # Entities of a shard and type follow each other in this order.
        order = np.lexsort((self.type_of, shards.shard))
        count = np.bincount(
            shards.shard * np.int64(types) + self.type_of, minlength=shards.shards * types
        )
        start = (np.cumsum(count) - count).reshape(shards.shards, types).T
        count = count.reshape(shards.shards, types).T
        type_at = np.zeros((shards.shards, shards.rows), dtype=np.int64)
        type_at[shards.shard, shards.place] = self.type_of
        wanted = type_at[replaced.shard, replaced.place]
        there = count[wanted][..., None]
        drawn = rng.random((*wanted.shape, shards.shards, self.count))
        # The start of a type that comes last and that the last shard lacks is beyond the end.
        within = np.minimum(
            start[wanted][..., None] + (drawn * there).astype(np.int64), len(order) - 1
        )
        of_any = (drawn * shards.counts[:, None]).astype(np.int32)
        places = np.where(there > 0, shards.place[order[within]], of_any)
        return Lent(places, (there > 0) & ~_true_end(places, replaced))


@dataclass(frozen=True)
class GivenNegatives:
    """The same for a triple whenever it is drawn, such as the candidates of OGB's WikiKG.

    As many rows go from each shard to each triple as the triple with the most in one shard needs;
    what is lent beyond a triple's own counts for nothing.

    Attributes
    ----------
    heads, tails
        Entities that replace the head and the tail of each triple that is trained on; of an end
        that is never replaced there may be none (n times 0).
    """

    heads: Int[np.ndarray, "n a"]
    tails: Int[np.ndarray, "n b"]

    def from_each(self, shards: EntityShards) -> int:
        """Rows that each shard lends to each triple.

        Raises
        ------
        InputError
            A number is not that of an entity.
        """
        most = 0
        for given in (self.heads, self.tails):
            if given.size:
                if given.min() < 0 or given.max() >= shards.shard.size:
                    raise InputError(
                        f"negatives must be numbers of entities, 0 to {shards.shard.size - 1}"
                    )
                row = np.arange(len(given))[:, None] * shards.shards
                most = max(most, int(np.bincount((row + shards.shard[given]).ravel()).max()))
        return most

    def lend(self, replaced: Replaced, shards: EntityShards, rng: np.random.Generator) -> Lent:
        """Look up for some steps; nothing is drawn.

        Raises
        ------
        InputError
            Entities are not given for each triple, or not for an end that is replaced, or a number
            is not that of an entity.
        """
        width, half = self.from_each(shards), replaced.heads
        parts = []
        for name, given, some in (
            ("heads", self.heads, replaced.triple[..., :half]),
            ("tails", self.tails, replaced.triple[..., half:]),
        ):
            if not some.size:
                continue
            if not given.size:
                raise InputError(f"{name} are replaced, but no entities are given for them")
            if len(given) != replaced.triples:
                raise InputError(
                    f"negatives are given for {len(given)} {name}; give them for each of the "
                    f"{replaced.triples} triples that are trained on"
                )
            parts.append(_by_shard(given[some], shards, width))
        places, kept = zip(*parts, strict=True)
        return Lent(np.concatenate(places, axis=3), np.concatenate(kept, axis=3))


Negatives = SharedNegatives | OwnNegatives | TypedNegatives | GivenNegatives


def negatives_of(given: int | Negatives) -> Negatives:
    """Take a number as that of shared negatives."""
    return SharedNegatives(given) if isinstance(given, int) else given


def _true_end(places: np.ndarray, replaced: Replaced) -> np.ndarray:
    """Whether a row is the entity that it would replace."""
    lender = np.arange(places.shape[4])[:, None]
    true_place, true_shard = (x[..., None, None] for x in (replaced.place, replaced.shard))
    return (places == true_place) & (lender == true_shard)


def _by_shard(
    entities: Int[np.ndarray, "*m k"], shards: EntityShards, width: int
) -> tuple[Int32[np.ndarray, "*m shards width"], Bool[np.ndarray, "*m shards width"]]:
    """Rows of entities by the shard that has them, filled up with row 0, and which are real."""
    flat = entities.reshape(-1, entities.shape[-1])
    order = np.argsort(shards.shard[flat], axis=1, kind="stable")
    flat = np.take_along_axis(flat, order, axis=1)
    owner = shards.shard[flat]
    query = np.arange(len(flat))[:, None]
    count = np.bincount(
        (query * shards.shards + owner).ravel(), minlength=len(flat) * shards.shards
    ).reshape(len(flat), shards.shards)
    first = np.cumsum(count, axis=1) - count
    slot = np.arange(flat.shape[1]) - np.take_along_axis(first, owner, axis=1)
    places = np.zeros((len(flat), shards.shards, width), dtype=np.int32)
    places[query, owner, slot] = shards.place[flat]
    kept = np.arange(width) < count[..., None]
    shape = (*entities.shape[:-1], shards.shards, width)
    return places.reshape(shape), kept.reshape(shape)
