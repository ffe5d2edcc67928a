"""The loop that the supervised and the contrastive training share: items in random order, SGD, warm-up + cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fct_fast.errors import ConfigError, NonFiniteError
from fct_fast.training.schedule import warmup_cosine_scheduler

__all__ = ["LoopConfig", "OnStep", "item_batches", "run_loop", "seeded_initialisation"]

OnStep = Callable[[int, int], None]
"""Called as on_step(steps done, steps in total)."""


@dataclass(frozen=True)
class LoopConfig:
    """SGD with Nesterov momentum. learning_rate: the peak. warmup: share of the steps that the rate rises."""

    steps: int
    batch_size: int = 256
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2:  # BatchNorm needs two rows
            raise ConfigError(f"training needs steps >= 1 and batch_size >= 2, got {self.steps} and {self.batch_size}")
        if (
            not self.learning_rate > 0
            or not 0 <= self.momentum < 1
            or self.weight_decay < 0
            or not 0 <= self.warmup <= 1
        ):
            raise ConfigError(
                "training needs learning_rate > 0, momentum in [0, 1), weight_decay >= 0 and warmup in [0, 1], "
                f"got {self}"
            )


def item_batches(items: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`steps` batches of item numbers, int64 [min(batch_size, items)]; no item twice in a batch, nor twice before all
    others had their turn, up to the remainder of items that a last, short batch would hold."""
    size = min(batch_size, items)
    order, at = torch.empty(0, dtype=torch.int64), 0
    for _ in range(steps):
        if at + size > len(order):
            order, at = torch.randperm(items, generator=generator), 0
        yield order[at : at + size]
        at += size


def run_loop(
    modules: Sequence[nn.Module],
    batch_loss: Callable[[Tensor], Tensor],
    items: int,
    config: LoopConfig,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> list[float]:
    """Minimise `batch_loss(item numbers)` over the parameters of `modules`; returns the loss of each step.

    The modules are in train mode meanwhile and in eval mode afterwards. Raises NonFiniteError where a loss is NaN or
    Inf, before it reaches the weights.
    """
    parameters = [p for module in modules for p in module.train().parameters()]
    optimizer = torch.optim.SGD(
        parameters,
        config.learning_rate,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    warmup_steps = round(config.warmup * config.steps)
    scheduler = warmup_cosine_scheduler(optimizer, steps=config.steps, warmup_steps=warmup_steps)
    losses = []
    for step, batch in enumerate(item_batches(items, config.batch_size, config.steps, generator)):
        loss = batch_loss(batch)
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"the training loss became {losses[-1]} at step {step} of {config.steps}; "
                f"lower the learning rate ({config.learning_rate}) or check the images for NaN"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if on_step is not None:
            on_step(step + 1, config.steps)
    for module in modules:
        module.eval()
    return losses


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Modules built inside get weights that depend on `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
