from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.errors import InputError
from qmgen.knowledge.draws import ShuffledBlocks, draw_steps
from qmgen.knowledge.link_losses import LogSigmoid, SampledSoftmax
from qmgen.knowledge.negatives import GivenNegatives, OwnNegatives, TypedNegatives
from qmgen.knowledge.sharding import block_triples, shard_entities
from tests.knowledge import unsharded
from tests.knowledge.forced_devices import ENTITIES, TYPE_OF, graph, negatives_of_each_kind

SHARDS_HERE = shard_entities(ENTITIES, 5, seed=3)


def drawn(negatives, corrupted="both", steps=300, per_block=4):
    """Numbers of the true ends (one for each triple), of negatives, and which are kept.

    Also heads, relations and tails of the triples.
    """
    blocks = block_triples(graph().triples, SHARDS_HERE)
    # No block is empty, so that all triples have weight.
    assert blocks.count.min() > 0
    rng = np.random.default_rng(1)
    draws = draw_steps(
        ShuffledBlocks(blocks, rng), SHARDS_HERE, steps=steps, per_block=per_block,
        negatives=negatives, corrupted=corrupted, rng=rng,
    )  # fmt: skip
    each = [
        unsharded.global_draws(jax.tree.map(lambda x, i=i: x[i], draws), SHARDS_HERE)
        for i in range(steps)
    ]
    heads, relations, tails, others, kept = map(np.stack, zip(*each, strict=True))
    half = {"head": per_block, "both": per_block // 2, "tail": 0}[corrupted]
    true = np.where(np.arange(per_block) < half, heads, tails)
    return true, others, kept, (heads, relations, tails)


@pytest.mark.parametrize("corrupted", ["head", "tail", "both"])
def test_own_negatives_are_any_entity_but_the_true_end(corrupted):
    true, others, kept, _ = drawn(OwnNegatives(3), corrupted)
    assert (kept == (others != true[..., None])).all()
    # As many of each shard in turn, and within a shard each entity as often; 60,000 a shard.
    shard = SHARDS_HERE.shard[others]
    assert (shard == np.repeat(np.arange(5), 3)).all()
    share = np.bincount(others.ravel(), minlength=ENTITIES) / others.size
    np.testing.assert_allclose(share, 1 / (5 * SHARDS_HERE.counts[SHARDS_HERE.shard]), rtol=0.1)
    # Neighbours' negatives are not the same ones.
    assert (others[:, :, :, 1:] != others[:, :, :, :-1]).mean() > 0.8


def test_typed_negatives_are_of_the_true_ends_type():
    true, others, kept, _ = drawn(TypedNegatives(3, TYPE_OF))
    same = TYPE_OF[others] == TYPE_OF[true][..., None]
    assert (kept == (same & (others != true[..., None]))).all()
    # Which shards have a type.
    has = np.zeros((5, 3), dtype=bool)
    has[SHARDS_HERE.shard, TYPE_OF] = True
    assert not has[:, 0].all()
    assert has[:, 1:].all()
    shard = SHARDS_HERE.shard[others]
    assert (same == has[shard, TYPE_OF[true][..., None]]).all()
    # Each of a shard and type as often, whichever the true end is.
    for kind in (1, 2):
        some = others[TYPE_OF[true] == kind]
        found = np.bincount(some.ravel(), minlength=ENTITIES) / some.size
        typed = np.isin(TYPE_OF, kind)
        of_kind = np.bincount(SHARDS_HERE.shard[typed], minlength=5)
        expected = np.where(typed, 1 / (5 * of_kind[SHARDS_HERE.shard]), 0)
        np.testing.assert_allclose(found, expected, rtol=0.1)


def test_given_negatives_come_with_their_triple():
    triples = graph().triples
    negatives = negatives_of_each_kind(len(triples))["given"]
    number = {tuple(triple): i for i, triple in enumerate(triples.tolist())}
    _, others, kept, ends = drawn(negatives, steps=3)
    of_triples = np.stack(ends, axis=-1)
    for place in np.ndindex(of_triples.shape[:-1]):
        i = number[tuple(of_triples[place].tolist())]
        expected = negatives.heads[i] if place[-1] < 2 else negatives.tails[i]
        assert sorted(others[place][kept[place]]) == sorted(expected)


def log_sigmoid_of(positive, negative, temperature):
    log_sigma = lambda x: -np.log(1 + np.exp(-x))  # noqa: E731
    weights = np.exp(temperature * negative)
    of_negatives = (weights * log_sigma(-negative - 2.0)).sum() / max(weights.sum(), 1e-300)
    return -0.5 * (log_sigma(positive + 2.0) + of_negatives)


def softmax_of_ten(positive, negative):
    others = np.exp(negative).mean() * 9 if negative.size else 0.0
    return -np.log(np.exp(positive) / (np.exp(positive) + others))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (LogSigmoid(2.0, 0.0), lambda p, n: log_sigmoid_of(p, n, 0.0)),
        (LogSigmoid(2.0, 0.7), lambda p, n: log_sigmoid_of(p, n, 0.7)),
        (SampledSoftmax(10), softmax_of_ten),
    ],
)
def test_what_is_not_kept_is_as_if_it_was_not_there(loss, reference):
    rng = np.random.default_rng(6)
    positive, negative = rng.normal(size=20), rng.normal(size=(20, 4))
    kept = rng.random((20, 4)) < 0.6
    # One triple is compared with nothing.
    kept[0], kept[1] = False, True

    def total(scores):
        losses = loss(jnp.array(positive), scores, jnp.array(kept))
        return losses.sum(), losses

    (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.array(negative))
    expected = [reference(positive[i], negative[i][kept[i]]) for i in range(20)]
    # In single precision.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()
    assert ((np.asarray(gradient) != 0) == kept).all()


def test_negatives_that_do_not_suit_the_triples():
    given = negatives_of_each_kind(len(graph().triples))["given"]
    for negatives, message in (
        (TypedNegatives(1, TYPE_OF[:-1]), "44 types"),
        (GivenNegatives(given.heads[1:], given.tails[1:]), "each of the"),
        (replace(given, heads=given.heads[:, :0]), "heads are replaced"),
        (replace(given, tails=given.tails + 1), "0 to 44"),
    ):
        with pytest.raises(InputError, match=message):
            drawn(negatives)
    # What is never replaced needs none.
    drawn(replace(given, heads=given.heads[:, :0]), corrupted="tail", steps=1)
