"""Embeddings of one graph's entities, in which relations rotate: a model of its missing edges.

Entities are complex vectors and relations phases, as in RotatE, but the score is a dot product, Re
sum of h exp(i theta) conj(t), and training the softmax over all tails. It knows the entities that
it was trained on and no others (it is transductive); `relation_invariant` has a model that carries
over to other graphs.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from qmgen.knowledge.graph import KnowledgeGraph


class RotationEmbedding(eqx.Module):
    """Entities as complex vectors, given by real and imaginary parts, and relations as phases.

    Inverse relations have phases of their own, after the others.
    """

    entities: Float[Array, "entities 2 width"]
    phases: Float[Array, "twice_relations width"]

    def logits(
        self, sources: Int[Array, " k"], relations: Int[Array, " k"]
    ) -> Float[Array, "k entities"]:
        """Score of every entity as tail of each source and relation."""
        vectors: Complex[Array, "entities width"] = self.entities[:, 0] + 1j * self.entities[:, 1]
        moved = vectors[sources] * jnp.exp(1j * self.phases[relations])
        return jnp.real(moved @ vectors.conj().T)

    def __call__(
        self, sources: Int[np.ndarray, " k"], relation: int, inverse: bool
    ) -> Float[np.ndarray, "k entities"]:
        """Probability of each entity to be a relation's tail of each source, or head if inverse."""
        number = relation + inverse * (self.phases.shape[0] // 2)
        return np.asarray(_probabilities(self, jnp.asarray(sources), jnp.asarray(number)))


@eqx.filter_jit
def _probabilities(
    model: RotationEmbedding, sources: Int[Array, " k"], relation: Int[Array, ""]
) -> Float[Array, "k entities"]:
    return jax.nn.softmax(model.logits(sources, jnp.full(sources.shape, relation)), axis=1)


def train_rotation(
    graph: KnowledgeGraph,
    key: PRNGKeyArray,
    *,
    width: int = 16,
    steps: int = 1500,
    batch: int = 256,
    rate: float = 0.02,
) -> tuple[RotationEmbedding, Float[Array, " steps"]]:
    """Train on all edges of a graph in both directions; returns the model and losses.

    Parameters
    ----------
    graph
        The graph.
    key
        Source of randomness.
    width
        Complex numbers in a vector; on a ring of 200 entities twice as many find fewer of the edges
        that were hidden.
    steps, batch, rate
        Steps of Adam, edges in each, and its learning rate.
    """
    entity_key, phase_key, batch_key = jax.random.split(key, 3)
    start = RotationEmbedding(
        jax.random.normal(entity_key, (len(graph.entities), 2, width)) * width**-0.5,
        jax.random.uniform(
            phase_key, (2 * len(graph.relations), width), minval=-jnp.pi, maxval=jnp.pi
        ),
    )
    heads, relations, tails = graph.triples.T
    edges = np.concatenate(
        [graph.triples, np.stack([tails, relations + len(graph.relations), heads], axis=1)]
    )
    return _train(start, jnp.asarray(edges), batch_key, steps, batch, rate)


@partial(jax.jit, static_argnames=("steps", "batch", "rate"))
def _train(
    model: RotationEmbedding,
    edges: Int[Array, "edges 3"],
    key: PRNGKeyArray,
    steps: int,
    batch: int,
    rate: float,
) -> tuple[RotationEmbedding, Float[Array, " steps"]]:
    optimiser = optax.adam(rate)

    def loss(model: RotationEmbedding, drawn: Int[Array, "batch 3"]) -> Float[Array, ""]:
        logits = model.logits(drawn[:, 0], drawn[:, 1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, drawn[:, 2]).mean()

    def step(state: tuple, key: PRNGKeyArray) -> tuple[tuple, Float[Array, ""]]:
        model, moments = state
        drawn = edges[jax.random.randint(key, (batch,), 0, edges.shape[0])]
        value, gradient = jax.value_and_grad(loss)(model, drawn)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(model, updates), moments), value

    (model, _), losses = jax.lax.scan(
        step, (model, optimiser.init(model)), jax.random.split(key, steps)
    )
    return model, losses
