"""A recipe of seconds, its finished run over two seeds, and a document with numbers of the test's choosing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fct_fast.experiment import Experiment, ExperimentRecipe, load_recipe, run_stages, summarise
from fct_fast.experiment.recipe import TuningRecipe

LOOP = {"batch_size": 32, "learning_rate": 0.1}


def tiny_values() -> dict[str, Any]:
    """The shipped quick recipe, made smaller still, with a tuning."""
    values = load_recipe("quick").to_json()
    base = values["base"]
    base |= {"classes": 10, "old_classes": 5, "embedding_dim": 8, "pair_views": 3, "gallery_views": 2}
    base["views"]["size"] = 8
    base["fit"] |= {"inner_dim": 16, "epochs": 2, "batch_size": 64, "warmup_epochs": 0.5, "held_out": 0.1}
    backbone = {"channels": 2, "training": {"steps": 4, **LOOP}}
    for name in ("old", "side", "new"):
        base[name] = copy.deepcopy(backbone)
    values["wide"] = {"embedding_dim": 16, "model": copy.deepcopy(backbone)}
    values["third"] = copy.deepcopy(backbone)
    values["encoders"] = {name: copy.deepcopy(backbone) for name in values["encoders"]}
    values["encoders"]["vicreg"]["training"]["learning_rate"] = 0.01
    tuning = {
        "seed": 9,
        "bct": [{"weight": 0.5}, {"weight": 1.0, "extended": True}],
        "l2": [{"weight": 1.0}, {"weight": 9.0}],
    }
    values |= {
        "codecs": ["pca4", "binary"],
        "learning": [80],
        "points": 4,
        "fpr": 0.05,
        "tuning": tuning | {"lr": [0.005, 0.01]},
    }
    return values


@pytest.fixture(scope="session")
def tiny() -> ExperimentRecipe:
    return ExperimentRecipe(**tiny_values())


@pytest.fixture(scope="session")
def glyph_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glyphs")


@pytest.fixture(scope="session")
def finished(tiny: ExperimentRecipe, tmp_path_factory: pytest.TempPathFactory, glyph_cache: Path) -> Experiment:
    """The whole of it over seeds 0 and 1, never disturbed."""
    return run_stages(tiny, seeds=(0, 1), out=tmp_path_factory.mktemp("finished"), jobs=1, cache_dir=glyph_cache)


@pytest.fixture(scope="session")
def summary(finished: Experiment) -> dict[str, Any]:
    facts = {"command": "fct-fast train glyphs --out DIR", "commit": None, "versions": {"torch": "0"}}
    return summarise(finished) | facts


@pytest.fixture
def made_up(summary: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """made_up(**{"a - b": (mean, low, high)}): the summary with other differences."""

    def make(**differences: tuple[float, float, float]) -> dict[str, Any]:
        document = copy.deepcopy(summary)
        for found in document["differences"]:
            named = {document["best"]: "best"}
            name = " - ".join(named.get(found[x], found[x]) if x in "ab" else "" for x in "ab")
            if name in differences:
                found["mean"], found["low"], found["high"] = differences.pop(name)
        assert not differences, f"there is no difference {differences}"
        return document

    return make


__all__ = ["TuningRecipe", "tiny_values"]
