import json
import os
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from qmgen.errors import InputError
from qmgen.knowledge.bess import Objective, device_mesh, initial_embeddings, step_loss, train
from qmgen.knowledge.bess_cost import step_cost
from qmgen.knowledge.draws import ShuffledBlocks, draw_steps
from qmgen.knowledge.link_losses import LogSigmoid, SampledSoftmax
from qmgen.knowledge.scoring import rotat_e, score_function
from qmgen.knowledge.sharding import block_triples, shard_entities
from tests.knowledge import unsharded
from tests.knowledge.forced_devices import (
    CASES,
    ENTITIES,
    PER_BLOCK,
    RELATIONS,
    SHARDS,
    WIDTH,
    graph,
    negatives_of_each_kind,
)

# Forward and backward pass of sums of hundreds of terms in single precision.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def found():
    """What eight forced host devices give."""
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(
        [sys.executable, "-m", "tests.knowledge.forced_devices"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "own", "typed", "given"])
def test_same_loss_on_any_number_of_devices(found, kind):
    curves = found["curves"][kind]
    one = np.array(curves["1"])
    assert one[-1] < one[0]
    for devices in ("2", "4", "8"):
        # Sums in another order, and Adam's division by small moments.
        np.testing.assert_allclose(curves[devices], one, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_four_devices(found, name):
    assert max(found["differences"][name]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_traffic_of_the_compiled_program(found, name):
    score, moved, kind = CASES[name]
    objective = Objective(score, LogSigmoid(2.0), moved=moved)
    shards = shard_entities(ENTITIES, SHARDS, seed=1)
    cost = step_cost(
        objective,
        shards,
        devices=4,
        relations=RELATIONS,
        width=WIDTH,
        per_block=PER_BLOCK,
        negatives=negatives_of_each_kind(len(graph().triples))[kind],
    )
    traffic = found["traffic"][name]
    assert traffic["all-to-all"] == cost.all_to_all_bytes
    assert traffic["all-reduce"] == cost.all_reduce_bytes
    assert traffic.get("all-gather", 0) == cost.all_gather_bytes


@pytest.mark.slow
def test_each_device_holds_its_share(found):
    shards = shard_entities(ENTITIES, SHARDS, seed=1)
    assert shards.rows == 6
    for devices, sizes in found["held"].items():
        assert sizes == [SHARDS // int(devices) * 6 * WIDTH * 4] * int(devices)
        cost = step_cost(
            Objective(rotat_e(), LogSigmoid(2.0)), shards, devices=int(devices),
            relations=RELATIONS, width=WIDTH, per_block=PER_BLOCK, negatives=3,
        )  # fmt: skip
        assert cost.memory_bytes == 3 * (sizes[0] + RELATIONS * WIDTH // 2 * 4)


# What the quick suite has time for.
QUICK = [
    ("RotatE", "log-sigmoid", "shared"),
    ("DistMult", "softmax", "shared"),
    ("ComplEx", "softmax", "own"),
    ("RotatE", "log-sigmoid", "typed"),
]
SLOW = [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
        *product(unsharded.SCORES, ("log-sigmoid", "softmax"), ("shared", "own")),
        ("TransH", "softmax", "typed"),
        ("TransE", "log-sigmoid", "given"),
        ("ComplEx", "softmax", "given"),
    )
    if case not in QUICK
]


@pytest.mark.parametrize(("name", "loss", "kind"), [*QUICK, *SLOW])
def test_gradients(name, loss, kind):
    corrupted = {"TransE": "head", "DistMult": "tail"}.get(name, "both")
    own, other = {
        "log-sigmoid": (
            LogSigmoid(2.0, 0.5),
            partial(unsharded.log_sigmoid, margin=2.0, temperature=0.5),
        ),
        "softmax": (
            SampledSoftmax(ENTITIES),
            partial(unsharded.sampled_softmax, entities=ENTITIES),
        ),
    }[loss]
    some, score, mesh = graph(), score_function(name), device_mesh(jax.devices()[:1])
    # Not all of five shards have one of the two entities of the first type.
    shards = shard_entities(ENTITIES, 3 if kind == "shared" else 5, seed=1)
    blocks = block_triples(some.triples, shards)
    negatives = negatives_of_each_kind(len(some.triples))[kind]
    rng = np.random.default_rng(2)
    steps = draw_steps(
        ShuffledBlocks(blocks, rng), shards, steps=1, per_block=4, negatives=negatives,
        corrupted=corrupted, rng=rng,
    )  # fmt: skip
    draws = jax.tree.map(lambda x: x[0], steps)
    start = initial_embeddings(score, shards, RELATIONS, WIDTH, mesh, seed=3)
    value, gradient = jax.jit(
        jax.value_and_grad(step_loss(Objective(score, own, corrupted), mesh))
    )(start, draws, blocks.weights)
    reference = unsharded.step_loss(
        name, other, unsharded.global_draws(draws, shards), blocks.weights, corrupted
    )
    flat = np.asarray(start.entities)[shards.shard, shards.place]
    expected, wanted = jax.jit(jax.value_and_grad(reference, argnums=(0, 1)))(
        flat, np.asarray(start.relations)
    )
    assert float(value) == pytest.approx(float(expected), abs=TOLERANCE)
    of_entities = np.asarray(gradient.entities)[shards.shard, shards.place]
    np.testing.assert_allclose(of_entities, wanted[0], atol=TOLERANCE)
    np.testing.assert_allclose(gradient.relations, wanted[1], atol=TOLERANCE)


def test_shards_and_blocks_hold_everything_once():
    some = graph()
    shards = shard_entities(ENTITIES, 7, seed=3)
    assert len(set(shards.row.tolist())) == ENTITIES
    assert shards.counts.max() - shards.counts.min() <= 1
    blocks = block_triples(some.triples, shards)
    assert blocks.count.sum() == len(some.triples)
    entity = {(s, p): i for i, (s, p) in enumerate(zip(shards.shard, shards.place, strict=True))}
    back = []
    for h in range(7):
        for t in range(7):
            stop = blocks.start[h, t] + blocks.count[h, t]
            for i in range(blocks.start[h, t], stop):
                ends = entity[h, blocks.heads[i]], entity[t, blocks.tails[i]]
                back.append((ends[0], int(blocks.relations[i]), ends[1]))
    assert sorted(back) == sorted(map(tuple, some.triples.tolist()))


def test_draws_are_from_their_blocks_and_weights_make_a_mean():
    some = graph()
    triples = some.triples[some.triples[:, 0] < 20]
    shards = shard_entities(ENTITIES, 4, seed=3)
    blocks = block_triples(triples, shards)
    rng = np.random.default_rng(5)
    draws = draw_steps(
        ShuffledBlocks(blocks, rng), shards, steps=4000, per_block=2, negatives=3,
        corrupted="both", rng=rng,
    )  # fmt: skip
    one = jax.tree.map(lambda x: x.transpose(1, 2, 0, 3).reshape(4, 4, -1), draws)
    heads, relations, tails, negatives, _ = unsharded.global_draws(one, shards)
    assert negatives.min() >= 0
    share = np.bincount(negatives.ravel(), minlength=ENTITIES) / negatives.size
    # Each shard lends as often; within a shard entities are equally likely. 12,000 draws of each.
    np.testing.assert_allclose(share, 1 / (4 * shards.counts[shards.shard]), rtol=0.1)
    known = {tuple(triple) for triple in triples.tolist()}
    assert {*zip(heads.flat, relations.flat, tails.flat, strict=True)} == known
    # A weighted mean over draws is the mean over triples.
    drawn = (heads + 10.0 * relations - tails) * blocks.weights[:, :, None]
    values = triples[:, 0] + 10.0 * triples[:, 1] - triples[:, 2]
    error = values.std() / np.sqrt(heads.size)
    assert abs(drawn.mean() - values.mean()) < 5 * error


def test_no_triple_comes_again_before_all_of_its_block_have():
    shards = shard_entities(ENTITIES, 4, seed=3)
    blocks = block_triples(graph().triples, shards)
    shuffled = ShuffledBlocks(blocks, np.random.default_rng(7))
    # In several parts, each of which ends in the middle of a pass.
    parts = [shuffled.take(number) for number in (1, 30, 7, 250)]
    taken = np.concatenate(parts, axis=2)
    orders = set()
    for place in np.ndindex(4, 4):
        start, count = blocks.start[place], blocks.count[place]
        for first in range(0, 288 - count, count):
            one = taken[place][first : first + count]
            assert sorted(one) == list(range(start, start + count))
            orders.add((place, tuple(one)))
    assert len(orders) == sum(len(range(0, 288 - count, count)) for count in blocks.count.flat)


def test_an_empty_block_has_no_weight():
    triples = np.array([[0, 0, 1]])
    shards = shard_entities(4, 2, seed=0)
    blocks = block_triples(triples, shards)
    assert sorted(blocks.weights.ravel().tolist()) == [0, 0, 0, 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shard_entities(3, 4, seed=0), "3 entities"),
        (lambda: block_triples(np.zeros((0, 3), int), shard_entities(3, 2, seed=0)), "no triples"),
        (lambda: score_function("TransX"), "TransE"),
        (lambda: _train(per_block=3), "half of 3"),
        (lambda: _train(width=5), "even width"),
    ],
)
def test_what_does_not_go_together(call, message):
    with pytest.raises(InputError, match=message):
        call()


def _train(width=4, per_block=2):
    some = graph()
    return train(
        some, some.triples, Objective(rotat_e(), LogSigmoid(2.0)), width=width, steps=1,
        per_block=per_block, negatives=1, optimiser=optax.adam(0.1),
        mesh=device_mesh(jax.devices()[:1]),
    )  # fmt: skip
