"""What devices do when, if each trains a piece of a network: time, use of devices, and memory.

A task starts when its device is free and what it needs is there; each device has its tasks in a
fixed order. Schedules are those of backpropagation with one minibatch at a time, of micro-batches
(GPipe, Huang et al., 1811.06965), of minibatches one after the other without waiting (PipeDream,
Harlap et al., 1806.03377, whose weights are stale) and of local losses, apart or overlapping
(Laskin et al., 2012.03837).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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


_Kind = Literal["forward", "first backward", "backward"]


@dataclass(frozen=True)
class _Task:
    """A pass of a stage over a part of the data.

    Backward ones free what forward ones keep; a first backward one has another behind it.
    """

    stage: int
    part: int
    kind: _Kind

    def duration(self, costs: Sequence[StageCost]) -> float:
        cost = costs[self.stage]
        return cost.forward if self.kind == "forward" else cost.backward

    @property
    def kept(self) -> int:
        """By how much it changes the number of parts whose activations are kept."""
        return {"forward": 1, "first backward": 0, "backward": -1}[self.kind]


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
                start = max([free[stage], *(ends[other] for other in waits)])
                ends[task] = free[stage] = start + task.duration(costs) / parts
                done[stage] += 1
                moved = True
        if not moved:
            raise AssertionError("each device waits for another")
    busy = sum(task.duration(costs) / parts for task in ends)
    peaks = []
    for stage, order in enumerate(orders):
        held = peak = 0
        for task in order:
            held += task.kept
            peak = max(peak, held)
        peaks.append(peak * costs[stage].activation_bytes / parts)
    time = max(free)
    return ScheduleCost(time, busy / (time * len(orders)), tuple(peaks))


def _chain(stages: int, parts: Sequence[int]) -> _After:
    """Forward passes need the stage before, backward ones the stage behind."""
    needs: _After = {}
    for part in parts:
        for stage in range(1, stages):
            needs[_Task(stage, part, "forward")] = (_Task(stage - 1, part, "forward"),)
            needs[_Task(stage - 1, part, "backward")] = (_Task(stage, part, "backward"),)
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
        [_Task(stage, part, "forward") for part in parts]
        + [_Task(stage, part, "backward") for part in parts]
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
        order = [_Task(stage, part, "forward") for part in range(ahead)]
        for part in range(steps):
            order.append(_Task(stage, part, "backward"))
            if part + ahead < steps:
                order.append(_Task(stage, part + ahead, "forward"))
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
        [
            task
            for step in range(steps)
            for task in (_Task(stage, step, "forward"), _Task(stage, step, "backward"))
        ]
        for stage in range(len(costs))
    ]
    return _simulate(orders, _forward_chain(len(costs), steps), costs, 1)


def local_overlapping(costs: Sequence[StageCost], steps: int) -> ScheduleCost:
    """Steps of stages each of which has its own loss and that of the next one.

    Activations go on, and one gradient comes back from the next device before a stage's step. It
    passes backward through a stage twice, and through the first and the last once.

    Raises
    ------
    InputError
        There are fewer than two stages, or there is no step.
    """
    _check(costs[1:], steps)
    last = len(costs) - 1
    orders: list[list[_Task]] = [[] for _ in costs]
    needs = _forward_chain(len(costs), steps)
    for stage, order in enumerate(orders):
        for step in range(steps):
            order.append(_Task(stage, step, "forward"))
            if 0 < stage < last:
                order.append(_Task(stage, step, "first backward"))
            order.append(_Task(stage, step, "backward"))
            if stage < last:
                of_next: _Kind = "backward" if stage + 1 == last else "first backward"
                needs[order[-1]] = (_Task(stage + 1, step, of_next),)
    return _simulate(orders, needs, costs, 1)


def _forward_chain(stages: int, steps: int) -> _After:
    return {
        _Task(stage, step, "forward"): (_Task(stage - 1, step, "forward"),)
        for stage in range(1, stages)
        for step in range(steps)
    }
