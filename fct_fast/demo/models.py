"""The demo's three models: old and side-information see some of the classes, the new one sees all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fct_fast.demo.data import DemoData
from fct_fast.demo.recipe import Recipe
from fct_fast.models import StrideCNN
from fct_fast.training.backbone import train_backbone
from fct_fast.training.loop import OnStep, seeded_initialisation
from fct_fast.training.simclr import train_simclr

__all__ = ["DemoModels", "build_model", "seed_of", "train_models"]

_PARTS = ("old", "side", "new", "pairs", "gallery")


@dataclass(frozen=True)
class DemoModels:
    """models, losses (one a step): by "old", "side" and "new"."""

    models: dict[str, StrideCNN]
    losses: dict[str, list[float]]


def train_models(data: DemoData, recipe: Recipe, *, seed: int, on_stage: Callable[[str], OnStep]) -> DemoModels:
    """Train the three; `on_stage(name)` is called as each begins and returns what to call after a step."""
    old_seed, side_seed, new_seed = (seed_of(name, seed) for name in ("old", "side", "new"))
    old = build_model(recipe, recipe.old.channels, old_seed)
    on_step = on_stage("train the old model")
    old_losses = train_backbone(old, data.old_train, recipe.old.training, seed=old_seed, on_step=on_step).losses

    side = build_model(recipe, recipe.side.channels, side_seed)
    on_step = on_stage("train the side-information model")
    side_losses = train_simclr(side, data.old_train, recipe.side.training, seed=side_seed, on_step=on_step)

    new = build_model(recipe, recipe.new.channels, new_seed)
    on_step = on_stage("train the new model")
    new_losses = train_backbone(new, data.train, recipe.new.training, seed=new_seed, on_step=on_step).losses
    return DemoModels(
        {"old": old, "side": side, "new": new}, {"old": old_losses, "side": side_losses, "new": new_losses}
    )


def build_model(recipe: Recipe, channels: int, seed: int, embedding_dim: int | None = None) -> StrideCNN:
    """An untrained model for the recipe's views, with the recipe's embedding width or another."""
    with seeded_initialisation(seed):
        return StrideCNN(channels, embedding_dim or recipe.embedding_dim, recipe.views.size)


def seed_of(part: str, seed: int) -> int:
    """The seed of the "old", "side" or "new" model, or of the views of the "pairs" or of the "gallery"."""
    return 10 * seed + _PARTS.index(part)
