"""How the learning rate changes in a training."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)

from qmgen.training.config import Plateau, WarmupDecay


def step_schedule(optimizer: Optimizer, config: WarmupDecay) -> LRScheduler:
    """Linear warm-up and exponential decay, to be advanced after each step.

    QM1B's setting (Mathiasen et al. 2023) is the default: from 0.2 of the rate within 2500 steps,
    times 0.96 every 9600 steps.
    """
    warmup = LinearLR(optimizer, start_factor=config.warmup_from, total_iters=config.warmup_steps)
    decay = StepLR(optimizer, step_size=config.decay_steps, gamma=config.decay_factor)
    return ChainedScheduler([warmup, decay])


def plateau_schedule(optimizer: Optimizer, config: Plateau) -> ReduceLROnPlateau:
    """Drops of the rate, to be told each epoch's validation error."""
    return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
