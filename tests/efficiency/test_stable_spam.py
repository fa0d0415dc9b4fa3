"""StableSPAM against its formulas in NumPy, and where it must be Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qmgen.efficiency.fp4_training import FP4Recipe
from qmgen.efficiency.stable_spam import recipe_optimiser, restarting, stable_spam
from qmgen.errors import InputError


def by_the_formulas(
    gradients: list[np.ndarray], restart_every: int, rate: float = 0.01
) -> list[np.ndarray]:
    """Updates of one array, from algorithm 1 of the paper in float64."""
    theta, gamma1, gamma2, beta1, beta2, eps = 0.999, 0.7, 0.9, 0.9, 0.999, 1e-8
    limit = mean = square = 0.0
    m, v, since = 0.0, 0.0, 0
    updates = []
    for number, g in enumerate(gradients, 1):
        g = g.astype(np.float64).copy()
        largest = np.abs(g).max()
        limit = theta * limit + (1 - theta) * largest
        threshold = limit / (1 - theta**number)
        spikes = np.abs(g) > threshold
        g[spikes] = g[spikes] / largest * threshold
        norm = np.sqrt((g**2).sum())
        mean = gamma1 * mean + (1 - gamma1) * norm
        square = gamma2 * square + (1 - gamma2) * norm**2
        usual = mean / (1 - gamma1**number)
        g = g / norm * usual / (np.sqrt(square / (1 - gamma2**number)) + eps)
        if number % restart_every == 0:
            m, v, since = 0.0, 0.0, 0
        since += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        updates.append(-rate * (m / (1 - beta1**since)) / (np.sqrt(v / (1 - beta2**since)) + eps))
    return updates


def run(optimiser: optax.GradientTransformation, gradients: np.ndarray) -> np.ndarray:
    """Updates of one array through all steps, under jit and scan."""

    @jax.jit
    def updates(gradients: jax.Array) -> jax.Array:
        def step(state: tuple, g: jax.Array) -> tuple:
            update, state = optimiser.update({"w": g}, state)
            return state, update["w"]

        return jax.lax.scan(step, optimiser.init({"w": jnp.zeros_like(gradients[0])}), gradients)[1]

    return np.asarray(updates(gradients))


def test_updates_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(40, 3, 5)).astype(np.float32) * 1e-3
    gradients[[17, 30], 0, 2] *= 300
    gradients[25:] *= 20
    found = run(stable_spam(0.01, restart_every=15), gradients)
    expected = np.stack(by_the_formulas(list(gradients), 15))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)
    # A spike hurts Adam longer.
    spiked, calm = gradients[:25], gradients[:25].copy()
    calm[17, 0, 2] /= 300
    rule = stable_spam(0.01)

    def harm(optimiser: optax.GradientTransformation) -> float:
        return float(np.abs(run(optimiser, spiked) - run(optimiser, calm))[18:].max())

    assert harm(rule) < 0.7 * harm(optax.adam(0.01))


def test_steady_gradients_make_it_adam() -> None:
    # Signs alone change, so that no maximum is unusual and every norm the usual one.
    rng = np.random.default_rng(1)
    sizes = rng.uniform(0.5, 2.0, (4, 6)).astype(np.float32)
    gradients = sizes * rng.choice(np.float32([-1, 1]), (30, 4, 6))
    np.testing.assert_allclose(
        run(stable_spam(0.01), gradients), run(optax.adam(0.01), gradients), rtol=1e-3, atol=1e-7
    )


def test_recipes_name_their_optimiser() -> None:
    gradients = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    for name, expected in (("adam", optax.adam(0.1)), ("stable_spam", stable_spam(0.1))):
        found = run(recipe_optimiser(FP4Recipe(optimiser=name), 0.1), gradients)
        np.testing.assert_array_equal(found, run(expected, gradients))


def test_zeros_stay_and_bad_intervals_are_named() -> None:
    assert not run(stable_spam(0.1), np.zeros((3, 4), np.float32)).any()
    with pytest.raises(InputError, match="one step"):
        restarting(optax.adam(0.1), 0)
