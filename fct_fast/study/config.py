"""StudyConfig: how an upgrade is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fct_fast.config import Config
from fct_fast.training.config import FitConfig

__all__ = ["StudyConfig"]


class StudyConfig(Config):
    """Options of `run_study`.

    fit: of the network, and of the split that choices are made on. test: share of the rows that everything is judged
    on and nothing is fitted or chosen on. maps: "all" candidates, or only the "closed" forms beside the network.
    shares: of the training rows, for the learning curve. k: neighbours of the overlap. target: share of the gap between
    the old and the new model that a gallery must reach; where the map alone does not, the share to re-embed is the one
    that does; None is 0.9 with labels and 0.5 without, where the gap is measured in shared neighbours. level: of the
    intervals. re_embed_flops, re_embed_bytes: what the new model costs an item, for the cost table.
    """

    fit: FitConfig = FitConfig()
    test: float = Field(0.2, gt=0, le=0.5)
    maps: Literal["all", "closed"] = "all"
    shares: tuple[float, ...] = Field((0.125, 0.25, 0.5, 1.0), strict=False)
    k: int = Field(10, ge=1, le=100)
    target: float | None = Field(None, gt=0, le=1)
    level: float = Field(0.95, gt=0, lt=1)
    re_embed_flops: int | None = Field(None, ge=0)
    re_embed_bytes: int | None = Field(None, ge=0)
