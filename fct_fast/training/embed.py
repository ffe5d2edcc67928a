"""Embeddings of the same random views by several models: the rows that the forward transformation is fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fct_fast.data.views import Views
from fct_fast.errors import ConfigError
from fct_fast.training.loop import OnStep

__all__ = ["EmbeddedViews", "embed_views"]


@dataclass(frozen=True)
class EmbeddedViews:
    """Row i of everything belongs to the same view.

    embeddings: model name -> float32 [n, that model's dim]; labels, items: int64 [n]; images: float32
    [n, channels, height, width], or None where they were not kept.
    """

    embeddings: dict[str, npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    images: npt.NDArray[np.float32] | None


@torch.inference_mode()
def embed_views(
    models: Mapping[str, nn.Module],
    views: Views,
    *,
    copies: int,
    seed: int,
    batch_size: int = 1024,
    keep_images: bool = False,
    on_step: OnStep | None = None,
) -> EmbeddedViews:
    """Draw `copies` views of each item and embed each view with every model, in eval mode.

    Rows come copy by copy: row c * len(views) + i is a view of item i. Raises ConfigError for copies or batch_size
    below 1.
    """
    if copies < 1 or batch_size < 1:
        raise ConfigError(f"embedding needs copies >= 1 and batch_size >= 1, got {copies} and {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    items = torch.arange(len(views)).repeat(copies)
    batches = torch.split(items, batch_size)
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in models}
    images = []
    for done, batch in enumerate(batches, 1):
        pixels = views.draw(batch, generator)
        for name, model in models.items():
            parts[name].append(model.eval()(pixels).float().numpy())
        if keep_images:
            images.append(pixels.numpy())
        if on_step is not None:
            on_step(done, len(batches))
    return EmbeddedViews(
        {name: np.concatenate(rows) for name, rows in parts.items()},
        np.tile(views.labels, copies),
        items.numpy(),
        np.concatenate(images) if keep_images else None,
    )
