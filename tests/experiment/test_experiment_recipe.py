"""The recipes that ship are whole, the experiment's base is the demo's, and a mistake in a recipe is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fct_fast.demo import load_recipe as load_demo_recipe
from fct_fast.errors import ConfigError
from fct_fast.experiment import RECIPES, ExperimentRecipe, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_load_and_survive_yaml(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    again = ExperimentRecipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.hash == recipe.hash


def test_the_protocol_is_the_demos() -> None:
    assert load_recipe("glyphs").base == load_demo_recipe("glyphs")


def test_the_controls_have_as_many_trials_as_h_and_use_the_values_that_were_tried() -> None:
    recipe = load_recipe("glyphs")
    tuning = recipe.tuning
    assert tuning is not None
    assert len(tuning.bct) == len(tuning.l2) == len(tuning.lr)
    assert recipe.bct in tuning.bct
    assert recipe.l2 in tuning.l2
    assert recipe.base.fit.lr in tuning.lr
    assert tuning.seed > 50


def test_encoders_have_equal_steps_and_the_wide_model_equal_bytes() -> None:
    recipe = load_recipe("glyphs")
    encoders = recipe.encoders
    for encoder in (encoders.vicreg, encoders.autoencoder, encoders.supervised):
        assert (encoder.channels, encoder.training.steps) == (
            recipe.base.side.channels,
            recipe.base.side.training.steps,
        )
    assert recipe.wide.embedding_dim == 2 * recipe.base.embedding_dim
    steps = [part.training.steps for part in (recipe.base.old, recipe.base.side, recipe.wide.model)]
    assert steps[2] == steps[0] + steps[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "no option colour"),
        ({"codecs": ["pca4", "zip"]}, "no codec step 'zip'"),
        ({"learning": [3]}, "at least 64 pairs"),
        ({"bct": {"weight": 1.0, "wait": 1.0}}, "no option wait"),
        ({"third": {"channels": 2, "training": {"stepps": 1}}}, "has no stepps"),
        ({"points": "many"}, "points must be"),
        ({"fpr": 0.0}, "fpr must be"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExperimentRecipe(**(load_recipe("quick").to_json() | change))


def test_a_mistake_inside_the_base_is_named() -> None:
    values = load_recipe("quick").to_json()
    values["base"]["fit"]["speed"] = 3
    with pytest.raises(ConfigError, match="no option speed"):
        ExperimentRecipe(**values)
    with pytest.raises(ConfigError, match="no recipe 'nothing'"):
        load_recipe("nothing")


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(load_recipe("quick").replace(points=5).to_yaml())
    assert load_recipe(path).points == 5
    assert load_recipe(path).hash != load_recipe("quick").hash
