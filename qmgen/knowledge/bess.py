"""Training embeddings of a graph on several devices, with equal work and traffic on each.

Cattaneo et al., "BESS: Balanced Entity Sampling and Sharing for Large-Scale Knowledge Graph
Completion", arXiv:2211.12281. Entities lie in shards on the devices of a mesh, relations on all of
them. In a step, the device of a triple's head has its relation and scores it; tails and negatives
come to it in one exchange of equal parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32

from qmgen.errors import InputError
from qmgen.knowledge.draws import Corrupted, Draws, ShuffledBlocks, corrupted_heads, draw_steps
from qmgen.knowledge.graph import KnowledgeGraph
from qmgen.knowledge.link_losses import LinkLoss
from qmgen.knowledge.negatives import Negatives
from qmgen.knowledge.scoring import ScoreFunction, initial_entities
from qmgen.knowledge.sharding import EntityShards, TripleBlocks, block_triples, shard_entities

_AXIS = "shards"
# Steps whose draws are made at once.
_STEPS = 100


class Embeddings(NamedTuple):
    """What is learnt.

    Attributes
    ----------
    entities
        Rows of each shard, of which the devices of a mesh hold some shards each.
    relations
        On all devices.
    """

    entities: Float[Array, "shards rows width"]
    relations: Float[Array, "relations relation_width"]


@dataclass(frozen=True)
class Objective:
    """What a step minimises.

    Attributes
    ----------
    score
        Model of triples.
    loss
        Of a triple's score against those of corrupted ones.
    corrupted
        End of a triple that negatives replace; `both` is the head in the first half of each
        block's draw and the tail in the other.
    moved
        What devices exchange for negatives: `embeddings`, or `scores` of all queries, which is less
        where negatives are many or embeddings wide. Both give the same loss.
    """

    score: ScoreFunction
    loss: LinkLoss
    corrupted: Corrupted = "both"
    moved: Literal["embeddings", "scores"] = "embeddings"


def device_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Make the mesh that `train` and `step_loss` expect."""
    return Mesh(np.array(devices), (_AXIS,))


def initial_embeddings(
    score: ScoreFunction, shards: EntityShards, relations: int, width: int, mesh: Mesh, *, seed: int
) -> Embeddings:
    """Draw embeddings where they belong, no device having more than its shards.

    Raises
    ------
    InputError
        Shards can't be shared out evenly among the devices, or a model of complex numbers has an
        odd width.
    """
    if shards.shards % mesh.size:
        raise InputError(
            f"{shards.shards} shards can't be shared out evenly among {mesh.size} devices; choose "
            "a multiple"
        )
    if score.complex_numbers and width % 2:
        raise InputError(f"{score.name} has complex numbers; choose an even width, not {width}")

    def draw() -> Embeddings:
        of_entities, of_relations = jax.random.split(jax.random.key(seed))
        # A key for each shard, so that a device draws its own ones only.
        keys = jax.random.split(of_entities, shards.shards)
        rows = jax.vmap(lambda key: initial_entities(key, (shards.rows, width)))(keys)
        return Embeddings(rows, score.initial_relations(of_relations, relations, width))

    places = Embeddings._make([NamedSharding(mesh, P(_AXIS)), NamedSharding(mesh, P())])
    return jax.jit(draw, out_shardings=places)()


def step_loss(
    objective: Objective, mesh: Mesh
) -> Callable[[Embeddings, Draws, Float[Array, "shards shards"]], Float[Array, ""]]:
    """Make the loss of a step: a function of embeddings, one step's draws and blocks' weights.

    Weights are those of `TripleBlocks.weights`.
    """

    def local(embeddings: Embeddings, draws: Draws, weights: Array) -> Array:
        count = draws.heads.shape[-1]
        half = corrupted_heads(objective.corrupted, count)
        head = _rows(embeddings.entities, draws.heads)
        relation = embeddings.relations[draws.relations]
        negatives = _rows(embeddings.entities, draws.negatives)
        sent = _rows(embeddings.entities, draws.tails)
        if objective.moved == "embeddings":
            sent = jnp.concatenate([sent, negatives], axis=2)
        received = _exchanged(sent)
        tail = received[:, :, :count]
        point = jnp.concatenate(
            [
                objective.score.towards_head(relation[:, :, :half], tail[:, :, :half]),
                objective.score.towards_tail(head[:, :, half:], relation[:, :, half:]),
            ],
            axis=2,
        )
        target = jnp.concatenate([head[:, :, :half], tail[:, :, half:]], axis=2)
        positive = objective.score.compare(point, relation, target)
        kept = None if draws.kept is None else jnp.asarray(draws.kept)
        scored = partial(_scored, objective.score, kept is not None)
        if objective.moved == "embeddings":
            of_others = jax.vmap(jax.vmap(scored, (None, None, 0)))(
                _joined(point), _joined(relation), received[:, :, count:]
            )
        else:
            # Negatives stay where they lie; queries of all shards come, and their scores go back.
            points, relations = (
                jax.lax.all_gather(_joined(x), _AXIS, axis=0, tiled=True) for x in (point, relation)
            )
            of_others = _exchanged(
                jax.vmap(lambda rows: jax.vmap(scored)(points, relations, rows))(negatives)
            )
        # From own shard, lender, query, negative.
        of_others = jnp.swapaxes(of_others, 1, 2).reshape(*positive.shape, -1)
        losses = objective.loss(positive, of_others, kept)
        total = jnp.sum(weights[..., None] * losses)
        return jax.lax.psum(total, _AXIS) / (mesh.size * positive.size)

    specs = (Embeddings._make([P(_AXIS), P()]), P(_AXIS), P(_AXIS))
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())


def _rows(entities: Array, places: ArrayLike) -> Array:
    """Own shards' rows: own shard, other shard, draw, width."""
    return jax.vmap(lambda rows, chosen: rows[chosen])(entities, places)


def _exchanged(sent: Array) -> Array:
    """From [own shard that gives, shard that gets, ...] to [own that gets, that gives, ...]."""
    received = jax.lax.all_to_all(sent, _AXIS, split_axis=1, concat_axis=0, tiled=True)
    return jnp.swapaxes(received, 0, 1)


def _joined(values: Array) -> Array:
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _scored(
    score: ScoreFunction,
    own: bool,
    point: Float[Array, "q width"],
    relation: Float[Array, "q relation_width"],
    rows: Float[Array, "k width"],
) -> Float[Array, "q n"]:
    """Score all rows for every query, or for each query k / q of its own among them."""
    if not own:
        return score.compare_all(point, relation, rows)
    of_each = rows.reshape(point.shape[0], -1, rows.shape[-1])
    # Products of a vector and a matrix, which XLA does not do again for each use of a score.
    one = jax.vmap(lambda p, r, some: score.compare_all(p[None], r[None], some)[0])
    return one(point, relation, of_each)


@dataclass(frozen=True)
class Trained:
    """Embeddings after training, where they lie, and how training went.

    Attributes
    ----------
    score
        Model of triples.
    embeddings, shards
        What was learnt, and the places of entities in it.
    losses
        Of each step.
    """

    score: ScoreFunction
    embeddings: Embeddings
    shards: EntityShards
    losses: Float32[np.ndarray, " steps"]


def train(
    graph: KnowledgeGraph,
    triples: np.ndarray,
    objective: Objective,
    *,
    width: int,
    steps: int,
    per_block: int,
    negatives: int | Negatives,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    shards: int | None = None,
    seed: int = 0,
) -> Trained:
    """Learn embeddings of a graph's entities and relations.

    The same seed and number of shards give the same losses, up to rounding, on every number of
    devices.

    Parameters
    ----------
    graph
        Gives entities and relations.
    triples
        Edges to learn from.
    objective
        What to minimise.
    width
        Numbers of an entity.
    steps
        Steps of the optimiser.
    per_block
        Triples from each block and step: shards² times as many a step; even if heads and tails
        are corrupted.
    negatives
        Which entities triples are compared with; a number is that of `SharedNegatives`, the
        entities that each shard lends to each shard. A triple is compared with shards times as
        many.
    optimiser
        Such as `optax.adam(0.01)`; its state lies where the embeddings are.
    mesh
        Devices, of `device_mesh`.
    shards
        A multiple of the number of devices, which is the default.
    seed
        Of everything that is drawn.

    Raises
    ------
    InputError
        There are no triples, or shards and width do not suit devices and model, or negatives
        the triples.
    """
    where = shard_entities(len(graph.entities), shards or mesh.size, seed=seed)
    blocks = block_triples(triples, where)
    if objective.corrupted == "both" and per_block % 2:
        raise InputError(f"half of {per_block} triples of a block can't be corrupted; choose even")
    embeddings = initial_embeddings(
        objective.score, where, len(graph.relations), width, mesh, seed=seed
    )
    loop = training_loop(objective, optimiser, blocks, mesh)
    state = optimiser.init(embeddings)
    rng = np.random.default_rng([seed, 1])
    shuffled = ShuffledBlocks(blocks, rng)
    losses: list[np.ndarray] = [np.empty(0, np.float32)]
    for start in range(0, steps, _STEPS):
        draws = draw_steps(
            shuffled,
            where,
            steps=min(_STEPS, steps - start),
            per_block=per_block,
            negatives=negatives,
            corrupted=objective.corrupted,
            rng=rng,
        )
        embeddings, state, found = loop(embeddings, state, draws)
        losses.append(np.asarray(found))
    return Trained(objective.score, embeddings, where, np.concatenate(losses))


def training_loop(
    objective: Objective, optimiser: optax.GradientTransformation, blocks: TripleBlocks, mesh: Mesh
) -> Callable[
    [Embeddings, optax.OptState, Draws],
    tuple[Embeddings, optax.OptState, Float[Array, " steps"]],
]:
    """Make the compiled program of several steps, from embeddings, optimiser's state and draws."""
    loss = step_loss(objective, mesh)
    weights = jax.device_put(blocks.weights, NamedSharding(mesh, P(_AXIS)))
    by_step = NamedSharding(mesh, P(None, _AXIS))

    def step(
        carry: tuple[Embeddings, optax.OptState], draws: Draws
    ) -> tuple[tuple[Embeddings, optax.OptState], Array]:
        embeddings, state = carry
        value, gradient = jax.value_and_grad(loss)(embeddings, draws, weights)
        updates, state = optimiser.update(gradient, state, embeddings)
        return (optax.apply_updates(embeddings, updates), state), value

    @jax.jit
    def run(embeddings: Embeddings, state: optax.OptState, draws: Draws) -> tuple:
        carry, losses = jax.lax.scan(step, (embeddings, state), draws)
        return (*carry, losses)

    return lambda embeddings, state, draws: run(embeddings, state, jax.device_put(draws, by_step))
