"""The demo: from images to an upgraded, searchable gallery, on a CPU, with no download."""

from fct_fast.demo.recipe import Recipe, load_recipe
from fct_fast.demo.result import DemoResult
from fct_fast.demo.run import run_demo

__all__ = ["DemoResult", "Recipe", "load_recipe", "run_demo"]
