"""Sparse weights whose places move while training: prune by magnitude, regrow at random.

Dietrich et al., 2108.06277 ("Towards structured dynamic sparse pre-training of BERT"). A share of
each matrix is zero from the start, weights or whole blocks of them. After every so many steps the
active blocks of the smallest L1 norm go, and as many begin at random places, from zero and with
zero moments. The share that moves decays by a cosine; with none the pattern is static, and at a
sparsity of 0 training is the dense one.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from qmgen.errors import InputError

# Fitted by the authors to the best learning rates of BERT at several sparsities.
_RATE_SQUARE, _RATE_LINEAR = 1.969, 0.2905


@dataclass(frozen=True)
class SparsityRule:
    """How sparse matrices are and how their pattern moves.

    Attributes
    ----------
    sparsity
        Share of a matrix's blocks that is zero, from 0 to below 1.
    block
        Rows and columns of a block; (1, 1) are single weights.
    steps
        Of training with each pattern.
    patterns
        How many there are; training takes `steps` times as many steps. The last one stays however
        long training goes on.
    first_share
        Of active blocks, which is exchanged at first; 0 makes the pattern static.

    Raises
    ------
    InputError
        A number out of its range.
    """

    sparsity: float
    block: tuple[int, int]
    steps: int
    patterns: int
    first_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise InputError(f"the sparsity is {self.sparsity}; it must be from 0 to below 1")
        if min(*self.block, self.steps, self.patterns) < 1:
            raise InputError("a block's sides, steps and patterns must all be at least 1")
        if not 0 <= self.first_share <= 1:
            raise InputError(f"the first share is {self.first_share}; it must be from 0 to 1")

    def share(self, pattern: Int[Array, ""] | int) -> Float[Array, ""]:
        """Share of active blocks that goes at the end of a pattern, of which the first is 1."""
        progress = jnp.clip(pattern / self.patterns, 0.0, 1.0)
        return self.first_share * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Blocks down and across a matrix.

        Raises
        ------
        InputError
            It isn't a matrix, or blocks don't fit.
        """
        if len(shape) != 2 or shape[0] % self.block[0] or shape[1] % self.block[1]:
            raise InputError(
                f"blocks of {self.block} don't fill an array of shape {shape}; leave it dense or "
                "choose blocks whose sides divide a matrix's"
            )
        return shape[0] // self.block[0], shape[1] // self.block[1]

    def active_blocks(self, shape: tuple[int, ...]) -> int:
        """Blocks of a matrix that aren't zero, at every step.

        Raises
        ------
        InputError
            Not one would be left.
        """
        blocks = math.prod(self.grid(shape))
        active = blocks - round(self.sparsity * blocks)
        if active == 0:
            raise InputError(f"a matrix of {blocks} blocks has none left at {self.sparsity}")
        return active


class SparseState(NamedTuple):
    """State of `sparse_training`.

    Attributes
    ----------
    steps
        So far.
    key
        For the places of blocks to come.
    masks
        Which blocks are active, (rows, columns) for each sparse matrix; a single True for what is
        dense.
    explored
        Which blocks have ever been active, of the same shapes.
    inner
        State of the optimiser.
    """

    steps: Int[Array, ""]
    key: Key[Array, ""]
    masks: PyTree
    explored: PyTree
    inner: Any


def random_masks(
    parameters: PyTree, sparse: PyTree, rule: SparsityRule, key: Key[Array, ""]
) -> PyTree:
    """Masks of a random pattern.

    Parameters
    ----------
    sparse
        For each array of the parameters whether it is sparse. The authors leave embeddings dense.

    Raises
    ------
    InputError
        An array that the rule's blocks don't fill.
    """
    leaves, structure = jax.tree.flatten(parameters)
    choices = jax.tree.leaves(jax.tree.map(lambda _, choice: bool(choice), parameters, sparse))
    masks = []
    for number, (leaf, is_sparse) in enumerate(zip(leaves, choices, strict=True)):
        if not is_sparse:
            masks.append(jnp.array(True))
            continue
        grid, active = rule.grid(leaf.shape), rule.active_blocks(leaf.shape)
        places = jax.random.permutation(jax.random.fold_in(key, number), math.prod(grid))
        masks.append((places < active).reshape(grid))
    return jax.tree.unflatten(structure, masks)


def matrices(parameters: PyTree) -> PyTree:
    """True for arrays of two axes: what is sparse where nothing else is said."""
    return jax.tree.map(lambda leaf: leaf.ndim == 2, parameters)


def expand_mask(
    mask: Bool[Array, ""] | Bool[Array, "rows columns"], shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """Mask of weights from one of blocks."""
    if mask.ndim == 0:
        return jnp.broadcast_to(mask, shape)
    (rows, columns), (outputs, inputs) = mask.shape, shape
    whole = (rows, outputs // rows, columns, inputs // columns)
    return jnp.broadcast_to(mask[:, None, :, None], whole).reshape(shape)


def apply_masks(parameters: PyTree, masks: PyTree) -> PyTree:
    """Parameters with zeros in the place of inactive blocks."""
    return jax.tree.map(
        lambda leaf, mask: jnp.where(expand_mask(mask, leaf.shape), leaf, 0).astype(leaf.dtype),
        parameters,
        masks,
    )


def block_norms(
    weight: Float[Array, "outputs inputs"], grid: tuple[int, int]
) -> Float[Array, "rows columns"]:
    """L1 norm of each block, which as a criterion beat L2 and the largest magnitude."""
    rows, columns = grid
    outputs, inputs = weight.shape
    blocks = jnp.abs(weight).reshape(rows, outputs // rows, columns, inputs // columns)
    return blocks.sum((1, 3))


def _ranks(values: Float[Array, "rows columns"]) -> Int[Array, "rows columns"]:
    return jnp.argsort(jnp.argsort(values.ravel())).reshape(values.shape)


def reallocate(
    mask: Bool[Array, "rows columns"],
    norms: Float[Array, "rows columns"],
    share: Float[Array, ""],
    key: Key[Array, ""],
) -> Bool[Array, "rows columns"]:
    """Pattern without the weakest active blocks and with as many random ones that were inactive.

    Random places explore more of a matrix than those of the largest gradients do (measured in the
    paper). Where fewer blocks are inactive than should move, all those begin.
    """
    active = mask.sum()
    count = jnp.minimum(jnp.round(share * active).astype(active.dtype), mask.size - active)
    weakest = _ranks(jnp.where(mask, norms, jnp.inf)) < count
    drawn = jax.random.uniform(key, mask.shape)
    begun = _ranks(jnp.where(mask, jnp.inf, drawn)) < count
    return (mask & ~weakest) | begun


def sparse_training(
    optimiser: optax.GradientTransformation,
    rule: SparsityRule,
    sparse: PyTree,
    key: Key[Array, ""],
) -> optax.GradientTransformation:
    """Make an optimiser train sparse matrices.

    Its update takes the parameters, makes zeros of whatever isn't active in them, and at the end
    of a pattern moves blocks: new ones begin at zero, with zeros in all that the optimiser's state
    has for each weight, such as Adam's moments. So gradients of the plain network serve, once
    `apply_masks(parameters, state.masks)` has made the first parameters sparse.

    Parameters
    ----------
    sparse
        For each array of the parameters whether it is sparse (`matrices`).

    Raises
    ------
    InputError
        An array that blocks don't fill; an update without parameters.
    """

    def init(parameters: PyTree) -> SparseState:
        first, later = jax.random.split(key)
        masks = random_masks(parameters, sparse, rule, first)
        return SparseState(jnp.int32(0), later, masks, masks, optimiser.init(parameters))

    def moved(masks: PyTree, parameters: PyTree, pattern: Array, key: Key[Array, ""]) -> PyTree:
        leaves, structure = jax.tree.flatten(masks)
        weights, share = jax.tree.leaves(parameters), rule.share(pattern)
        new = []
        for number, (mask, weight) in enumerate(zip(leaves, weights, strict=True)):
            if mask.ndim == 0:
                new.append(mask)
                continue
            norms = block_norms(weight, mask.shape)
            new.append(reallocate(mask, norms, share, jax.random.fold_in(key, number)))
        return jax.tree.unflatten(structure, new)

    def update(
        gradients: PyTree, state: SparseState, parameters: PyTree | None = None
    ) -> tuple[PyTree, SparseState]:
        if parameters is None:
            raise InputError("sparse training needs the parameters to know which are the smallest")
        updates, inner = optimiser.update(
            apply_masks(gradients, state.masks), state.inner, parameters
        )
        steps = state.steps + 1
        pattern = steps // rule.steps
        due = (steps % rule.steps == 0) & (pattern <= rule.patterns)
        masks = jax.lax.cond(
            due,
            lambda: moved(
                state.masks,
                optax.apply_updates(parameters, updates),
                pattern,
                jax.random.fold_in(state.key, pattern),
            ),
            lambda: state.masks,
        )
        # Blocks that have just begun lost what they had as inactive ones.
        kept = jax.tree.map(
            lambda old, new, leaf: expand_mask(old & new, leaf.shape),
            state.masks,
            masks,
            parameters,
        )
        updates = jax.tree.map(
            lambda keep, step, leaf: jnp.where(keep, step, -leaf).astype(step.dtype),
            kept,
            updates,
            parameters,
        )
        inner = optax.tree_utils.tree_map_params(
            optimiser, lambda leaf, keep: jnp.where(keep, leaf, 0).astype(leaf.dtype), inner, kept
        )
        explored = jax.tree.map(jnp.logical_or, state.explored, masks)
        return updates, SparseState(steps, state.key, masks, explored, inner)

    return optax.GradientTransformation(init, update)


def explored_share(state: SparseState) -> float:
    """Share of the sparse matrices' blocks that have ever been active."""
    seen = [mask for mask in jax.tree.leaves(state.explored) if mask.ndim]
    if not seen:
        return 1.0
    return float(sum(mask.sum() for mask in seen) / sum(mask.size for mask in seen))


def training_flops(parameters: PyTree, masks: PyTree, batch: int) -> int:
    """Floating-point operations of a step in the products with matrices, inactive blocks left out.

    2 for each weight that isn't masked and each row, in the product and in both of its derivatives:
    6 batch inputs outputs (1 - s).
    """
    weights = 0
    for leaf, mask in zip(jax.tree.leaves(parameters), jax.tree.leaves(masks), strict=True):
        if leaf.ndim == 2:
            weights += int(mask.sum()) * (leaf.size // mask.size)
    return 6 * batch * weights


def rate_factor(sparsity: float) -> float:
    """By which the best dense learning rate is multiplied: exp(1.969 s^2 + 0.2905 s)."""
    return math.exp(_RATE_SQUARE * sparsity**2 + _RATE_LINEAR * sparsity)
