"""Local losses: who trains whom, backpropagation as a limit, and schedules of pipelines."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmgen.efficiency.methods import pipeline_schedule
from qmgen.efficiency.methods.local_losses import chunked, greedy, local_losses, overlapping
from qmgen.efficiency.methods.pipeline_schedule import StageCost
from qmgen.errors import InputError

DEPTH, WIDTH = 4, 6
RNG = np.random.default_rng(0)
LAYERS = [RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32) for _ in range(DEPTH)]
HEADS = [RNG.normal(size=(2, WIDTH)).astype(np.float32) for _ in range(DEPTH)]
X = RNG.normal(size=(5, WIDTH)).astype(np.float32)
Y = RNG.normal(size=(5, 2)).astype(np.float32)


def layer(weight: Any, x: Any) -> Any:
    return jnp.tanh(x @ weight.T)


def head(weight: Any, x: Any) -> Any:
    return x @ weight.T


def error(predicted: Any) -> Any:
    return jnp.mean((predicted - Y) ** 2)


def losses(pieces: tuple[range, ...], weights: Any, x: Any = X) -> jax.Array:
    layers, heads = weights
    return local_losses(
        [partial(layer, w) for w in layers],
        [partial(head, w) for w in heads[: len(pieces)]],
        pieces,
        x,
        error,
    )


def gradients(pieces: tuple[range, ...]) -> Any:
    return jax.jit(jax.grad(lambda weights: losses(pieces, weights).sum()))((LAYERS, HEADS))


def by_hand(pieces: tuple[range, ...]) -> list[np.ndarray]:
    """Gradients of layers, each piece by itself with inputs that are just numbers."""
    inputs = [X]
    for weight in LAYERS:
        inputs.append(np.asarray(layer(weight, inputs[-1])))
    total = [np.zeros((WIDTH, WIDTH), np.float32) for _ in LAYERS]
    for number, piece in enumerate(pieces):

        def of_piece(weights: list, piece: range = piece, number: int = number) -> Any:
            x = inputs[piece.start]
            for weight in weights:
                x = layer(weight, x)
            return error(head(HEADS[number], x))

        found = jax.grad(of_piece)([LAYERS[place] for place in piece])
        for place, gradient in zip(piece, found, strict=True):
            total[place] += np.asarray(gradient)
    return total


SCHEMES = {
    "greedy": (greedy(DEPTH), np.eye(4, dtype=bool)),
    "chunked": (chunked(DEPTH, 2), np.kron(np.eye(2, dtype=bool), np.ones((1, 2), bool))),
    "overlapping": (overlapping(DEPTH), np.eye(3, 4, dtype=bool) | np.eye(3, 4, 1, dtype=bool)),
    "whole": (chunked(DEPTH, DEPTH), np.ones((1, 4), bool)),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_losses_train_their_pieces_only(name: str) -> None:
    pieces, pattern = SCHEMES[name]
    by_layer, by_head = jax.jit(jax.jacrev(partial(losses, pieces)))((LAYERS, HEADS))
    reaches = np.stack([np.abs(j).max((1, 2)) > 0 for j in by_layer], 1)
    np.testing.assert_array_equal(reaches, pattern)
    own = np.stack([np.abs(j).max((1, 2)) > 0 for j in by_head], 1)
    np.testing.assert_array_equal(own, np.eye(len(pieces), DEPTH, dtype=bool))
    for found, expected in zip(gradients(pieces)[0], by_hand(pieces), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_piece_is_backpropagation() -> None:
    def plain(weights: Any) -> jax.Array:
        x = X
        for weight in weights[0]:
            x = layer(weight, x)
        return error(head(weights[1][0], x))

    expected = jax.jit(jax.grad(plain))((LAYERS, HEADS))
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-6, atol=1e-6),
        gradients(chunked(DEPTH, DEPTH)),
        expected,
    )


def test_the_first_piece_trains_what_is_before() -> None:
    of_input = jax.jacrev(lambda x: losses(greedy(DEPTH), (LAYERS, HEADS), x))(X)
    np.testing.assert_array_equal(np.abs(of_input).max((1, 2)) > 0, [True, False, False, False])


def test_bad_pieces_are_named() -> None:
    with pytest.raises(InputError, match="can't be cut"):
        chunked(6, 4)
    with pytest.raises(InputError, match="two layers"):
        overlapping(1)
    with pytest.raises(InputError, match="gap"):
        losses((range(2), range(3, 4)), (LAYERS, HEADS))
    with pytest.raises(InputError, match="aren't those of 4"):
        losses((range(2),), (LAYERS, HEADS))
    with pytest.raises(InputError, match="as many heads"):
        local_losses([partial(layer, w) for w in LAYERS], [], greedy(4), X, error)


EQUAL = [StageCost(1.0, 2.0, 10.0)] * 4


@pytest.mark.parametrize("parts", [1, 4, 16])
def test_schedules_of_equal_stages(parts: int) -> None:
    # Closed forms: of the bubble of Huang et al., and of one wave through all stages.
    cost = pipeline_schedule.backpropagation(EQUAL, parts)
    assert cost.utilisation == pytest.approx(parts / (parts + 3))
    assert cost.time == pytest.approx(3 * (parts + 3) / parts)
    assert cost.activation_bytes == (10.0,) * 4
    cost = pipeline_schedule.local(EQUAL, parts)
    assert cost.time == pytest.approx(3 * parts + 3)
    assert cost.utilisation == pytest.approx(3 * parts / (3 * parts + 3))
    assert cost.activation_bytes == (10.0,) * 4


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_stages_that_overlap_wait_for_one_neighbour(steps: int) -> None:
    # A forward pass takes 1 and a backward pass 2. A stage in the middle hands its activations on
    # after 1, gets the gradient of the next one's loss 3 later and needs 2 for it: 6 a step. The
    # last but one stage, which is the last to end, gets its first activations after 2.
    cost = pipeline_schedule.local_overlapping(EQUAL, steps)
    assert cost.time == pytest.approx(6 * steps + 2)
    assert cost.utilisation == pytest.approx(steps * (3 + 5 + 5 + 3) / (4 * cost.time))
    assert cost.activation_bytes == (10.0,) * 4


def test_pipelines_without_waiting_hold_more() -> None:
    cost = pipeline_schedule.without_waiting(EQUAL, 100)
    assert cost.activation_bytes == (40.0, 30.0, 20.0, 10.0)
    # All stages work but while the first minibatch goes in and the last one comes out.
    assert cost.time == pytest.approx(3 * 100 + 3 * 3)


@pytest.mark.parametrize("schedule", ["local", "without_waiting", "backpropagation"])
def test_the_slowest_stage_sets_the_pace(schedule: str) -> None:
    costs = [StageCost(1.0, 2.0, 1.0), StageCost(4.0, 8.0, 1.0), StageCost(2.0, 3.0, 1.0)]
    run: Callable = getattr(pipeline_schedule, schedule)
    cost = run(costs, 50)
    work = 12.0 if schedule == "backpropagation" else 12.0 * 50
    assert work <= cost.time < 1.1 * work
    assert cost.utilisation == pytest.approx(work / 12 * 20 / (3 * cost.time))


def test_empty_schedules_are_named() -> None:
    with pytest.raises(InputError, match="at least one"):
        pipeline_schedule.local([], 3)
    with pytest.raises(InputError, match="at least one"):
        pipeline_schedule.backpropagation(EQUAL, 0)
