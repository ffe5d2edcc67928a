"""The learning-rate schedule of every training loop: linear warm-up, then a cosine down to zero, set once a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fct_fast.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

__all__ = ["warmup_cosine", "warmup_cosine_scheduler"]


def warmup_cosine(step: int, *, steps: int, warmup_steps: int = 0) -> float:
    """The factor on the base learning rate at `step` (0-based) of a run of `steps` steps; in [0, 1].

    Rises as (step + 1) / warmup_steps, then falls as (1 + cos(pi * t)) / 2 with t the share of the remaining steps that
    is done. The first step is never 0; steps past the end are.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step >= steps:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def warmup_cosine_scheduler(optimizer: Optimizer, *, steps: int, warmup_steps: int = 0) -> LambdaLR:
    """`warmup_cosine` as a torch scheduler: call `.step()` once after each `optimizer.step()`.

    Raises ConfigError unless 0 <= warmup_steps <= steps and steps >= 1.
    """
    if steps < 1 or not 0 <= warmup_steps <= steps:
        raise ConfigError(f"a schedule needs steps >= 1 and 0 <= warmup_steps <= steps, got {steps} and {warmup_steps}")
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, lambda step: warmup_cosine(step, steps=steps, warmup_steps=warmup_steps))
