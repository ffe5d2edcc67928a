"""Views: labelled items, each of which can be drawn many times as a randomly altered image.

A data set for training an embedding model is a list of items and a way to draw a random view of each. Classification
draws one view a step, SimCLR draws two, and pairs for the forward transformation are a few views an item.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fct_fast.errors import ConfigError, ShapeError

__all__ = ["AffineViews", "ViewConfig", "Views"]


class Views(Protocol):
    """Items 0 .. len-1 with a class each, drawn as images. What every training loop of this package reads."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each item, int64 [items]."""

    def __len__(self) -> int:
        """Number of items."""

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """One random view of each named item: int64 [n] -> float32 [n, channels, height, width]."""


@dataclass(frozen=True)
class ViewConfig:
    """How far a view may stray from its item; every amount is drawn uniformly, noise is normal.

    size: height and width of a view in pixels; the whole picture is scaled to it. rotation: degrees, either way.
    scale: factor of enlargement, from and to. shear: tangent of the slant, either way. shift: share of the picture's
    width, either way, per axis. contrast: ink level, from and to. background: paper level, at most. noise: standard
    deviation of a pixel.
    """

    size: int = 28
    rotation: float = 10.0
    scale: tuple[float, float] = (0.85, 1.15)
    shear: float = 0.15
    shift: float = 0.08
    contrast: tuple[float, float] = (0.5, 1.0)
    background: float = 0.2
    noise: float = 0.15

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] or not 0 <= self.contrast[0] <= self.contrast[1]:
            raise ConfigError(f"views need size >= 1 and ordered, positive scale and contrast ranges, got {self}")
        if min(self.rotation, self.shear, self.shift, self.background, self.noise) < 0:
            raise ConfigError(f"the amounts of a view's alterations are not negative, got {self}")


class AffineViews:
    """Grey pictures, altered by a random affine map, contrast, paper level and noise.

    pictures: uint8 [items, height, width], ink is 255; labels: int64 [items]. Views are centred on zero: paper near
    -0.5, ink near +0.5, times the contrast. Raises ShapeError where the two do not pair up.
    """

    def __init__(
        self, pictures: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], config: ViewConfig | None = None
    ) -> None:
        if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
            raise ShapeError(
                f"pictures must be [items, height, width] with one label each, got {pictures.shape} and {labels.shape}"
            )
        self.config = config or ViewConfig()
        self._labels = labels
        self._pictures = torch.from_numpy(np.ascontiguousarray(pictures))

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """int64 [n] -> float32 [n, 1, size, size]."""
        c, n = self.config, len(items)
        pictures = self._pictures[items].unsqueeze(1).float().div_(255)
        grid = F.affine_grid(_affine_maps(n, c, generator), [n, 1, c.size, c.size], align_corners=False)
        ink = F.grid_sample(pictures, grid, align_corners=False)
        contrast = _uniform(n, *c.contrast, generator).view(n, 1, 1, 1)
        paper = _uniform(n, 0.0, c.background, generator).view(n, 1, 1, 1)
        noise = torch.randn(ink.shape, generator=generator)
        return ink.mul_(contrast).add_(paper - 0.5).add_(noise, alpha=c.noise)


def _affine_maps(n: int, c: ViewConfig, generator: torch.Generator) -> Tensor:
    """Maps from view to picture coordinates, float32 [n, 2, 3]: rotation times shear, divided by scale, then shift."""
    angle = _uniform(n, -math.radians(c.rotation), math.radians(c.rotation), generator)
    zoom = 1.0 / _uniform(n, *c.scale, generator)
    shear = _uniform(n, -c.shear, c.shear, generator)
    shift = 2.0 * _uniform(2 * n, -c.shift, c.shift, generator).view(n, 2)  # the grid runs from -1 to 1
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = torch.stack([cos, cos * shear - sin, shift[:, 0], sin, sin * shear + cos, shift[:, 1]], dim=1)
    return rows.view(n, 2, 3)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)
