"""A stage's file is found again while nothing that it depends on has changed, and never after; damage is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fct_fast.errors import CorruptError
from fct_fast.experiment import stage as module
from fct_fast.experiment.stage import Inputs, Result, Stage, Store


def first(_: Inputs) -> Result:
    return Result({"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([3, 4])}, {"said": "hello"})


def second(inputs: Inputs) -> Result:
    return Result({"double": inputs["first"]["x"] * 2})


def store(folder: Path, *, a: Any = 1, b: Any = 1, seed: int = 0, split: str = "test") -> Store:
    stages = [Stage("first", (), {"a": a}, first), Stage("second", ("first",), {"b": b}, second)]
    return Store(folder, stages, seed=seed, split=split)


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    one = store(tmp_path)
    assert not one.done("first")
    one.compute("first")
    one.compute("second")
    found = store(tmp_path).load("first")
    assert found.facts == {"said": "hello"}
    assert found["x"].dtype == np.float32
    assert found["n"].tolist() == [3, 4]
    assert store(tmp_path).load("second")["double"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert found.seconds >= 0


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({}, (False, False)),
        ({"a": 2}, (True, True)),  # what comes after depends on it too
        ({"b": 2}, (False, True)),
        ({"seed": 1}, (True, True)),
        ({"split": "validation"}, (True, True)),
    ],
)
def test_keys_change_with_what_a_stage_depends_on(
    tmp_path: Path, change: dict[str, Any], changed: tuple[bool, bool]
) -> None:
    before, after = store(tmp_path), store(tmp_path, **change)
    assert tuple(before.path(name) != after.path(name) for name in ("first", "second")) == changed


def test_keys_change_with_the_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store(tmp_path).path("first")
    monkeypatch.setattr(module, "__version__", "99")
    assert store(tmp_path).path("first") != before


def flip(content: bytearray) -> None:
    content[-3] ^= 1


def cut(content: bytearray) -> None:
    del content[-5:]


def empty(content: bytearray) -> None:
    content.clear()


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_file_is_named_and_not_used(tmp_path: Path, damage: Callable[[bytearray], None]) -> None:
    one = store(tmp_path)
    one.compute("first")
    content = bytearray(one.path("first").read_bytes())
    damage(content)
    one.path("first").write_bytes(content)
    with pytest.raises(CorruptError, match=f"{one.path('first').name} is damaged .*remove it and run again"):
        store(tmp_path).load("first").check()


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(_: Inputs) -> Result:
        raise ValueError("no")

    one = Store(tmp_path, [Stage("fails", (), {}, fails)], seed=0, split="test")
    with pytest.raises(ValueError):
        one.compute("fails")
    assert not one.done("fails")
    assert list(tmp_path.iterdir()) == []
