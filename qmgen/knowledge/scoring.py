"""How plausible models of embeddings find a triple; larger is more plausible.

Each model turns a triple with one end missing into a point, and compares entities with it. A row of
an entity has `width` numbers; models of complex numbers have the real parts first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qmgen.errors import InputError

# Keeps the gradient of a norm finite at 0.
_TINY = 1e-12

Rows = Float[Array, "*n width"]
Relations = Float[Array, "*n relation_width"]


@dataclass(frozen=True)
class ScoreFunction:
    """A model of triples.

    Attributes
    ----------
    name
        As in the literature.
    towards_tail, towards_head
        From head and relation, or from relation and tail, the point to compare the other end with.
    compare
        Score of points, relations and entities that belong to each other; they may broadcast.
    compare_all
        Scores of q points with their relations against n entities, as an array of q times n.
    relation_width
        Numbers of a relation, by width of entities.
    initial_relations
        From key, number of relations and width of entities.
    complex_numbers
        Whether the width must be even.
    relation_in_compare
        Whether comparing takes the relation, too.
    """

    name: str
    towards_tail: Callable[[Array, Array], Array]
    towards_head: Callable[[Array, Array], Array]
    compare: Callable[[Array, Array, Array], Array]
    compare_all: Callable[[Array, Array, Array], Array]
    relation_width: Callable[[int], int]
    initial_relations: Callable[[PRNGKeyArray, int, int], Array]
    complex_numbers: bool = False
    relation_in_compare: bool = False


def score_triples(
    model: ScoreFunction, heads: Rows, relations: Relations, tails: Rows
) -> Float[Array, "*n"]:
    """Score triples whose three parts are given."""
    return model.compare(model.towards_tail(heads, relations), relations, tails)


def initial_entities(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draw embeddings of length around 1 from a normal distribution."""
    return jax.random.normal(key, shape) * shape[-1] ** -0.5


def trans_e(norm: Literal[1, 2] = 1) -> ScoreFunction:
    """-|h + r - t|, with the sum of sizes or the Euclidean norm.

    Bordes, Usunier, Garcia-Durán, Weston, Yakhnenko, NeurIPS 2013.
    """
    return ScoreFunction(
        "TransE",
        lambda head, relation: head + relation,
        lambda relation, tail: tail - relation,
        _distance if norm == 2 else _manhattan,
        _all_distances if norm == 2 else _all_manhattan,
        lambda width: width,
        _normal,
    )


def trans_h() -> ScoreFunction:
    """-|h⊥ + r - t⊥|₁ with x⊥ = x - (w·x) w for a unit normal w of each relation.

    Wang, Zhang, Feng, Chen, AAAI 2014. A relation has w, then r.
    """

    def projected(x: Array, relation: Array) -> Array:
        normal = relation[..., : x.shape[-1]]
        normal = normal / _length(normal)[..., None]
        return x - jnp.sum(normal * x, axis=-1, keepdims=True) * normal

    def compare(point: Array, relation: Array, entity: Array) -> Array:
        return -jnp.abs(point - projected(entity, relation)).sum(axis=-1)

    return ScoreFunction(
        "TransH",
        lambda head, relation: projected(head, relation) + relation[..., head.shape[-1] :],
        lambda relation, tail: projected(tail, relation) - relation[..., tail.shape[-1] :],
        compare,
        lambda point, relation, entities: compare(point[:, None], relation[:, None], entities),
        lambda width: 2 * width,
        lambda key, count, width: _normal(key, count, 2 * width) * 2**0.5,
        relation_in_compare=True,
    )


def rotat_e() -> ScoreFunction:
    """-|h∘exp(iθ) - t| with the Euclidean norm; a relation has the angles θ.

    Sun, Deng, Nie, Tang, ICLR 2019, arXiv:1902.10197.
    """

    def turned(x: Array, angle: Array) -> Array:
        real, imaginary = jnp.split(x, 2, axis=-1)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate(
            [real * cosine - imaginary * sine, real * sine + imaginary * cosine], axis=-1
        )

    return ScoreFunction(
        "RotatE",
        turned,
        # A rotation keeps distances.
        lambda angle, tail: turned(tail, -angle),
        _distance,
        _all_distances,
        lambda width: width // 2,
        lambda key, count, width: jax.random.uniform(
            key, (count, width // 2), minval=-jnp.pi, maxval=jnp.pi
        ),
        complex_numbers=True,
    )


def dist_mult() -> ScoreFunction:
    """Σ h r t, which is the same in both directions.

    Yang, Yih, He, Gao, Deng, ICLR 2015, arXiv:1412.6575.
    """
    return ScoreFunction(
        "DistMult",
        lambda head, relation: head * relation,
        lambda relation, tail: tail * relation,
        _product,
        _all_products,
        lambda width: width,
        _normal,
    )


def compl_ex() -> ScoreFunction:
    """Re Σ h r conj(t).

    Trouillon, Welbl, Riedel, Gaussier, Bouchard, ICML 2016, arXiv:1606.06357.
    """

    def times(x: Array, y: Array, sign: float) -> Array:
        """X times y, or times the conjugate of y where the sign is negative."""
        real, imaginary = jnp.split(x, 2, axis=-1)
        other_real, other_imaginary = jnp.split(y, 2, axis=-1)
        other_imaginary = sign * other_imaginary
        return jnp.concatenate(
            [
                real * other_real - imaginary * other_imaginary,
                real * other_imaginary + imaginary * other_real,
            ],
            axis=-1,
        )

    return ScoreFunction(
        "ComplEx",
        lambda head, relation: times(head, relation, 1.0),
        lambda relation, tail: times(tail, relation, -1.0),
        _product,
        _all_products,
        lambda width: width,
        _normal,
        complex_numbers=True,
    )


def score_function(name: str) -> ScoreFunction:
    """Give a model by its name.

    Raises
    ------
    InputError
        There is no such model.
    """
    models = {m.name: m for m in (trans_e(), trans_h(), rotat_e(), dist_mult(), compl_ex())}
    if name not in models:
        raise InputError(f"no model {name!r}; the models are {', '.join(models)}")
    return models[name]


def _normal(key: PRNGKeyArray, count: int, width: int) -> Array:
    return initial_entities(key, (count, width))


def _length(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x**2, axis=-1) + _TINY)


def _distance(point: Array, _: Array, entity: Array) -> Array:
    return -_length(point - entity)


def _all_distances(point: Array, _: Array, entities: Array) -> Array:
    # A matrix product instead of all differences.
    squares = jnp.sum(point**2, axis=-1)[:, None] + jnp.sum(entities**2, axis=-1)
    squares -= 2 * point @ entities.T
    return -jnp.sqrt(jnp.maximum(squares, _TINY))


def _manhattan(point: Array, _: Array, entity: Array) -> Array:
    return -jnp.abs(point - entity).sum(axis=-1)


def _all_manhattan(point: Array, relation: Array, entities: Array) -> Array:
    return _manhattan(point[:, None], relation, entities)


def _product(point: Array, _: Array, entity: Array) -> Array:
    return jnp.sum(point * entity, axis=-1)


def _all_products(point: Array, _: Array, entities: Array) -> Array:
    return point @ entities.T
