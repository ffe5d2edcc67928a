"""The experiment: every row of the results over several seeds, from the recipe to the page, on a CPU."""

from fct_fast.experiment.claims import claims
from fct_fast.experiment.document import results_page, row_titles
from fct_fast.experiment.recipe import RECIPES, ExperimentRecipe, load_recipe
from fct_fast.experiment.run import Experiment, run_stages
from fct_fast.experiment.summary import summarise

__all__ = [
    "RECIPES",
    "Experiment",
    "ExperimentRecipe",
    "claims",
    "load_recipe",
    "results_page",
    "row_titles",
    "run_stages",
    "summarise",
]
