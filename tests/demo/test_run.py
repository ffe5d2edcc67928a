"""The demo on digits, end to end: the order of the rows, honest books, artifacts that the package can use."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fct_fast
from fct_fast.demo import DemoResult, Recipe, load_recipe, run_demo
from fct_fast.demo.result import ROWS
from fct_fast.errors import ConfigError, StoreError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Path, list[tuple[str, float]]]:
    out, told = tmp_path_factory.mktemp("demo"), []
    result = run_demo(seed=100, quick=True, out=out, progress=lambda stage, share: told.append((stage, share)))
    return result, out, told


def test_rows_are_in_order(demo: tuple[DemoResult, Path, list[tuple[str, float]]]) -> None:
    rows = demo[0].rows
    assert list(ROWS) == [name for name in ROWS if name in rows]
    assert rows["naive"].map < 0.3 < rows["old"].map
    assert rows["old"].map + 0.05 < rows["h"].map < rows["h_side"].map < rows["new"].map
    for row in rows.values():
        assert 0 <= row.cmc1 <= row.cmc5 <= 1
        assert 0 <= row.map <= 1
    assert 0 < demo[0].gap_closed < 1
    assert 0 < demo[0].old_over_new < 1


def test_seen_and_unseen_queries_make_up_all(demo: tuple[DemoResult, Path, list[tuple[str, float]]]) -> None:
    result = demo[0]
    labels = np.load(result.artifacts["labels"])
    share = float((labels < result.recipe.old_classes).mean())
    for name, row in result.rows.items():
        parts = share * result.rows_seen[name].map + (1 - share) * result.rows_unseen[name].map
        assert parts == pytest.approx(row.map, abs=1e-9)
    assert result.rows_seen["old"].map > result.rows_unseen["old"].map


def test_artifacts_reproduce_the_table(demo: tuple[DemoResult, Path, list[tuple[str, float]]]) -> None:
    """The files alone give the h_side row: the gallery that was judged is the one that the engine wrote."""
    result, out, _ = demo
    assert all(path.is_file() and path.is_relative_to(out) for path in result.artifacts.values())
    arrays = {name: np.load(path) for name, path in result.artifacts.items() if name != "bundle"}
    spec = fct_fast.load(result.artifacts["bundle"]).to_spec()
    np.testing.assert_allclose(arrays["upgraded"], spec.apply_float64(arrays["old"], arrays["side"]), atol=1e-5)
    again = fct_fast.evaluate(arrays["new"], arrays["upgraded"], arrays["labels"])
    assert again.map == pytest.approx(result.rows["h_side"].map, abs=1e-12)
    assert result.verification["passed"]
    assert (out / "gallery" / "live.json").is_file()


def test_pictures_show_what_the_gallery_holds(demo: tuple[DemoResult, Path, list[tuple[str, float]]]) -> None:
    pictures = demo[0].pictures
    assert len({row.query.label for row in pictures}) == len(pictures) == 8
    assert sum(row.seen for row in pictures) == 4
    for row in pictures:
        assert len(row.old) == len(row.upgraded) == 5
        for hit in (*row.old, *row.upgraded):
            assert hit.right == (hit.label == row.query.label)
            assert hit.image.shape == (8, 8)
            assert hit.image.dtype == np.uint8


def test_progress_and_books(demo: tuple[DemoResult, Path, list[tuple[str, float]]]) -> None:
    result, _, told = demo
    assert list(dict(told)) == list(result.stages)
    for stage in result.stages:
        shares = [share for name, share in told if name == stage]
        assert shares[0] == 0.0
        assert shares[-1] == 1.0
        assert shares == sorted(shares)
    assert sum(result.stages.values()) == pytest.approx(result.seconds, rel=0.05)
    document = result.to_json(Path("report.html"))
    assert json.loads(json.dumps(document)) == document
    assert list(document) == [
        "rows",
        "old_over_new",
        "gap_closed",
        "kernel_rows_per_s",
        "torch_rows_per_s",
        "seconds",
        "report",
    ]
    assert set(document["rows"]) == {"naive", "old", "side", "linear", "linear_side", "h", "h_side", "new"}


def test_output_folder(tmp_path: Path) -> None:
    """An earlier demo's gallery is replaced, anything else is left alone; with no folder nothing is kept."""
    recipe = _tiny()
    for seed in (100, 101):
        result = run_demo(seed=seed, recipe=recipe, out=tmp_path)
        assert result.artifacts["upgraded"].is_file()
    assert run_demo(seed=100, recipe=recipe).artifacts == {}

    foreign = tmp_path / "mine" / "gallery"
    foreign.mkdir(parents=True)
    (foreign / "precious").write_text("x")
    with pytest.raises(StoreError, match="not made by a demo"):
        run_demo(seed=100, recipe=recipe, out=tmp_path / "mine")
    assert (foreign / "precious").read_text() == "x"


def test_the_seed_decides() -> None:
    rows = [run_demo(seed=seed, recipe=_tiny()).rows for seed in (100, 100, 101)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    with pytest.raises(ConfigError, match="seed"):
        run_demo(seed=-1, quick=True)


def _tiny() -> Recipe:
    recipe = load_recipe("digits")
    return replace(
        recipe,
        old=replace(recipe.old, training=replace(recipe.old.training, steps=30)),
        side=replace(recipe.side, training=replace(recipe.side.training, steps=30)),
        new=replace(recipe.new, training=replace(recipe.new.training, steps=30)),
        fit=recipe.fit.replace(epochs=4, warmup_epochs=0.0),
        pair_views=1,
    )
