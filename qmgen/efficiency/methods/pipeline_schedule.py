"""What devices do when, if each trains a piece of a network: time, use of devices, and memory.

A task starts when its device is free and what it needs is there; each device has its tasks in a
fixed order. Schedules are those of backpropagation with one minibatch at a time, of micro-batches
(GPipe, Huang et al., 1811.06965), of minibatches one after the other without waiting (PipeDream,
Harlap et al., 1806.03377, whose weights are stale) and of local losses (Laskin et al.,
2012.03837).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qmgen.errors import InputError


@dataclass(frozen=True)
class StageCost:
    """Of a stage and one minibatch.

    Attributes
    ----------
    forward, backward
        Seconds, or any other unit of time.
    activation_bytes
        That the backward pass needs of the forward one.
    """

    forward: float
    backward: float
    activation_bytes: float


@dataclass(frozen=True)
class ScheduleCost:
    """What a schedule takes.

    Attributes
    ----------
    time
        From the first task's start to the last one's end.
    utilisation
        Share of all devices' time in which they work.
    activation_bytes
        Largest that each device holds at a time.
    """

    time: float
    utilisation: float
    activation_bytes: tuple[float, ...]


@dataclass(frozen=True)
class _Task:
    """A pass of a stage over a part of the data; backward ones free what forward ones keep."""

    stage: int
    part: int
    backward: bool


_After = dict[_Task, tuple[_Task, ...]]


def _simulate(
    orders: Sequence[Sequence[_Task]], needs: _After, costs: Sequence[StageCost], parts: int
) -> ScheduleCost:
    """Run tasks whose minibatch is in so many parts."""
    ends: dict[_Task, float] = {}
    free, done = [0.0] * len(orders), [0] * len(orders)
    while any(count < len(order) for count, order in zip(done, orders, strict=True)):
        moved = False
        for stage, order in enumerate(orders):
            while done[stage] < len(order):
                task = order[done[stage]]
                waits = needs.get(task, ())
                if any(other not in ends for other in waits):
                    break
                cost = costs[stage].backward if task.backward else costs[stage].forward
                start = max([free[stage], *(ends[other] for other in waits)])
                ends[task] = free[stage] = start + cost / parts
                done[stage] += 1
                moved = True
        if not moved:
            raise AssertionError("each device waits for another")
    busy = sum(
        (costs[task.stage].backward if task.backward else costs[task.stage].forward) / parts
        for task in ends
    )
    peaks = []
    for stage, order in enumerate(orders):
        held = peak = 0
        for task in order:
            held += -1 if task.backward else 1
            peak = max(peak, held)
        peaks.append(peak * costs[stage].activation_bytes / parts)
    time = max(free)
    return ScheduleCost(time, busy / (time * len(orders)), tuple(peaks))


def _chain(stages: int, parts: Sequence[int]) -> _After:
    """Forward passes need the stage before, backward ones the stage behind."""
    needs: _After = {}
    for part in parts:
        for stage in range(1, stages):
            needs[_Task(stage, part, False)] = (_Task(stage - 1, part, False),)
            needs[_Task(stage - 1, part, True)] = (_Task(stage, part, True),)
    return needs


def _check(costs: Sequence[StageCost], count: int) -> None:
    if not costs or count < 1:
        raise InputError("a schedule has at least one stage and one minibatch or part of one")


def backpropagation(costs: Sequence[StageCost], micro_batches: int = 1) -> ScheduleCost:
    """A step of backpropagation by micro-batches, all of which come back before it ends.

    One micro-batch is backpropagation in which devices just wait for each other.

    Raises
    ------
    InputError
        There is no stage or no micro-batch.
    """
    _check(costs, micro_batches)
    parts = range(micro_batches)
    orders = [
        [_Task(stage, part, False) for part in parts] + [_Task(stage, part, True) for part in parts]
        for stage in range(len(costs))
    ]
    return _simulate(orders, _chain(len(costs), parts), costs, micro_batches)


def without_waiting(costs: Sequence[StageCost], steps: int) -> ScheduleCost:
    """Backpropagation of minibatches that follow each other before the weights have changed.

    Stage k of K has K - k minibatches under way and then does a backward and a forward pass in
    turn; weights are up to K - 1 steps old, and a device has to keep as many versions.

    Raises
    ------
    InputError
        There is no stage or no step.
    """
    _check(costs, steps)
    orders = []
    for stage in range(len(costs)):
        ahead = min(len(costs) - stage, steps)
        order = [_Task(stage, part, False) for part in range(ahead)]
        for part in range(steps):
            order.append(_Task(stage, part, True))
            if part + ahead < steps:
                order.append(_Task(stage, part + ahead, False))
        orders.append(order)
    return _simulate(orders, _chain(len(costs), range(steps)), costs, 1)


def local(costs: Sequence[StageCost], steps: int) -> ScheduleCost:
    """Steps of stages with losses of their own: activations go on, nothing comes back.

    Raises
    ------
    InputError
        There is no stage or no step.
    """
    _check(costs, steps)
    orders = [
        [_Task(stage, step, backward) for step in range(steps) for backward in (False, True)]
        for stage in range(len(costs))
    ]
    needs: _After = {
        _Task(stage, step, False): (_Task(stage - 1, step, False),)
        for stage in range(1, len(costs))
        for step in range(steps)
    }
    return _simulate(orders, needs, costs, 1)
