"""Side-information by SimCLR (Chen et al., ICML 2020): two views of an item attract, all other views repel.

It needs no labels, so it keeps what the old model's task did not ask for: the choice of the FCT paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fct_fast.data.views import Views
from fct_fast.errors import ConfigError
from fct_fast.models.base import EmbeddingModel
from fct_fast.models.heads import ProjectionHead
from fct_fast.training.loop import LoopConfig, OnStep, run_loop, seeded_initialisation

__all__ = ["SimCLRConfig", "nt_xent", "train_simclr"]


@dataclass(frozen=True)
class SimCLRConfig(LoopConfig):
    """A batch is `batch_size` items, two views each. temperature: of the softmax. projection_dim: of the head."""

    temperature: float = 0.2
    projection_dim: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or self.projection_dim < 1:
            raise ConfigError(
                f"SimCLR needs temperature > 0 and projection_dim >= 1, "
                f"got {self.temperature} and {self.projection_dim}"
            )


def nt_xent(temperature: float) -> nn.Module:
    """The NT-Xent loss: (projections [2n, d], item numbers [2n], each twice) -> scalar.

    With one positive a row, supervised contrast is NT-Xent, term by term. pytorch-metric-learning's SupConLoss works
    on the [2n, 2n] similarities; its NTXentLoss pairs each positive with every negative pair of the batch, which takes
    [2n, 4n^2] numbers: 50 times slower at n = 256, for the same value.
    """
    from pytorch_metric_learning.losses import SupConLoss  # brings scipy.stats: a second that only this loss needs

    loss: nn.Module = SupConLoss(temperature)
    return loss


def train_simclr(
    model: EmbeddingModel, views: Views, config: SimCLRConfig, *, seed: int, on_step: OnStep | None = None
) -> list[float]:
    """Train `model` ([n, channels, height, width] -> [n, model.embedding_dim]) in place; labels are not read.

    Returns the loss of each step. Seeding and errors as `train_backbone`.
    """
    if len(views) < 2:
        raise ConfigError(f"SimCLR contrasts items, so it needs at least two, got {len(views)}")
    generator = torch.Generator().manual_seed(seed)
    with seeded_initialisation(seed):
        head = ProjectionHead(model.embedding_dim, config.projection_dim)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = nt_xent(config.temperature)

    def batch_loss(batch: Tensor) -> Tensor:
        twice = torch.cat([batch, batch])
        value: Tensor = loss(head(model(views.draw(twice, generator))), twice)
        return value

    return run_loop([model, head], batch_loss, len(views), config, generator, on_step)
