"""The loss of a step as its definition has it: global numbers, no shards, no exchange."""

import jax
import jax.numpy as jnp
import numpy as np


def as_complex(x):
    half = x.shape[-1] // 2
    return x[..., :half] + 1j * x[..., half:]


def trans_h(h, r, t):
    d = h.shape[-1]
    w = r[..., :d] / jnp.linalg.norm(r[..., :d], axis=-1, keepdims=True)
    across = lambda x: x - jnp.sum(w * x, -1, keepdims=True) * w  # noqa: E731
    return -jnp.abs(across(h) + r[..., d:] - across(t)).sum(-1)


def rotat_e(h, r, t):
    difference = as_complex(h) * jnp.exp(1j * r) - as_complex(t)
    return -jnp.sqrt(jnp.sum(difference.real**2 + difference.imag**2, -1))


SCORES = {
    "TransE": lambda h, r, t: -jnp.abs(h + r - t).sum(-1),
    "TransH": trans_h,
    "RotatE": rotat_e,
    "DistMult": lambda h, r, t: jnp.sum(h * r * t, -1),
    "ComplEx": lambda h, r, t: (
        jnp.sum(as_complex(h) * as_complex(r) * as_complex(t).conj(), -1).real
    ),
}


def log_sigmoid(positive, negative, kept, margin, temperature):
    weight = kept * jnp.exp(temperature * negative)
    total = weight.sum(-1, keepdims=True)
    weight = jax.lax.stop_gradient(weight / jnp.where(total > 0, total, 1))
    outer = -jnp.log1p(jnp.exp(-positive - margin))
    return -0.5 * (outer - (weight * jnp.log1p(jnp.exp(negative + margin))).sum(-1))


def sampled_softmax(positive, negative, kept, entities):
    number = np.maximum(np.broadcast_to(kept, negative.shape).sum(-1), 1)
    others = (kept * jnp.exp(negative)).sum(-1) * (entities - 1) / number
    return -jnp.log(jnp.exp(positive) / (jnp.exp(positive) + others))


def global_draws(draws, shards):
    """One step's draws as numbers of entities, and which negatives a triple is compared with.

    Negatives: shard that corrupts, shard of the tail, triple, negative; the middle two are 1 where
    negatives are shared.
    """
    entity = np.full((shards.shards, shards.rows), -1)
    entity[shards.shard, shards.place] = np.arange(shards.shard.size)
    own = np.arange(shards.shards)[:, None, None]
    lent = entity[own, draws.negatives].swapaxes(0, 1)
    if draws.kept is None:
        negatives, kept = lent.reshape(shards.shards, 1, 1, -1), np.ones(1)
    else:
        # Shard that corrupts, shard that lends, shard of the tail, triple, negative.
        each = lent.reshape(shards.shards, shards.shards, *draws.heads.shape[1:], -1)
        kept = np.asarray(draws.kept)
        negatives = np.moveaxis(each, 1, 3).reshape(kept.shape)
    return (
        entity[own, draws.heads],
        np.asarray(draws.relations),
        entity[own, draws.tails].swapaxes(0, 1),
        negatives,
        kept,
    )


def step_loss(name, loss, draws, weights, corrupted):
    """Mean over all triples of a step: a function of embeddings in the order of entities."""
    heads, relations, tails, negatives, kept = draws
    shards, _, count = heads.shape
    negatives = np.broadcast_to(negatives, (*heads.shape, negatives.shape[-1]))
    half = {"tail": 0, "head": count, "both": count // 2}[corrupted]

    def value(entities, relation_rows):
        h, r, t = entities[heads], relation_rows[relations], entities[tails]
        others = entities[negatives]
        first, rest = slice(half), slice(half, None)
        wrong_head = SCORES[name](others[:, :, first], r[:, :, first, None], t[:, :, first, None])
        wrong_tail = SCORES[name](h[:, :, rest, None], r[:, :, rest, None], others[:, :, rest])
        wrong = jnp.concatenate([wrong_head, wrong_tail], axis=2)
        per_triple = loss(SCORES[name](h, r, t), wrong, kept)
        return jnp.sum(weights[:, :, None] * per_triple) / (shards**2 * count)

    return value
