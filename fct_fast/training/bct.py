"""Retraining controls: new models that are trained to be searched against the old gallery as it is.

What FCT is measured against: these need no forward transformation and no side-information, but the new model pays for
its compatibility, and they must be chosen before it is trained. Both are the free new model's training (same data,
steps, batches, first weights) plus one weighted term:

- BCT (Shen, Xiong, Xia, Soatto, CVPR 2020): the frozen old classifier must classify the new embeddings too. Items of
  classes that the old classifier does not know have the new loss only; `extended_head` gives it rows for them,
  made of the mean old embedding of each class (openBCT's pseudo-classifier).
- L2: the new embedding of a view is drawn to the old embedding of the same view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.data.views import Views
from fct_fast.errors import ConfigError, ShapeError
from fct_fast.models.base import EmbeddingModel
from fct_fast.models.heads import ClassifierHead
from fct_fast.training.backbone import BackboneConfig, BackboneResult, train_backbone
from fct_fast.training.embed import embed_views
from fct_fast.training.loop import OnStep

__all__ = ["ControlConfig", "extended_head", "influence_loss", "train_bct", "train_l2"]


@dataclass(frozen=True)
class ControlConfig(BackboneConfig):
    """The free new model's options, and weight: of the term that makes it compatible; 1 in BCT."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ConfigError(f"the weight of a control is finite and >= 0, got {self.weight}")


def influence_loss(embeddings: Tensor, labels: Tensor, old_weight: Tensor, label_smoothing: float) -> Tensor:
    """BCT's influence loss: mean cross-entropy of the old classifier on new embeddings -> scalar.

    embeddings: float32 [n, d]; labels: int64 [n]; old_weight: float32 [old classes, d], no gradient reaches it. Rows
    with a label that it does not know are left out; with none left the loss is 0.
    """
    known = labels < len(old_weight)
    logits = F.linear(embeddings[known], old_weight.detach())
    total = F.cross_entropy(logits, labels[known], label_smoothing=label_smoothing, reduction="sum")
    return total / known.sum().clamp(min=1)


def train_bct(
    model: EmbeddingModel,
    views: Views,
    config: ControlConfig,
    *,
    old_head: ClassifierHead,
    seed: int,
    on_step: OnStep | None = None,
) -> BackboneResult:
    """Train `model` in place to classify `views`, under its own new head and under the frozen old one.

    old_head: the old model's classifier; class c of it is class c of `views`. The result holds the new head. Seeding
    and errors as `train_backbone`; ShapeError where old and new embedding differ in width.
    """
    old_weight = old_head.linear.weight.detach().clone()
    _check_width(model, old_weight.shape[1])

    def influence(embeddings: Tensor, _: Tensor, labels: Tensor) -> Tensor:
        return config.weight * influence_loss(embeddings, labels, old_weight, config.label_smoothing)

    return train_backbone(model, views, config, seed=seed, term=influence, on_step=on_step)


def train_l2(
    model: EmbeddingModel,
    views: Views,
    config: ControlConfig,
    *,
    old_model: EmbeddingModel,
    seed: int,
    on_step: OnStep | None = None,
) -> BackboneResult:
    """Train `model` in place to classify `views` while its embedding stays near the old one of the same view.

    The term is the mean squared difference over all elements. The old model is put in eval mode and not changed.
    Seeding and errors as `train_backbone`; ShapeError where old and new embedding differ in width.
    """
    _check_width(model, old_model.embedding_dim)
    if old_model is model:
        raise ConfigError("the old model is the one to be trained; pass a new model")
    old_model.eval()

    def distance(embeddings: Tensor, images: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad():
            target = old_model(images)
        return config.weight * F.mse_loss(embeddings, target)

    return train_backbone(model, views, config, seed=seed, term=distance, on_step=on_step)


def extended_head(
    old_head: ClassifierHead, old_model: EmbeddingModel, views: Views, *, copies: int = 4, seed: int
) -> ClassifierHead:
    """The old classifier with a row for each further class of `views`: its mean old embedding over `copies` views.

    A mean embedding is no trained row: embeddings after a ReLU all share a large mean, and their norms are others. So
    the mean over all classes of `views` is taken off, and the new rows are scaled to the mean norm of the old ones.
    Raises ConfigError where a further class has no item.
    """
    weight = old_head.linear.weight.detach()
    rows = embed_views({"old": old_model}, views, copies=copies, seed=seed)
    labels = torch.from_numpy(rows.labels)
    classes = int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=classes)
    if (counts[len(weight) :] == 0).any():
        missing = len(weight) + int((counts[len(weight) :] == 0).int().argmax())
        raise ConfigError(f"class {missing} has no item to take a mean embedding of; number the classes without gaps")
    embeddings = torch.from_numpy(rows.embeddings["old"]).double()
    sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64).index_add_(0, labels, embeddings)
    present = counts > 0
    means = sums / counts.clamp(min=1)[:, None]
    further = (means - means[present].mean(dim=0))[len(weight) :]
    further *= weight.double().norm(dim=1).mean() / further.norm(dim=1, keepdim=True).clamp(min=1e-12)
    head = ClassifierHead(weight.shape[1], len(weight) + len(further))
    with torch.no_grad():
        head.linear.weight.copy_(torch.cat([weight, further.float()]))
    return head.requires_grad_(False).eval()


def _check_width(model: EmbeddingModel, old_dim: int) -> None:
    if model.embedding_dim != old_dim:
        raise ShapeError(
            f"a backward compatible model keeps the width of the old embedding, {old_dim}; "
            f"the new model has {model.embedding_dim}"
        )
