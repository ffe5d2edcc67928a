"""Recipes: those that ship are whole and consistent, and a mistake in one is named."""

import json

import pytest

from fct_fast.demo.recipe import RECIPES, Recipe, load_recipe, recipe_from_json
from fct_fast.errors import ConfigError


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.dataset == name
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_mistakes_are_named() -> None:
    good = load_recipe("digits").to_json()
    with pytest.raises(ConfigError, match=r"recipe\.side\.training has no temprature"):
        recipe_from_json({**good, "side": {"channels": 8, "training": {"steps": 5, "temprature": 1}}})
    with pytest.raises(ConfigError, match=r"recipe\.old must be an object"):
        recipe_from_json({**good, "old": 3})
    with pytest.raises(ConfigError, match=r"missing.*channels"):
        recipe_from_json({**good, "old": {"training": good["old"]["training"]}})
    with pytest.raises(ConfigError, match="old_classes < classes"):
        recipe_from_json({**good, "old_classes": 10})
    with pytest.raises(ConfigError, match="no recipe 'nothing'"):
        load_recipe("nothing")
