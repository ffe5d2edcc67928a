"""A FitConfig that makes no sense cannot be made."""

import json
import math

import pytest

from fct_fast.errors import ConfigError
from fct_fast.training import FitConfig


def test_defaults_are_the_papers_recipe():
    config = FitConfig()
    assert (config.epochs, config.batch_size, config.lr, config.inner_dim) == (80, 1024, 5e-4, 2048)
    assert config.weight_decay == 3.0517578125e-5
    assert config.eval_mode_switch
    assert FitConfig(**json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "options",
    [
        {"method": "mlp"},
        {"inner_dim": 0},
        {"inner_dim": 2.0},
        {"epochs": 0},
        {"epochs": True},
        {"batch_size": 1},
        {"seed": -1},
        {"lr": 0},
        {"lr": math.nan},
        {"lr": "0.1"},
        {"weight_decay": -1},
        {"weight_decay": math.inf},
        {"warmup_epochs": -1},
        {"warmup_epochs": 81},
        {"held_out": -0.1},
        {"held_out": 0.6},
        {"ridge_lambda": -1},
        {"ridge_lambda": math.inf},
        {"device": "tpu"},
        {"held_out": 0, "method": "ridge"},
    ],
)
def test_refuses_what_makes_no_sense(options):
    name = next(iter(options))
    with pytest.raises(ConfigError, match=name):
        FitConfig(**options)


def test_a_ridge_of_given_strength_needs_no_held_out_rows():
    FitConfig(method="ridge", held_out=0, ridge_lambda=0)


def test_the_lists_of_methods_agree():
    """They stand in three places, so that options and help pages are read without torch."""
    from typing import get_args

    from fct_fast.cli import fit as cli
    from fct_fast.training import config, maps

    assert config.CLOSED_FORMS == maps.METHODS
    assert config.NEEDS_STRENGTH == maps.NEEDS_STRENGTH
    assert get_args(config.FitMethod) == config.TRAINED + config.CLOSED_FORMS == cli.METHODS
