"""Training of the relation-invariant network on one or several graphs, and its use on another.

In each step a graph is drawn, some of its edges are hidden, and the network is asked for tails of
edges, hidden or not, among all entities that aren't tails of the same head and relation. Thus it
learns both what a stored edge means and how to do without.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from qmgen.errors import InputError
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.graph_parts import sampled_part
from qmgen.knowledge.queries.plausible_tails import PlausibleTails
from qmgen.knowledge.queries.relation_graph import relation_graph, with_inverses
from qmgen.knowledge.queries.relation_invariant import (
    RelationInvariantNetwork,
    masked_loss,
    relation_vectors_of_all,
)

# Entities of the most frequent type that `trained_on_itself` learns from; steps on a few thousand
# edges take tenths of a second.
SAMPLED = 400


class PackedGraphs(eqx.Module):
    """Graphs padded to one size, so that one program trains on them all.

    An edge and its inverse are `edges.shape[1] // 2` places apart.
    """

    edges: Int[Array, "graphs edges 3"]
    present: Float[Array, "graphs edges"]
    meeting: Float[Array, "graphs 4 relations relations"]
    entities: Int[Array, " graphs"]
    edge_counts: Int[Array, " graphs"]


def pack(graphs: Sequence[KnowledgeGraph]) -> PackedGraphs:
    """Pad graphs to the largest numbers of edges and relations among them.

    Raises
    ------
    InputError
        If there is no graph, or one without edges.
    """
    if not graphs or not all(len(graph.triples) for graph in graphs):
        raise InputError("training needs at least one graph, and edges in each")
    edges = max(len(graph.triples) for graph in graphs)
    relations = 2 * max(len(graph.relations) for graph in graphs)
    all_edges = np.zeros((len(graphs), 2, edges, 3), np.int32)
    present = np.zeros((len(graphs), 2, edges), np.float32)
    meeting = np.zeros((len(graphs), 4, relations, relations), np.float32)
    for i, graph in enumerate(graphs):
        own = 2 * len(graph.relations)
        all_edges[i, :, : len(graph.triples)] = with_inverses(graph).reshape(2, -1, 3)
        present[i, :, : len(graph.triples)] = 1.0
        meeting[i, :, :own, :own] = relation_graph(graph)
    return PackedGraphs(
        jnp.asarray(all_edges.reshape(len(graphs), -1, 3)),
        jnp.asarray(present.reshape(len(graphs), -1)),
        jnp.asarray(meeting),
        jnp.asarray([len(graph.entities) for graph in graphs]),
        jnp.asarray([len(graph.triples) for graph in graphs]),
    )


def train_invariant(
    graphs: Sequence[KnowledgeGraph],
    key: PRNGKeyArray,
    *,
    width: int = 16,
    steps: int = 400,
    batch: int = 32,
    rate: float = 5e-3,
    most_hidden: float = 0.4,
) -> tuple[RelationInvariantNetwork, Float[Array, " steps"]]:
    """Train a network from random weights; returns it and the losses.

    Parameters
    ----------
    graphs
        To learn from; only what is in them is used.
    key
        Source of randomness.
    width
        Of all vectors.
    steps, batch, rate
        Steps of Adam, questions in each, and its largest learning rate (it falls by a cosine).
    most_hidden
        A step hides a random fraction of edges up to this.

    Raises
    ------
    InputError
        If there is no graph, or one without edges.
    """
    packed = pack(graphs)
    start, training = jax.random.split(key)
    network = RelationInvariantNetwork(width, key=start)
    size = max(len(graph.entities) for graph in graphs)
    return _train(network, packed, training, size, steps, batch, rate, most_hidden)


@eqx.filter_jit
def _train(
    network: RelationInvariantNetwork,
    graphs: PackedGraphs,
    key: PRNGKeyArray,
    entities: int,
    steps: int,
    batch: int,
    rate: float,
    most_hidden: float,
) -> tuple[RelationInvariantNetwork, Float[Array, " steps"]]:
    parameters, static = eqx.partition(network, eqx.is_inexact_array)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps, 0.05))
    )
    half = graphs.edges.shape[1] // 2

    def loss(parameters: RelationInvariantNetwork, key: PRNGKeyArray) -> Float[Array, ""]:
        network = eqx.combine(parameters, static)
        keys = jax.random.split(key, 5)
        graph = jax.random.randint(keys[0], (), 0, len(graphs.entities))
        edges, present = graphs.edges[graph], graphs.present[graph]
        hidden = jax.random.uniform(keys[1], maxval=most_hidden)
        seen = jax.random.uniform(keys[2], (half,)) >= hidden
        place = jax.random.randint(keys[3], (batch,), 0, graphs.edge_counts[graph])
        asked = edges[place + half * jax.random.randint(keys[4], (batch,), 0, 2)]
        heads, relations, tails = asked.T
        vectors = relation_vectors_of_all(network, graphs.meeting[graph])[relations]
        visible = present * jnp.tile(seen, 2)
        scores = network(vectors, heads, relations, edges, visible, entities)
        same = (edges[:, :2] == asked[:, None, :2]).all(axis=2) & (present > 0)
        known = jnp.zeros(scores.shape, bool).at[:, edges[:, 2]].max(same)
        return masked_loss(scores, tails, ~known & (jnp.arange(entities) < graphs.entities[graph]))

    def step(state: tuple, key: PRNGKeyArray) -> tuple[tuple, Float[Array, ""]]:
        parameters, moments = state
        value, gradient = jax.value_and_grad(loss)(parameters, key)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    state = (parameters, optimiser.init(parameters))
    (parameters, _), losses = jax.lax.scan(step, state, jax.random.split(key, steps))
    return eqx.combine(parameters, static), losses


@dataclass(frozen=True)
class InvariantTails:
    """Probabilities of missing edges on a graph, by a network trained on any graphs.

    Attributes
    ----------
    network
        The network.
    vectors
        Vectors of the graph's relations for each that may be asked for, inverses after the others.
    edges
        The graph's edges and their inverses.
    entities
        Number of the graph's entities.
    batch
        Sources to ask about at once.
    """

    network: RelationInvariantNetwork
    vectors: Float[Array, "relations relations width"]
    edges: Int[Array, "edges 3"]
    entities: int
    batch: int

    @classmethod
    def of(
        cls, network: RelationInvariantNetwork, graph: KnowledgeGraph, batch: int = 32
    ) -> "InvariantTails":
        """Make a network ready for a graph."""
        meeting = jnp.asarray(relation_graph(graph), jnp.float32)
        vectors = eqx.filter_jit(relation_vectors_of_all)(network, meeting)
        return cls(network, vectors, jnp.asarray(with_inverses(graph)), len(graph.entities), batch)

    def __call__(
        self, sources: Int[np.ndarray, " k"], relation: int, inverse: bool
    ) -> Float[np.ndarray, "k entities"]:
        """Probability of each entity to be a relation's tail of each source, or head if inverse."""
        number = jnp.asarray(relation + inverse * (self.vectors.shape[0] // 2))
        found = []
        for first in range(0, len(sources), self.batch):
            some = sources[first : first + self.batch]
            # Always as many, so that one program does.
            padded = np.pad(some, (0, self.batch - len(some)))
            probabilities = _probabilities(
                self.network, self.vectors, jnp.asarray(padded), number, self.edges, self.entities
            )
            found.append(np.asarray(probabilities)[: len(some)])
        return np.concatenate(found)


def trained_on_itself(
    graph: KnowledgeGraph, seed: int, complete: Collection[str] = ()
) -> PlausibleTails:
    """A model of a graph's missing edges that has learnt from its other edges only.

    As the network knows no entity, it can learn on a random part of a large graph. It gives no edge
    that those of the graph speak against, nor one of the relations that are `complete`; see
    `PlausibleTails`.

    Raises
    ------
    InputError
        If the graph has no edges.
    """
    part = sampled_part(graph, SAMPLED, np.random.default_rng(seed))
    network, _ = train_invariant([part], jax.random.key(seed))
    return PlausibleTails.of(InvariantTails.of(network, graph), graph, complete)


@eqx.filter_jit
def _probabilities(
    network: RelationInvariantNetwork,
    vectors: Float[Array, "relations relations width"],
    sources: Int[Array, " k"],
    relation: Int[Array, ""],
    edges: Int[Array, "edges 3"],
    entities: int,
) -> Float[Array, "k entities"]:
    asked = jnp.full(sources.shape, relation)
    present = jnp.ones(len(edges))
    return jax.nn.softmax(network(vectors[asked], sources, asked, edges, present, entities), axis=1)
