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


def log_sigmoid(positive, negative, margin, temperature):
    weight = jnp.exp(temperature * negative)
    weight = jax.lax.stop_gradient(weight / weight.sum(-1, keepdims=True))
    outer = -jnp.log1p(jnp.exp(-positive - margin))
    return -0.5 * (outer - (weight * jnp.log1p(jnp.exp(negative + margin))).sum(-1))


def sampled_softmax(positive, negative, entities):
    others = jnp.exp(negative).sum(-1) * (entities - 1) / negative.shape[-1]
    return -jnp.log(jnp.exp(positive) / (jnp.exp(positive) + others))


def global_draws(draws, shards):
    """One step's draws as numbers of entities."""
    entity = np.full((shards.shards, shards.rows), -1)
    entity[shards.shard, shards.place] = np.arange(shards.shard.size)
    own = np.arange(shards.shards)[:, None, None]
    return (
        entity[own, draws.heads],
        np.asarray(draws.relations),
        entity[own, draws.tails].swapaxes(0, 1),
        entity[own, draws.negatives].swapaxes(0, 1),
    )


def step_loss(name, loss, draws, weights, corrupted):
    """Mean over all triples of a step: a function of embeddings in the order of entities."""
    heads, relations, tails, negatives = draws
    shards, _, count = heads.shape
    half = {"tail": 0, "head": count, "both": count // 2}[corrupted]

    def value(entities, relation_rows):
        h, r, t = entities[heads], relation_rows[relations], entities[tails]
        # Shard that corrupts, shard of the tail, triple, negative.
        others = entities[negatives.reshape(shards, -1)][:, None, None]
        first, rest = slice(half), slice(half, None)
        wrong_head = SCORES[name](others, r[:, :, first, None], t[:, :, first, None])
        wrong_tail = SCORES[name](h[:, :, rest, None], r[:, :, rest, None], others)
        per_triple = loss(SCORES[name](h, r, t), jnp.concatenate([wrong_head, wrong_tail], axis=2))
        return jnp.sum(weights[:, :, None] * per_triple) / (shards**2 * count)

    return value
