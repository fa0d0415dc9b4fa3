"""Run by test_bess.py with eight forced host devices; prints what it found as JSON."""

import json
import sys

import jax
import numpy as np
import optax

from qmgen.knowledge.bess import Objective, device_mesh, initial_embeddings, step_loss, train
from qmgen.knowledge.bess_cost import collective_bytes
from qmgen.knowledge.draws import ShuffledBlocks, draw_steps
from qmgen.knowledge.graph import KnowledgeGraph, distinct_triples
from qmgen.knowledge.link_losses import LogSigmoid
from qmgen.knowledge.negatives import (
    GivenNegatives,
    OwnNegatives,
    SharedNegatives,
    TypedNegatives,
)
from qmgen.knowledge.scoring import rotat_e, trans_h
from qmgen.knowledge.sharding import block_triples, shard_entities
from tests.knowledge import unsharded

ENTITIES, RELATIONS, WIDTH, SHARDS, PER_BLOCK = 45, 3, 6, 8, 2
# Two entities are of the first type, so that most shards have none of it.
TYPE_OF = np.where(np.arange(ENTITIES) < 2, 0, 1 + np.arange(ENTITIES) % 2)
CASES = {
    f"{score.name} {moved} {negatives}": (score, moved, negatives)
    for score, moved, negatives in (
        (rotat_e(), "embeddings", "shared"),
        (rotat_e(), "scores", "shared"),
        (trans_h(), "scores", "shared"),
        (rotat_e(), "embeddings", "own"),
        (trans_h(), "scores", "own"),
        (trans_h(), "embeddings", "typed"),
        (rotat_e(), "scores", "typed"),
        (rotat_e(), "embeddings", "given"),
    )
}


def graph() -> KnowledgeGraph:
    rng = np.random.default_rng(0)
    triples = np.stack([rng.integers(0, n, 900) for n in (ENTITIES, RELATIONS, ENTITIES)], axis=1)
    return KnowledgeGraph(
        tuple(map(str, range(ENTITIES))),
        tuple(map(str, range(RELATIONS))),
        distinct_triples(triples),
        ("entity",),
        np.zeros(ENTITIES, dtype=np.int64),
    )


def negatives_of_each_kind(triples: int) -> dict:
    heads, tails = np.random.default_rng(4).integers(0, ENTITIES, (2, triples, 5))
    return {
        "shared": SharedNegatives(3),
        "own": OwnNegatives(3),
        "typed": TypedNegatives(3, TYPE_OF),
        "given": GivenNegatives(heads, tails[:, :4]),
    }


def main() -> None:
    assert len(jax.devices()) == 8
    some = graph()
    loss = LogSigmoid(margin=2.0)
    kinds = negatives_of_each_kind(len(some.triples))
    curves, held = {}, {}
    for kind, negatives in kinds.items():
        curves[kind] = {}
        for devices in (1, 2, 4, 8):
            trained = train(
                some,
                some.triples,
                Objective(rotat_e(), loss),
                width=WIDTH,
                steps=30,
                per_block=PER_BLOCK,
                negatives=negatives,
                optimiser=optax.adam(0.02),
                mesh=device_mesh(jax.devices()[:devices]),
                shards=SHARDS,
                seed=1,
            )
            curves[kind][devices] = trained.losses.tolist()
            pieces = trained.embeddings.entities.addressable_shards
            held[devices] = sorted(piece.data.nbytes for piece in pieces)

    shards = shard_entities(ENTITIES, SHARDS, seed=1)
    blocks = block_triples(some.triples, shards)
    differences, traffic = {}, {}
    mesh = device_mesh(jax.devices()[:4])
    for name, (score, moved, kind) in CASES.items():
        rng = np.random.default_rng(2)
        steps = draw_steps(
            ShuffledBlocks(blocks, rng),
            shards,
            steps=1,
            per_block=PER_BLOCK,
            negatives=kinds[kind],
            corrupted="both",
            rng=rng,
        )
        draws = jax.tree.map(lambda x: x[0], steps)
        start = initial_embeddings(score, shards, RELATIONS, WIDTH, mesh, seed=3)
        value = jax.value_and_grad(step_loss(Objective(score, loss, moved=moved), mesh))
        compiled = jax.jit(value).lower(start, draws, blocks.weights).compile()
        found, gradient = compiled(start, draws, blocks.weights)
        flat = np.asarray(start.entities)[shards.shard, shards.place]
        reference = unsharded.step_loss(
            score.name,
            lambda p, n, kept: unsharded.log_sigmoid(p, n, kept, 2.0, 1.0),
            unsharded.global_draws(draws, shards),
            blocks.weights,
            "both",
        )
        expected, wanted = jax.jit(jax.value_and_grad(reference, argnums=(0, 1)))(
            flat, np.asarray(start.relations)
        )
        own = np.asarray(gradient.entities)[shards.shard, shards.place]
        differences[name] = [
            abs(float(found - expected)),
            float(np.abs(own - wanted[0]).max()),
            float(np.abs(np.asarray(gradient.relations) - wanted[1]).max()),
        ]
        traffic[name] = collective_bytes(compiled.as_text())
    found = {"curves": curves, "held": held, "differences": differences, "traffic": traffic}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
