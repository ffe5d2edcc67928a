"""Recipes: every number of a demo run but the seed, as JSON files that ship with the package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib import resources
from typing import Any, Literal, TypeVar, get_type_hints

from fct_fast.data.views import ViewConfig
from fct_fast.errors import ConfigError
from fct_fast.training.backbone import BackboneConfig
from fct_fast.training.config import FitConfig
from fct_fast.training.simclr import SimCLRConfig

__all__ = ["RECIPES", "BackboneRecipe", "Recipe", "SimCLRRecipe", "built", "load_recipe", "recipe_from_json"]

RECIPES = ("glyphs", "digits")
T = TypeVar("T")


@dataclass(frozen=True)
class BackboneRecipe:
    """A StrideCNN of this many channels and how it is trained; the old and the new model."""

    channels: int
    training: BackboneConfig


@dataclass(frozen=True)
class SimCLRRecipe:
    """A StrideCNN of this many channels and how it is trained; the side-information model."""

    channels: int
    training: SimCLRConfig


@dataclass(frozen=True)
class Recipe:
    """classes: drawn by the seed; the first `old_classes` of them are what old and side-information models see.

    pair_views, gallery_views: views drawn of each item for the pairs that h is fitted on, and for the gallery.
    """

    dataset: Literal["glyphs", "digits"]
    classes: int
    old_classes: int
    views: ViewConfig
    embedding_dim: int
    old: BackboneRecipe
    side: SimCLRRecipe
    new: BackboneRecipe
    pair_views: int
    gallery_views: int
    fit: FitConfig

    def __post_init__(self) -> None:
        if self.dataset not in RECIPES or not 1 < self.old_classes < self.classes:
            raise ConfigError(
                f"a recipe needs a dataset of {RECIPES} and 1 < old_classes < classes, "
                f"got {self.dataset!r}, {self.old_classes} and {self.classes}"
            )

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return asdict(self) | {"fit": self.fit.to_json()}


def load_recipe(name: str) -> Recipe:
    """The recipe that ships under this name. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; use one of {RECIPES}")
    text = (resources.files("fct_fast.demo") / "recipes" / f"{name}.json").read_text(encoding="utf-8")
    return recipe_from_json(json.loads(text))


def recipe_from_json(values: dict[str, Any]) -> Recipe:
    """A recipe from plain JSON values, as `Recipe.to_json` gives them; what is left out has its default.

    Raises ConfigError for a key that does not exist and for a value that its class refuses.
    """
    return built(Recipe, values, "recipe")


def built(kind: type[T], values: Any, where: str) -> T:
    """An instance of a dataclass from a JSON object, its nested dataclasses likewise. where: what messages call it.

    Raises ConfigError as `recipe_from_json`.
    """
    values = _named(values, where)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"{where} has no {', '.join(unknown)}; it knows {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            value = built(hints[name], value, f"{where}.{name}")
        elif hints[name] is FitConfig:
            value = FitConfig(**_named(value, f"{where}.{name}"))
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _named(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object with named values, got {type(values).__name__}")
    return values
