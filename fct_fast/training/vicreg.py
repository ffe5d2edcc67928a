"""Side-information by VICReg (Bardes, Ponce, LeCun, ICLR 2022): two views of an item agree, no dimension collapses.

Like SimCLR it needs no labels; unlike SimCLR it compares no items with each other, so it works with small batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.data.views import Views
from fct_fast.errors import ConfigError
from fct_fast.models.base import EmbeddingModel
from fct_fast.models.heads import ExpanderHead
from fct_fast.training.loop import LoopConfig, OnStep, run_loop, seeded_initialisation

__all__ = ["VICRegConfig", "train_vicreg", "vicreg_loss"]

_EPSILON = 1e-4  # added to a variance before the root, as in the paper


@dataclass(frozen=True)
class VICRegConfig(LoopConfig):
    """A batch is `batch_size` items, two views each. expander_dim: width of the head's three layers; wider is better.

    invariance, variance, covariance: weights of the three terms, the paper's by default. The learning rate is lower
    than SimCLR's, since the weights make the loss some ten times larger.
    """

    learning_rate: float = 0.02
    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    expander_dim: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (self.invariance, self.variance, self.covariance)
        if not all(0 <= weight < float("inf") for weight in weights) or self.expander_dim < 2:
            raise ConfigError(
                f"VICReg needs finite weights >= 0 and expander_dim >= 2, got {weights} and {self.expander_dim}"
            )


def vicreg_loss(first: Tensor, second: Tensor, config: VICRegConfig) -> Tensor:
    """The loss of two views' projections, float32 [n, d] each, row i of both from item i, n >= 2 -> scalar.

    Invariance: mean squared difference over all elements. Variance: mean over dimensions of max(0, 1 - std), averaged
    over the two views. Covariance: squared off-diagonal elements of the covariance matrix, summed, divided by d, added
    over the two views. These are the means of the authors' code, which the weights of the paper belong to; its
    equations sum where the code averages.
    """
    invariance = F.mse_loss(first, second)
    terms = [_variance_and_covariance(view) for view in (first, second)]
    variance, covariance = (torch.stack(term).sum() for term in zip(*terms, strict=True))
    return config.invariance * invariance + config.variance * variance / 2 + config.covariance * covariance


def train_vicreg(
    model: EmbeddingModel, views: Views, config: VICRegConfig, *, seed: int, on_step: OnStep | None = None
) -> list[float]:
    """Train `model` ([n, channels, height, width] -> [n, model.embedding_dim]) in place; labels are not read.

    Returns the loss of each step. Seeding and errors as `train_backbone`.
    """
    if len(views) < 2:
        raise ConfigError(f"VICReg measures variances over items, so it needs at least two, got {len(views)}")
    generator = torch.Generator().manual_seed(seed)
    with seeded_initialisation(seed):
        head = ExpanderHead(model.embedding_dim, config.expander_dim)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch_loss(batch: Tensor) -> Tensor:
        first, second = head(model(views.draw(torch.cat([batch, batch]), generator))).chunk(2)
        return vicreg_loss(first, second, config)

    return run_loop([model, head], batch_loss, len(views), config, generator, on_step)


def _variance_and_covariance(rows: Tensor) -> tuple[Tensor, Tensor]:
    n, dim = rows.shape
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / (n - 1)
    variances = covariance.diagonal()
    off_diagonal = covariance.square().sum() - variances.square().sum()
    return F.relu(1 - (variances + _EPSILON).sqrt()).mean(), off_diagonal / dim
