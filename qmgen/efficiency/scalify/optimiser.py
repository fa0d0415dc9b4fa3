"""Optimisers whose state is kept in 16 bits, with scales."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from qmgen.efficiency.scalify.interpreter import scalify
from qmgen.efficiency.scalify.markers import dynamic_rescale_l2
from qmgen.efficiency.scalify.scaled_array import (
    ScaledArray,
    as_scaled,
    is_float,
    is_scaled,
    unscale,
)


def hold_scaled(
    inner: optax.GradientTransformation, dtype: np.dtype | type = jnp.float16
) -> optax.GradientTransformation:
    """Keep the state of an Optax transformation as ScaledArrays of a narrow dtype.

    After each step they are rescaled to an RMS of 1 to 2, so that neither squares of small
    gradients underflow nor large ones overflow. Single numbers in the state stay as they are.

    Parameters
    ----------
    inner
        Adam, for example. It computes in float32, with scales.
    dtype
        Of the state's arrays.

    Returns
    -------
    optax.GradientTransformation
        Gradients and parameters may be arrays or ScaledArrays; updates are what gradients are.

    Raises
    ------
    InputError
        A dtype that isn't a float.
    """

    def held(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        return _narrow(as_scaled(leaf), dtype) if leaf.ndim else unscale(leaf, leaf.dtype)

    def hold(state: PyTree) -> PyTree:
        return jax.tree.map(held, state, is_leaf=is_scaled)

    def init(parameters: PyTree) -> PyTree:
        return hold(inner.init(unscale(parameters)))

    def update(
        gradients: PyTree, state: PyTree, parameters: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        wide = [_widened(tree) for tree in (as_scaled(gradients), state, parameters)]
        updates, state = scalify(inner.update)(*wide)
        return jax.tree.map(_like, updates, gradients, is_leaf=is_scaled), hold(state)

    return optax.GradientTransformation(init, update)


def _widened(tree: PyTree) -> PyTree:
    """ScaledArrays with float32 data; everything else stays."""
    return jax.tree.map(
        lambda v: as_scaled(v, dtype=jnp.float32) if isinstance(v, ScaledArray) else v,
        tree,
        is_leaf=is_scaled,
    )


def _narrow(value: ScaledArray, dtype: np.dtype | type) -> ScaledArray:
    return as_scaled(dynamic_rescale_l2(value), dtype=dtype)


def _like(update: Any, gradient: Any) -> Any:
    """An update as its gradient is: scaled or not, and of its dtype."""
    if isinstance(gradient, ScaledArray):
        return _narrow(as_scaled(update), gradient.dtype)
    return unscale(update, gradient.dtype)
