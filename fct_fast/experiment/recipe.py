"""The recipe of the experiment: every number but the seeds, as YAML files that ship with the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, field_validator

from fct_fast.config import Config
from fct_fast.demo.recipe import BackboneRecipe, Recipe, built
from fct_fast.errors import ConfigError
from fct_fast.side.codec import parse_spec
from fct_fast.training.autoencoder import AutoencoderConfig
from fct_fast.training.vicreg import VICRegConfig

__all__ = [
    "RECIPES",
    "AutoencoderRecipe",
    "ControlRecipe",
    "EncoderRecipes",
    "ExperimentRecipe",
    "LossRecipe",
    "TuningRecipe",
    "VICRegRecipe",
    "WideRecipe",
    "load_recipe",
]

RECIPES = ("glyphs", "quick")
T = TypeVar("T")


def _part(kind: type[T], where: str) -> Callable[[Any], T]:
    """A dataclass from a mapping; one that is built already passes."""
    return lambda values: values if isinstance(values, kind) else built(kind, values, where)


@dataclass(frozen=True)
class VICRegRecipe:
    """A StrideCNN of this many channels and how it is trained."""

    channels: int
    training: VICRegConfig


@dataclass(frozen=True)
class AutoencoderRecipe:
    """A StrideCNN of this many channels and how it is trained; its targets are the clean pictures."""

    channels: int
    training: AutoencoderConfig


_Backbone = Annotated[BackboneRecipe, PlainValidator(_part(BackboneRecipe, "backbone")), PlainSerializer(asdict)]


class EncoderRecipes(Config):
    """What the demo's SimCLR is compared with as side-information; all see what the old model sees.

    supervised: the alternate supervised model, trained as the old one is but from other weights.
    """

    vicreg: Annotated[VICRegRecipe, PlainValidator(_part(VICRegRecipe, "vicreg")), PlainSerializer(asdict)]
    autoencoder: Annotated[
        AutoencoderRecipe, PlainValidator(_part(AutoencoderRecipe, "autoencoder")), PlainSerializer(asdict)
    ]
    supervised: _Backbone


class WideRecipe(Config):
    """An old model with as many bytes an item, and as many steps, as old and side-information model have together."""

    embedding_dim: int = Field(ge=1)
    model: _Backbone


class ControlRecipe(Config):
    """weight: of the term that keeps a new model near the old one. extended: BCT's old classifier has rows for the
    classes that it was not trained on."""

    weight: float = Field(ge=0)
    extended: bool = False


class LossRecipe(Config):
    """Weight of the discriminative term and temperature of InfoNCE in the comparison of losses."""

    discriminative: float = Field(1.0, gt=0)
    temperature: float = Field(0.07, gt=0)


class TuningRecipe(Config):
    """What was tried on the validation typefaces, with `seed`, which no table is made of: as many values for each
    control as for h. lr: of h."""

    seed: int = Field(ge=0)
    bct: tuple[ControlRecipe, ...] = Field(strict=False)
    l2: tuple[ControlRecipe, ...] = Field(strict=False)
    lr: tuple[float, ...] = Field(strict=False)

    @field_validator("bct", "l2", mode="before")
    @classmethod
    def _controls(cls, values: Any) -> Any:
        if not isinstance(values, list | tuple):
            return values
        return tuple(value if isinstance(value, ControlRecipe) else ControlRecipe(**value) for value in values)


class ExperimentRecipe(Config):
    """base: the demo's recipe: classes, views, the old, side-information and new model, pairs, gallery, h.

    bct, l2: the retraining controls, trained as the new model is. third: the model after the new one. codecs: of the
    side-information, see `fct_fast.side`. learning: numbers of pairs. rescale: of the targets, in the scale check.
    points: of a backfill curve. fpr: false-positive rate of the threshold shift.
    """

    name: str
    base: Annotated[Recipe, PlainValidator(_part(Recipe, "base")), PlainSerializer(lambda recipe: recipe.to_json())]
    wide: WideRecipe
    encoders: EncoderRecipes
    bct: ControlRecipe
    l2: ControlRecipe
    third: _Backbone
    losses: LossRecipe = LossRecipe()
    codecs: tuple[str, ...] = Field(strict=False)
    learning: tuple[int, ...] = Field(strict=False)
    rescale: float = Field(37.0, gt=0)
    points: int = Field(22, ge=2)
    fpr: float = Field(1e-3, gt=0, lt=1)
    tuning: TuningRecipe | None = None

    @field_validator("codecs")
    @classmethod
    def _known_codecs(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        for spec in specs:
            parse_spec(spec)
        return specs

    @field_validator("learning")
    @classmethod
    def _enough_pairs(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if any(count < 64 for count in counts):
            raise ValueError(f"fits of the learning curve have at least 64 pairs, got {min(counts)}")
        return counts

    @property
    def hash(self) -> str:
        """SHA-256 of all options, its first 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def load_recipe(name: str | Path) -> ExperimentRecipe:
    """The recipe that ships under this name, or that of a YAML file. Raises ConfigError."""
    if isinstance(name, Path):
        return ExperimentRecipe.from_yaml(name)
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; use one of {', '.join(RECIPES)}")
    text = (resources.files("fct_fast.experiment") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return ExperimentRecipe.from_yaml(text)
