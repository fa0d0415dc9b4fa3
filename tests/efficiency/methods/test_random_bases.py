"""Random bases against their projection written out, and gradient descent as a limit."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qmgen.efficiency.methods import random_bases
from qmgen.efficiency.methods.random_bases import (
    coefficients,
    combine,
    directions,
    layer_compartments,
    projected,
)
from qmgen.errors import InputError

KEY = jax.random.key(7)
RNG = np.random.default_rng(0)
GRADIENTS = {
    "a": {"weight": RNG.normal(size=(5, 4)).astype(np.float32), "bias": np.ones(5, np.float32)},
    "b": {"weight": RNG.normal(size=(3, 5)).astype(np.float32)},
}
SIZE = 40


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def updates(transformation: optax.GradientTransformation, steps: int) -> list[np.ndarray]:
    """Of the same gradients in each step."""
    state = transformation.init(GRADIENTS)
    update = jax.jit(transformation.update)
    found = []
    for _ in range(steps):
        update_, state = update(GRADIENTS, state)
        found.append(flat(update_))
    return found


@pytest.mark.parametrize("numbers_at_a_time", [pytest.param(1, marks=pytest.mark.slow), 3 * SIZE])
def test_chunks_are_the_whole_projection(
    numbers_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_bases, "_NUMBERS_AT_A_TIME", numbers_at_a_time)
    gradient = jnp.asarray(flat(GRADIENTS))

    @jax.jit
    def run() -> tuple:
        parts = coefficients(gradient, KEY, 5, 7)
        basis = directions(KEY, jnp.arange(12), SIZE)
        return basis, parts, combine(parts, KEY, 5, SIZE), projected(gradient, KEY, 7)

    basis, parts, sum_of_parts, whole = (np.asarray(array) for array in run())
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), 1, rtol=1e-6)
    first, own = basis[:7], basis[5:12]
    close = {"rtol": 1e-5, "atol": 1e-6}  # rounding of float32
    np.testing.assert_allclose(parts, own @ gradient, **close)
    np.testing.assert_allclose(sum_of_parts, own.T @ parts, **close)
    np.testing.assert_allclose(whole, first.T @ (first @ gradient), **close)


@pytest.mark.parametrize("compartments", [1, "layers"])
def test_all_orthonormal_directions_are_gradient_descent(compartments: Any) -> None:
    if compartments == "layers":
        gradients = {"a": {"weight": np.float32([1, 2])}, "b": {"weight": np.float32([[3], [4]])}}
        compartments, count = layer_compartments(gradients), 2
    else:
        gradients, count = GRADIENTS, SIZE // compartments
    transformation = random_bases.random_bases(
        count, KEY, compartments=compartments, kind="orthonormal"
    )
    found, _ = jax.jit(transformation.update)(gradients, transformation.init(gradients))
    np.testing.assert_allclose(flat(found), flat(gradients), rtol=1e-5, atol=1e-5)


def test_directions_are_fresh_or_fixed() -> None:
    fresh = updates(random_bases.random_bases(3, KEY), 3)
    fixed = updates(random_bases.random_bases(3, KEY, fresh=False), 3)
    np.testing.assert_array_equal(fixed[0], fixed[2])
    np.testing.assert_array_equal(fixed[0], fresh[0])
    assert not np.allclose(fresh[0], fresh[1])


@pytest.mark.slow
def test_all_directions_are_alike() -> None:
    # The mean of P^T P over bases is d / D; its error over 2000 of 8 directions is 0.01 |g|.
    gradient = jnp.asarray(flat(GRADIENTS))
    keys = jax.random.split(KEY, 2000)
    mean = jax.jit(lambda: jax.vmap(lambda key: projected(gradient, key, 8))(keys).mean(0))()
    norm = float(jnp.linalg.norm(gradient))
    assert float(jnp.linalg.norm(mean - gradient * 8 / SIZE)) < 0.03 * norm


@pytest.mark.parametrize(("compartments", "sizes"), [(4, [10] * 4), ("layers", [25, 15])])
def test_compartments_have_bases_of_their_own(compartments: Any, sizes: list[int]) -> None:
    """All updates of a step, whatever the gradients, span d directions in each compartment."""
    labels = layer_compartments(GRADIENTS) if compartments == "layers" else compartments
    transformation = random_bases.random_bases(3, KEY, compartments=labels)
    state = transformation.init(GRADIENTS)
    restore = jax.flatten_util.ravel_pytree(GRADIENTS)[1]

    def of_flat(gradient: Any) -> Any:
        return jax.flatten_util.ravel_pytree(transformation.update(restore(gradient), state)[0])[0]

    matrix = np.asarray(jax.jit(jax.vmap(of_flat))(jnp.eye(SIZE)))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert np.linalg.matrix_rank(matrix, tol=1e-4) == 3 * len(sizes)
    start = 0
    for size in sizes:
        outside = np.ones(SIZE, bool)
        outside[start : start + size] = False
        assert not matrix[start : start + size, outside].any()
        start += size


def test_layers_are_compartments() -> None:
    model = eqx.filter(eqx.nn.MLP(4, 3, 8, 1, key=KEY), eqx.is_array)
    labels = layer_compartments(model)
    assert labels.layers[0].weight == labels.layers[0].bias != labels.layers[1].weight


def test_bases_are_never_stored() -> None:
    size, count = 2**19, 64
    gradient = jax.ShapeDtypeStruct((size,), jnp.float32)
    transformation = random_bases.random_bases(count, KEY)

    def update(gradient: Any) -> Any:
        return transformation.update(gradient, transformation.init(gradient))[0]

    taken = jax.jit(update).lower(gradient).compile().memory_analysis().temp_size_in_bytes
    # Some vectors as long as the gradient, where the basis has 64.
    assert taken < 12 * 4 * size


def test_bad_bases_are_named() -> None:
    with pytest.raises(InputError, match="at least one"):
        random_bases.random_bases(0, KEY)
    with pytest.raises(InputError, match="rebuild"):
        random_bases.random_bases(2, KEY, kind="orthonormal", workers="workers")
    with pytest.raises(InputError, match="no 41 directions"):
        updates(random_bases.random_bases(41, KEY, kind="orthonormal"), 1)
    with pytest.raises(InputError, match="41 slices"):
        updates(random_bases.random_bases(1, KEY, compartments=41), 1)
