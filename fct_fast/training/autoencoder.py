"""Side-information by an autoencoder: an embedding from which a small decoder can draw the picture again.

It needs no labels and throws nothing of the picture away on purpose. With clean pictures as targets it is a denoising
autoencoder (Vincent et al., ICML 2008): what the views add to an item (shift, slant, noise) need not be kept.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.data.views import AffineViews, Views
from fct_fast.errors import ConfigError, ShapeError
from fct_fast.models.base import EmbeddingModel
from fct_fast.models.decoder import StrideDecoder
from fct_fast.training.loop import LoopConfig, OnStep, run_loop, seeded_initialisation

__all__ = ["AutoencoderConfig", "AutoencoderResult", "clean_views", "train_autoencoder"]


@dataclass(frozen=True)
class AutoencoderConfig(LoopConfig):
    """decoder_channels: width of the decoder, as StrideDecoder has it."""

    learning_rate: float = 0.5
    decoder_channels: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_channels < 1:
            raise ConfigError(f"an autoencoder needs decoder_channels >= 1, got {self.decoder_channels}")


@dataclass(frozen=True)
class AutoencoderResult:
    """decoder: [n, embedding_dim] -> [n, 1, size, size]; losses: mean squared error a pixel, one a step."""

    decoder: StrideDecoder
    losses: list[float]


def clean_views(views: AffineViews) -> AffineViews:
    """The same items, drawn without any alteration: full contrast on blank paper, no noise. Shares the pictures."""
    clean = copy.copy(views)
    clean.config = dataclasses.replace(
        views.config,
        rotation=0.0,
        scale=(1.0, 1.0),
        shear=0.0,
        shift=0.0,
        contrast=(1.0, 1.0),
        background=0.0,
        noise=0.0,
    )
    return clean


def train_autoencoder(
    model: EmbeddingModel,
    views: Views,
    config: AutoencoderConfig,
    *,
    seed: int,
    targets: Views | None = None,
    on_step: OnStep | None = None,
) -> AutoencoderResult:
    """Train `model` ([n, 1, size, size] -> [n, model.embedding_dim]) in place; labels are not read.

    targets: what is to be drawn from the embedding of a view, item by item, such as `clean_views(views)`; by default
    the view itself. Seeding and errors as `train_backbone`; ShapeError for targets of other items or pictures that are
    not square with one channel.
    """
    if len(views) < 1 or (targets is not None and len(targets) != len(views)):
        others = "" if targets is None else f" and {len(targets)} targets"
        raise ShapeError(f"an autoencoder needs items, with a target each, got {len(views)} items{others}")
    generator = torch.Generator().manual_seed(seed)
    shape = (views if targets is None else targets).draw(torch.zeros(1, dtype=torch.int64), torch.Generator()).shape
    if shape[1] != 1 or shape[2] != shape[3]:
        raise ShapeError(f"the decoder draws square pictures of one channel, these are {list(shape[1:])}")
    with seeded_initialisation(seed):
        decoder = StrideDecoder(config.decoder_channels, model.embedding_dim, shape[2])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batch_loss(batch: Tensor) -> Tensor:
        pictures = views.draw(batch, generator)
        wanted = pictures if targets is None else targets.draw(batch, generator)
        return F.mse_loss(decoder(model(pictures)), wanted)

    losses = run_loop([model, decoder], batch_loss, len(views), config, generator, on_step)
    return AutoencoderResult(decoder, losses)
