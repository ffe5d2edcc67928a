"""All stages of a run: those of each seed and those of the tuning, in an order in which they can be run."""

from __future__ import annotations

from pathlib import Path

from fct_fast.experiment.curves import curves_stage
from fct_fast.experiment.judge import judge_stage
from fct_fast.experiment.maps import map_stages
from fct_fast.experiment.networks import Networks
from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.experiment.stage import Stage, Store
from fct_fast.experiment.tuning import tuning_stages

__all__ = ["TUNING", "open_store", "seed_stages"]

TUNING = "tuning"


def seed_stages(recipe: ExperimentRecipe, seed: int, cache_dir: Path | None = None) -> list[Stage]:
    """cache_dir: where the drawn glyphs are kept (default: the user's cache folder)."""
    networks = Networks(recipe, seed, "test", cache_dir).stages()
    return [*networks, *map_stages(recipe, seed), curves_stage(recipe, seed), judge_stage(recipe, seed)]


def open_store(out: Path, recipe: ExperimentRecipe, part: int | str, cache_dir: Path | None = None) -> Store:
    """The store of a part's stages below `out`; a part is a seed, or TUNING where the recipe has that."""
    folder = out / "stages"
    if isinstance(part, int):
        return Store(folder / f"seed{part}", seed_stages(recipe, part, cache_dir), seed=part, split="test")
    assert recipe.tuning is not None
    stages = tuning_stages(recipe, recipe.tuning, cache_dir)
    return Store(folder / TUNING, stages, seed=recipe.tuning.seed, split="validation")
