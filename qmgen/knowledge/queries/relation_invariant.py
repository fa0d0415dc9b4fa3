"""A model of missing edges that knows no entity or relation, so that it carries over to any graph.

In the manner of ULTRA (Galkin et al., 2310.04562), small: a network over the graph of relations, in
which the asked one is marked, gives each relation a vector; a network over the entities, in which
the source is marked, walks all edges with these vectors and scores every entity as the tail
(NBFNet, Zhu et al., 2106.06935). As ULTRA's, neither depends on how entities and relations are
numbered. Other than ULTRA, sums over edges keep their size (weighted by degrees, and compressed by
asinh instead of normalised), as the number of paths between two entities is what tells most on
regular graphs.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from qmgen.knowledge.queries.relation_graph import KINDS


class RelationLayer(eqx.Module):
    """A step of messages between relations that meet."""

    kinds: Float[Array, "4 width"]
    own: eqx.nn.Linear
    others: eqx.nn.Linear
    norm: eqx.nn.LayerNorm

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        first, second, third = jax.random.split(key, 3)
        self.kinds = jax.random.normal(first, (len(KINDS), width))
        self.own = eqx.nn.Linear(width, width, key=second)
        self.others = eqx.nn.Linear(len(KINDS) * width, width, key=third)
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(
        self,
        vectors: Float[Array, "relations width"],
        meeting: Float[Array, "4 relations relations"],
    ) -> Float[Array, "relations width"]:
        """Vectors after the step."""
        sums = jnp.einsum("krs,sd->rkd", meeting, vectors) * self.kinds
        messages = sums.reshape(len(vectors), -1)
        new = jax.vmap(self.own)(vectors) + jax.vmap(self.others)(messages)
        return vectors + jax.nn.relu(jax.vmap(self.norm)(new))


class EntityLayer(eqx.Module):
    """A step of messages along the edges between entities."""

    relations: eqx.nn.Linear
    own: Float[Array, "width width"]
    others: Float[Array, "width width"]
    bias: Float[Array, " width"]

    def __init__(self, width: int, *, key: PRNGKeyArray) -> None:
        first, second, third = jax.random.split(key, 3)
        self.relations = eqx.nn.Linear(width, width, key=first)
        self.own = jax.random.normal(second, (width, width)) * width**-0.5
        self.others = jax.random.normal(third, (width, width)) * width**-0.5
        self.bias = jnp.zeros(width)


class RelationInvariantNetwork(eqx.Module):
    """Scores of every entity to be the tail of a source and a relation, on any graph."""

    mark: Float[Array, " width"]
    relation_layers: list[RelationLayer]
    entity_layers: list[EntityLayer]
    readout: eqx.nn.MLP

    def __init__(self, width: int = 16, layers: int = 3, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 2 * layers + 1)
        self.mark = jnp.ones(width)
        self.relation_layers = [RelationLayer(width, key=k) for k in keys[:layers]]
        self.entity_layers = [EntityLayer(width, key=k) for k in keys[layers:-1]]
        self.readout = eqx.nn.MLP(2 * width, "scalar", 2 * width, 1, key=keys[-1])

    def relation_vectors(
        self, meeting: Float[Array, "4 relations relations"], asked: Int[Array, ""]
    ) -> Float[Array, "relations width"]:
        """Vectors of all relations when one is asked for.

        Parameters
        ----------
        meeting
            Of `relation_graph`, inverse relations included.
        asked
            Number of the relation.
        """
        # The mean over neighbours, as graphs differ in their number of relations.
        mean = meeting / jnp.maximum(meeting.sum(axis=2, keepdims=True), 1.0)
        vectors = jnp.zeros((meeting.shape[1], len(self.mark))).at[asked].set(self.mark)
        for layer in self.relation_layers:
            vectors = layer(vectors, mean)
        return vectors

    def __call__(
        self,
        relation_vectors: Float[Array, "k relations width"],
        sources: Int[Array, " k"],
        asked: Int[Array, " k"],
        edges: Int[Array, "edges 3"],
        present: Float[Array, " edges"],
        entities: int,
    ) -> Float[Array, "k entities"]:
        """Scores, whose softmax over entities is a probability.

        Parameters
        ----------
        relation_vectors
            Of `relation_vectors`, for the relation that each source is asked about.
        sources, asked
            Entity and relation of each question.
        edges
            Head, relation and tail, inverse edges included.
        present
            1 for edges to walk, 0 for others, such as padding.
        entities
            Number of entities, padding included.
        """
        heads, relations, tails = edges.T
        degrees = jax.ops.segment_sum(present, tails, entities)
        used = (degrees > 0).sum()
        mean_degree = degrees.sum() / jnp.maximum(used, 1)
        scale = jnp.where(degrees > 0, mean_degree / jnp.maximum(degrees, 1.0), 0.0) ** 0.5
        weights = present * scale[heads] * scale[tails]
        # Entities come first, so that a message is one run of memory.
        question = relation_vectors[jnp.arange(len(sources)), asked]
        start = jnp.zeros((entities, *question.shape))
        start = start.at[sources, jnp.arange(len(sources))].set(question)
        states = start
        for layer in self.entity_layers:
            along = jax.vmap(jax.vmap(layer.relations))(relation_vectors).swapaxes(0, 1)
            messages = states[heads] * along[relations] * weights[:, None, None]
            sums = jax.ops.segment_sum(messages, tails, entities) + start
            states = jnp.arcsinh(states @ layer.own + sums @ layer.others + layer.bias)
        both = jnp.concatenate([states, jnp.broadcast_to(question, states.shape)], axis=2)
        return jax.vmap(jax.vmap(self.readout))(both).T


def relation_vectors_of_all(
    network: RelationInvariantNetwork, meeting: Float[Array, "4 relations relations"]
) -> Float[Array, "relations relations width"]:
    """Vectors of all relations (second axis) for each that may be asked for (first)."""
    asked = jnp.arange(meeting.shape[1])
    return jax.vmap(network.relation_vectors, (None, 0))(meeting, asked)


def masked_loss(
    scores: Float[Array, "k entities"],
    tails: Int[Array, " k"],
    allowed: Bool[Array, "k entities"],
) -> Float[Array, ""]:
    """Mean cross-entropy of the tails among themselves and the allowed other entities."""
    itself = jax.nn.one_hot(tails, scores.shape[1], dtype=bool)
    masked = jnp.where(allowed | itself, scores, -jnp.inf)
    chosen = jnp.take_along_axis(scores, tails[:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(masked, axis=1) - chosen).mean()
