"""A run that was stopped goes on to the results of one that was not; what is done is not done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fct_fast.errors import ConfigError
from fct_fast.experiment import Experiment, ExperimentRecipe, run_stages


def same(a: Experiment, b: Experiment, part: int | str = 0) -> None:
    """Every array and every fact of a part."""
    for name in a.stores[part].stages:
        one, other = a.stores[part].load(name), b.stores[part].load(name)
        assert one.facts == other.facts, name
        assert one.names == other.names
        for array in one.names:
            np.testing.assert_array_equal(one[array], other[array], err_msg=f"{name} {array}")


class Stopped(BaseException):
    """Not an error: what a signal does."""


def test_a_stopped_run_goes_on_to_the_same_results(
    tiny: ExperimentRecipe, finished: Experiment, tmp_path: Path, glyph_cache: Path
) -> None:
    told: list[tuple[int | str, str]] = []

    def stop(done: int, total: int, part: int | str, name: str, seconds: float) -> None:
        told.append((part, name))
        if len(told) in (5, 20):
            raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            run_stages(tiny, seeds=(0,), out=tmp_path, jobs=1, cache_dir=glyph_cache, on_stage=stop)
    assert len(told) == len(set(told)) == 20
    last = run_stages(tiny, seeds=(0,), out=tmp_path, jobs=1, cache_dir=glyph_cache, on_stage=stop)
    assert last.reused == 20
    same(last, finished)
    same(last, finished, "tuning")


def test_a_changed_recipe_computes_what_depends_on_it_and_no_more(
    tiny: ExperimentRecipe, finished: Experiment, glyph_cache: Path
) -> None:
    out = finished.stores[0].path("rows").parents[2]
    told: list[str] = []
    longer = tiny.replace(points=5)
    run_stages(longer, seeds=(0,), out=out, jobs=1, cache_dir=glyph_cache, on_stage=lambda *at: told.append(at[3]))
    assert told == ["curves"]
    again = run_stages(tiny, seeds=(0, 1), out=out, jobs=1, cache_dir=glyph_cache)
    assert again.reused == sum(len(store.stages) for store in again.stores.values())


@pytest.mark.parametrize("seeds", [(), (-1,), (2, 2)])
def test_seeds_are_checked(tiny: ExperimentRecipe, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="different seeds"):
        run_stages(tiny, seeds=seeds, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_seed_decides_everything(finished: Experiment) -> None:
    rows = [finished.stores[seed].load("h_side")["rows"] for seed in (0, 1)]
    assert not np.array_equal(*rows)
