"""Gradients in small random subspaces that are drawn anew in each step.

Gressmann, Eaton-Rosen and Luschi, 2011.04720 ("Improving neural network training in low dimensional
random bases"). A step takes P^T P g in the place of the gradient g, where the d rows of P are
random directions of unit norm. A direction follows from seed, step, compartment and its number, so
that nobody stores or sends one: workers exchange d numbers each and rebuild all directions.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PyTree

from qmgen.errors import InputError

# Directions are made so many numbers at a time, or one by one where they are longer.
_NUMBERS_AT_A_TIME = 2**18


class BasisState(NamedTuple):
    """Steps so far: with the key all there is to know about the directions."""

    steps: Int[Array, ""]


def directions(
    key: Key[Array, ""], numbers: Int[Array, " count"], size: int
) -> Float[Array, "count size"]:
    """Random directions of unit norm, each by its number alone."""

    def one(number: Int[Array, ""]) -> Float[Array, " size"]:
        drawn = jax.random.normal(jax.random.fold_in(key, number), (size,))
        return drawn / jnp.linalg.norm(drawn)

    return jax.vmap(one)(numbers)


def _chunks(first: Array | int, count: int, size: int) -> tuple[Array, Array]:
    """Numbers of directions in rows of as many as are made at once, and which of them count."""
    at_once = min(count, max(1, _NUMBERS_AT_A_TIME // size))
    rows = -(-count // at_once)
    number = jnp.arange(rows * at_once).reshape(rows, at_once)
    return first + number, number < count


def coefficients(
    gradient: Float[Array, " size"], key: Key[Array, ""], first: Array | int, count: int
) -> Float[Array, " count"]:
    """Components along the directions numbered from `first` on: what a worker sends.

    At no time are there more of them than fit into O(size) memory.
    """

    def some(numbers: Array) -> Array:
        return directions(key, numbers, gradient.size) @ gradient

    return lax.map(some, _chunks(first, count, gradient.size)[0]).reshape(-1)[:count]


def combine(
    components: Float[Array, " count"], key: Key[Array, ""], first: Array | int, size: int
) -> Float[Array, " size"]:
    """Sum of the directions numbered from `first` on, each times its component."""
    numbers, counts = _chunks(first, len(components), size)
    # What fills up the last row has no part.
    padded = jnp.zeros(numbers.size, components.dtype).at[: len(components)].set(components)
    parts = jnp.where(counts, padded.reshape(numbers.shape), 0)

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        chosen, values = part
        return total + values @ directions(key, chosen, size), None

    return lax.scan(add, jnp.zeros(size, components.dtype), (numbers, parts))[0]


def projected(
    gradient: Float[Array, " size"], key: Key[Array, ""], count: int
) -> Float[Array, " size"]:
    """P^T P g, equal to `coefficients` and `combine`, with each direction made only once."""
    numbers, counts = _chunks(0, count, gradient.size)

    def add(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        chosen, are = part
        basis = directions(key, chosen, gradient.size)
        return total + jnp.where(are, basis @ gradient, 0) @ basis, None

    return lax.scan(add, jnp.zeros_like(gradient), (numbers, counts))[0]


def _orthonormal(
    gradient: Float[Array, " size"], key: Key[Array, ""], count: int
) -> Float[Array, " size"]:
    basis = jax.random.orthogonal(key, gradient.size)[:count]
    return (basis @ gradient) @ basis


def layer_compartments(parameters: PyTree) -> PyTree:
    """A compartment for each layer: one number for all arrays of the same node of the tree."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(parameters)[0]]
    nodes = [jax.tree_util.keystr(path[:-1]) for path in paths]
    order = {node: number for number, node in enumerate(dict.fromkeys(nodes))}
    return jax.tree.unflatten(jax.tree.structure(parameters), [order[node] for node in nodes])


def random_bases(
    count: int,
    key: Key[Array, ""],
    *,
    compartments: int | PyTree = 1,
    fresh: bool = True,
    kind: Literal["normal", "orthonormal"] = "normal",
    workers: str | None = None,
) -> optax.GradientTransformation:
    """Put P^T P g in the place of the gradient; then comes `optax.scale_by_learning_rate` alone.

    Parameters
    ----------
    count
        Directions d of each compartment, and of each worker.
    key
        The seed, which all workers share.
    compartments
        As many equal slices of all parameters in a row, or for each array the number of its
        compartment (`layer_compartments`). Each has a basis of its own.
    fresh
        Draw directions anew in each step; otherwise they are fixed, which is the baseline of Li et
        al., 1804.08838.
    kind
        "orthonormal" directions are a corner of a random rotation, which has to be stored and suits
        small compartments; as many as there are parameters give the gradient itself.
    workers
        Name of the axis of `jax.shard_map` on which each place has the gradient of its own
        minibatch. Worker k owns the directions k d to (k + 1) d, and all take the sum over all
        workers' directions. Only components go from one to another.

    Raises
    ------
    InputError
        No directions, more orthonormal ones than parameters, orthonormal ones on workers, or
        compartments that don't fit the parameters.
    """
    if count < 1:
        raise InputError(f"a basis has at least one direction, not {count}")
    if kind == "orthonormal" and workers is not None:
        raise InputError("workers can't rebuild one another's orthonormal directions; use normal")

    def of_compartment(gradient: Array, key: Key[Array, ""]) -> Array:
        if kind == "orthonormal":
            if count > gradient.size:
                raise InputError(f"{gradient.size} parameters have no {count} directions")
            return _orthonormal(gradient, key, count)
        if workers is None:
            return projected(gradient, key, count)
        first = lax.axis_index(workers) * count
        mine = coefficients(gradient, key, first, count)
        # Unlike what all_gather gives, a sum is known to be the same on all workers.
        own = lax.dynamic_update_slice(
            jnp.zeros(lax.axis_size(workers) * count, mine.dtype), mine, (first,)
        )
        return combine(lax.psum(own, workers), key, 0, gradient.size)

    def of_step(steps: Int[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(key, steps if fresh else 0)

    def by_slice(gradients: PyTree, slices: int, of_now: Key[Array, ""]) -> PyTree:
        flat, restore = ravel_pytree(gradients)
        if not 1 <= slices <= flat.size:
            raise InputError(f"{flat.size} parameters can't be cut into {slices} slices")
        parts = jnp.array_split(flat, slices)
        return restore(
            jnp.concatenate(
                [
                    of_compartment(part, jax.random.fold_in(of_now, number))
                    for number, part in enumerate(parts)
                ]
            )
        )

    def by_label(gradients: PyTree, labels: PyTree, of_now: Key[Array, ""]) -> PyTree:
        leaves, structure = jax.tree.flatten(gradients)
        numbers = jax.tree.leaves(jax.tree.map(lambda _, label: label, gradients, labels))
        new: list[Any] = list(leaves)
        for number in sorted(set(numbers)):
            members = [place for place, label in enumerate(numbers) if label == number]
            flat, restore = ravel_pytree([leaves[place] for place in members])
            found = restore(of_compartment(flat, jax.random.fold_in(of_now, number)))
            for place, leaf in zip(members, found, strict=True):
                new[place] = leaf
        return jax.tree.unflatten(structure, new)

    def init(parameters: PyTree) -> BasisState:
        return BasisState(jnp.int32(0))

    def update(
        gradients: PyTree, state: BasisState, parameters: PyTree | None = None
    ) -> tuple[PyTree, BasisState]:
        cut = by_slice if isinstance(compartments, int) else by_label
        return cut(gradients, compartments, of_step(state.steps)), BasisState(state.steps + 1)

    return optax.GradientTransformation(init, update)
