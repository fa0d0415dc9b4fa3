"""Memory and traffic of a training step on each device: by formula, and of a compiled program."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from qmgen.knowledge.bess import Objective
from qmgen.knowledge.negatives import Negatives, SharedNegatives, negatives_of
from qmgen.knowledge.sharding import EntityShards

_BYTES = 4
_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
_COLLECTIVE = re.compile(
    r"= (?P<result>\([^)]*\)|\S+) (?P<kind>all-to-all|all-gather|all-reduce|reduce-scatter)\("
)
_ARRAY = re.compile(r"(?P<type>[a-z]+\d*)\[(?P<shape>[\d,]*)\]")


@dataclass(frozen=True)
class StepCost:
    """What a device holds and what goes through it in a step; the same on every device.

    Attributes
    ----------
    memory_bytes
        Embeddings in single precision and Adam's two moments of each.
    all_to_all_bytes
        What all-to-all exchanges hand a device in forward and backward pass together; the share
        1 / devices of it comes from itself.
    all_gather_bytes
        What it gets of others' queries in the forward pass, if scores are exchanged. The backward
        pass returns as much.
    all_reduce_bytes
        Gradient of relations, and the loss.
    """

    memory_bytes: int
    all_to_all_bytes: int
    all_gather_bytes: int
    all_reduce_bytes: int


def step_cost(
    objective: Objective,
    shards: EntityShards,
    *,
    devices: int,
    relations: int,
    width: int,
    per_block: int,
    negatives: int | Negatives,
) -> StepCost:
    """Count bytes of a step of `qmgen.knowledge.bess.train`, whose arguments these are.

    With S shards on W devices, B triples a block, K negatives of each shard and width d, a device
    gets S/W · S · (B + K) · d numbers if negatives are shared and S/W · S · (B + S B · K) · d if
    they are each triple's own; if scores move, S/W · S · (B · d + S B · K) in both cases.
    """
    negatives = negatives_of(negatives)
    own, all_shards = shards.shards // devices, shards.shards
    relation = objective.score.relation_width(width)
    held = own * shards.rows * width + relations * relation
    queries = all_shards * per_block
    compared = queries * negatives.from_each(shards)
    gathered = 0
    if objective.moved == "embeddings":
        lent = negatives.count if isinstance(negatives, SharedNegatives) else compared
        exchanged = own * all_shards * (per_block + lent) * width
    else:
        exchanged = own * all_shards * (per_block * width + compared)
        of_query = width + relation * objective.score.relation_in_compare
        gathered = all_shards * queries * of_query
    return StepCost(
        3 * held * _BYTES,
        2 * exchanged * _BYTES,
        gathered * _BYTES,
        (relations * relation + 1) * _BYTES,
    )


def collective_bytes(program: str) -> dict[str, int]:
    """Sum what each kind of collective operation hands to one device.

    Parameters
    ----------
    program
        Text of a compiled program, `jax.jit(f).lower(...).compile().as_text()`; asynchronous forms,
        as GPUs have them, are not counted.
    """
    total: Counter[str] = Counter()
    for found in _COLLECTIVE.finditer(program):
        for array in _ARRAY.finditer(found["result"]):
            numbers = math.prod(int(n) for n in array["shape"].split(",") if n)
            total[found["kind"]] += numbers * _SIZES[array["type"]]
    return dict(total)
