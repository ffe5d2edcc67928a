"""The loop that trains h: Adam on batches of pairs, warm-up and cosine, BatchNorm on fixed statistics from half time.

All that a step depends on is a function of the seed, the epoch and the step, or is in the checkpoint; so a run that was
killed goes on to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fct_fast.errors import ConfigError, NonFiniteError
from fct_fast.training.checkpoint import Checkpoint
from fct_fast.training.config import FitConfig
from fct_fast.training.losses import TransformLoss
from fct_fast.training.pairs import Pairs
from fct_fast.training.schedule import warmup_cosine

__all__ = ["Batches", "OnEpoch", "Trainable", "train_transform"]

NORM_BATCHES = 64  # batches that the statistics of BatchNorm are measured on

OnEpoch = Callable[[int, float], None]
"""Called as on_epoch(epoch, mean loss)."""

Batch = tuple[Tensor, Tensor | None, Tensor]


class Trainable(Protocol):
    """What is trained: `ForwardTransform` or `ResidualTransform`."""

    def raw(self, old: Tensor, side: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Batches:
    """Batches of training rows at the scale of training. factors: what each array is multiplied by."""

    pairs: Pairs
    rows: Tensor
    factors: dict[str, float]
    config: FitConfig

    @property
    def count(self) -> int:
        """Batches of an epoch; of nearly equal size, so that none is too small for BatchNorm."""
        return min(math.ceil(len(self.rows) / self.config.batch_size), len(self.rows) // 2)

    @property
    def steps(self) -> int:
        """Steps of Adam in an epoch."""
        return math.ceil(self.count / self.config.accumulate)

    def drawn(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Rows and views of each batch of an epoch: every row once, in one of its views."""
        generator = torch.Generator().manual_seed((1_000_003 * self.config.seed + epoch) % 2**63)
        order = torch.randperm(len(self.rows), generator=generator).to(self.rows.device)
        views = torch.randint(self.pairs.views, (len(self.rows),), generator=generator).to(self.rows.device)
        parts = zip(self.rows[order].tensor_split(self.count), views.tensor_split(self.count), strict=True)
        return list(parts)

    def load(self, rows: Tensor, view: Tensor) -> Batch:
        old, side, new = self.pairs.batch(rows, view)
        factors = self.factors
        return old * factors["old"], None if side is None else side * factors["side"], new * factors["new"]


@dataclass
class _State:
    """All that a training has come to. total: sum of the loss over the rows of the epoch so far."""

    module: nn.Module
    optimizer: torch.optim.Adam
    average: list[Tensor] | None
    total: Tensor
    epoch: int = 0
    step: int = 0
    fixed: bool = False
    history: list[float] = field(default_factory=list)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "total", self.total
        yield from ((f"module.{name}", tensor) for name, tensor in self.module.state_dict().items())
        yield from ((f"average.{i}", tensor) for i, tensor in enumerate(self.average or ()))
        for i, slot in enumerate(self.optimizer.state_dict()["state"].values()):
            yield from ((f"adam.{i}.{name}", tensor) for name, tensor in slot.items())

    def save(self, checkpoint: Checkpoint) -> None:
        facts = {"epoch": self.epoch, "step": self.step, "fixed": self.fixed, "history": self.history}
        checkpoint.save(dict(self.tensors()), facts)

    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.total.copy_(tensors["total"])
        prefix = "module."
        self.module.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
        for i, tensor in enumerate(self.average or ()):
            tensor.copy_(tensors[f"average.{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, number, slot = name.split(".")
                state.setdefault(int(number), {})[slot] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.epoch, self.step, self.fixed = facts["epoch"], facts["step"], facts["fixed"]
        self.history = list(facts["history"])


def train_transform(
    module: nn.Module,
    batches: Batches,
    loss: TransformLoss,
    *,
    labels: Tensor | None = None,
    checkpoint: Checkpoint | None = None,
    log_dir: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[float]:
    """Train a `Trainable` in place; it ends in eval mode. Returns the mean loss of each epoch.

    labels: int64, of all rows of the pairs. checkpoint: written now and then, and gone on from. log_dir: where
    TensorBoard finds loss and learning rate. Raises NonFiniteError where training diverges.
    """
    config = batches.config
    optimizer = torch.optim.Adam(module.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters] if config.ema else None
    state = _State(module.train(), optimizer, average, torch.zeros((), device=batches.rows.device))
    if checkpoint is not None and (kept := checkpoint.load()) is not None:
        state.load(*kept)
    if state.fixed:
        module.eval()
    log = _Log(log_dir)
    for epoch in range(state.epoch, config.epochs):
        drawn = batches.drawn(epoch)
        if config.eval_mode_switch and epoch == math.ceil(config.epochs / 2) and not state.fixed:
            _fix_batch_norm(module, batches, drawn)
            state.fixed = True
        for step in range(state.step, batches.steps):
            _set_rate(optimizer, batches, epoch * batches.steps + step)
            part = drawn[step * config.accumulate : (step + 1) * config.accumulate]
            optimizer.zero_grad()
            for rows, view in part:
                old, side, new = batches.load(rows, view)
                value = loss(module.raw(old, side), new, None if labels is None else labels[rows])  # type: ignore[operator]
                (value / len(part)).backward()  # type: ignore[no-untyped-call]
                state.total += value.detach() * len(rows)
            optimizer.step()
            if average is not None:
                _follow(average, parameters, config.ema, epoch * batches.steps + step)
            state.epoch, state.step = epoch, step + 1
            if checkpoint is not None and checkpoint.due:
                state.save(checkpoint)
        state.history.append(float(state.total) / len(batches.rows))
        if not math.isfinite(state.history[-1]):
            raise NonFiniteError(f"training diverged in epoch {epoch} (the loss is {state.history[-1]}); lower lr")
        state.epoch, state.step = epoch + 1, 0
        state.total.zero_()
        log.write(epoch, loss=state.history[-1], learning_rate=optimizer.param_groups[0]["lr"])
        if on_epoch is not None:
            on_epoch(epoch, state.history[-1])
    log.close()
    if checkpoint is not None:
        state.save(checkpoint)
    if average is not None:
        with torch.no_grad():
            torch._foreach_copy_([*parameters], average)
    if not state.fixed:
        _fix_batch_norm(module, batches, batches.drawn(config.epochs - 1))
    return state.history


def _set_rate(optimizer: torch.optim.Adam, batches: Batches, step: int) -> None:
    config = batches.config
    warmup = round(config.warmup_epochs * batches.steps)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * warmup_cosine(step, steps=config.epochs * batches.steps, warmup_steps=warmup)


def _follow(average: list[Tensor], parameters: list[nn.Parameter], decay: float, step: int) -> None:
    """Move the average towards the weights; faster in the first steps, where it would else remember random ones."""
    with torch.no_grad():
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(decay, (1 + step) / (10 + step)))


@torch.no_grad()
def _fix_batch_norm(module: nn.Module, batches: Batches, drawn: list[tuple[Tensor, Tensor]]) -> None:
    """Go to eval mode, on statistics that are the plain mean over batches with the weights as they are now: running
    ones lag far behind in a short training."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for rows, view in drawn[:NORM_BATCHES] if norms else ():
        old, side, _ = batches.load(rows, view)
        module.raw(old, side)  # type: ignore[operator]
    for norm in norms:
        norm.momentum = 0.1
    module.eval()


class _Log:
    """TensorBoard's event file, or nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "log_dir needs TensorBoard; install it with `pip install fct-fast[tensorboard]`"
                ) from error
            self._writer = SummaryWriter(str(folder))

    def write(self, epoch: int, **values: float) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"fit/{name}", value, epoch)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
