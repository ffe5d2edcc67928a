"""Supervised training of an embedding model: classification with label smoothing, as the FCT paper does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.data.views import Views
from fct_fast.errors import ConfigError
from fct_fast.models.base import EmbeddingModel
from fct_fast.models.heads import ClassifierHead
from fct_fast.training.loop import LoopConfig, OnStep, run_loop, seeded_initialisation

__all__ = ["BackboneConfig", "BackboneResult", "Term", "train_backbone"]

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Called as term(embeddings [n, embedding_dim], images [n, channels, height, width], labels [n]) -> scalar."""


@dataclass(frozen=True)
class BackboneConfig(LoopConfig):
    """label_smoothing: share of the target that is spread over all classes."""

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing lies in [0, 1), got {self.label_smoothing}")


@dataclass(frozen=True)
class BackboneResult:
    """classifier: the head, which a loss on upgraded embeddings can read later; losses: one a step."""

    classifier: ClassifierHead
    losses: list[float]


def train_backbone(
    model: EmbeddingModel,
    views: Views,
    config: BackboneConfig,
    *,
    seed: int,
    term: Term | None = None,
    on_step: OnStep | None = None,
) -> BackboneResult:
    """Train `model` ([n, channels, height, width] -> [n, model.embedding_dim]) in place to classify `views`.

    Classes are 0 .. largest label. term: added to the loss (see `fct_fast.training.bct`). The same seed gives the same
    weights on the same machine with the same number of threads; torch's global generator is not used. Raises
    NonFiniteError where training diverges.
    """
    labels = torch.from_numpy(views.labels)
    if not len(labels) or int(labels.min()) < 0:
        raise ConfigError(f"training needs items with labels >= 0, got {len(labels)} items")
    generator = torch.Generator().manual_seed(seed)
    with seeded_initialisation(seed):
        head = ClassifierHead(model.embedding_dim, int(labels.max()) + 1)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # about a third faster on CPU

    def batch_loss(batch: Tensor) -> Tensor:
        images = views.draw(batch, generator)
        embeddings = model(images)
        loss = F.cross_entropy(head(embeddings), labels[batch], label_smoothing=config.label_smoothing)
        return loss if term is None else loss + term(embeddings, images, labels[batch])

    losses = run_loop([model, head], batch_loss, len(views), config, generator, on_step)
    return BackboneResult(head, losses)
