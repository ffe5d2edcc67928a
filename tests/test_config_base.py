"""Options are checked when they are made, and a mistake is one sentence that names the option."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from fct_fast.config import Config
from fct_fast.errors import ConfigError


class Inner(Config):
    share: float = Field(0.5, ge=0, le=1)


class Outer(Config):
    steps: int
    name: str = "x"
    inner: Inner = Inner()


def test_yaml_and_json_round_trip(tmp_path: Path):
    config = Outer(steps=3, inner=Inner(share=0.25))
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert Outer.from_yaml(tmp_path / "c.yaml") == config
    assert Outer.from_yaml("steps: 3\ninner: {share: 0.25}") == config
    assert Outer(**config.to_json()) == config
    assert Outer.from_yaml("steps: 3", steps=4).steps == 4
    assert config.replace(steps=5) == Outer(steps=5, inner=Inner(share=0.25))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "steps is missing"),
        ({"steps": "3"}, "steps must be a valid integer, got '3'"),
        ({"steps": 3, "stesp": 4}, "no option stesp; there are steps, name, inner"),
        ({"steps": 3, "inner": {"share": 2}}, r"inner.*share must be less than or equal to 1, got 2"),
        ({"steps": 3, "inner": {"shaer": 1}}, r"inner.*no option shaer; there are share"),
        ({"steps": 3, "inner": {"share": float("nan")}}, "share"),
    ],
)
def test_mistakes_are_named(values, says):
    with pytest.raises(ConfigError, match=says):
        Outer(**values)


@pytest.mark.parametrize("text", ["- 1", "steps: [", "1: 2", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_yaml_of_options_is_refused(text):
    with pytest.raises(ConfigError):
        Outer.from_yaml(text)


def test_a_change_is_checked_and_a_config_is_frozen(tmp_path: Path):
    with pytest.raises(ConfigError, match="steps"):
        Outer(steps=1).replace(steps=None)
    with pytest.raises(ValueError, match="frozen"):
        Outer(steps=1).steps = 2
    with pytest.raises(ConfigError, match="cannot read"):
        Outer.from_yaml(tmp_path / "none.yaml")
