"""`run_demo`: train the models, fit h, upgrade a stored gallery by the real engine, and judge the result."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fct_fast.bench import compare_upgrade
from fct_fast.demo.data import EvalSplit, load_data
from fct_fast.demo.gallery import backfill_gallery, claim_folder, store_gallery
from fct_fast.demo.models import seed_of, train_models
from fct_fast.demo.pictures import picture_rows
from fct_fast.demo.recipe import Recipe, load_recipe
from fct_fast.demo.result import DemoResult, Row
from fct_fast.demo.upgrades import INPUTS, fit_all, inputs_of
from fct_fast.errors import ConfigError
from fct_fast.evaluation import Evaluation, evaluate, overlap
from fct_fast.training.embed import embed_views
from fct_fast.training.loop import OnStep
from fct_fast.upgrader import Upgrader

__all__ = ["ProgressFn", "run_demo"]

ProgressFn = Callable[[str, float], None]
"""Called as progress(stage, share of that stage that is done)."""

F32 = npt.NDArray[np.float32]
_REFERENCE_ROWS = 1024  # true new embeddings that the verification of the backfill is given


def run_demo(
    *,
    seed: int = 0,
    quick: bool = False,
    out: Path | None = None,
    split: EvalSplit = "test",
    recipe: Recipe | None = None,
    cache_dir: Path | None = None,
    progress: ProgressFn | None = None,
) -> DemoResult:
    """Run the demo.

    seed: draws the classes, what the old model sees of them, views and weights. quick: scikit-learn's digits in place
    of glyphs, seconds in place of minutes. out: folder for the gallery and the bundle (default: none is kept). split:
    typefaces of the gallery; recipes are tuned on "validation" only. recipe: instead of the one that ships. cache_dir:
    where the drawn glyphs are kept (default: the user's cache folder).
    """
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or more, got {seed}")
    recipe = recipe or load_recipe("digits" if quick else "glyphs")
    if out is not None:
        return _run(recipe, seed, out, split, cache_dir, _Stages(progress), keep=True)
    with tempfile.TemporaryDirectory(prefix="fct-fast-demo-") as folder:
        return _run(recipe, seed, Path(folder), split, cache_dir, _Stages(progress), keep=False)


def _run(
    recipe: Recipe, seed: int, out: Path, split: EvalSplit, cache_dir: Path | None, stages: _Stages, *, keep: bool
) -> DemoResult:
    claim_folder(out)  # before the training, so that a place that cannot be used is found out at once
    stages.begin("draw the images")
    data = load_data(recipe, seed=seed, split=split, cache_dir=cache_dir)
    trained = train_models(data, recipe, seed=seed, on_stage=stages.begin)

    on_step = stages.begin("embed the pairs")
    pairs = embed_views(
        trained.models, data.train, copies=recipe.pair_views, seed=seed_of("pairs", seed), on_step=on_step
    )
    on_step = stages.begin("embed the gallery")
    gallery = embed_views(
        trained.models,
        data.gallery,
        copies=recipe.gallery_views,
        seed=seed_of("gallery", seed),
        keep_images=True,
        on_step=on_step,
    )
    fits = fit_all(pairs, recipe, seed=seed, on_stage=stages.begin)

    on_step = stages.begin("backfill the gallery")
    stored = store_gallery(out, gallery, fits["h_side"], seed=seed)
    old, side, new = (gallery.embeddings[name] for name in ("old", "side", "new"))
    upgraded, backfilled, verification = backfill_gallery(stored, new[:_REFERENCE_ROWS], on_step=on_step)

    on_step = stages.begin("evaluate")
    searches: dict[str, tuple[F32, F32]] = {"naive": (new, old), "old": (old, old), "new": (new, new)}
    searches |= {name: (new, Upgrader(fits[name].transform)(*inputs_of(name, gallery.embeddings))) for name in INPUTS}
    searches["h_side"] = (new, upgraded)
    judged: dict[str, Evaluation] = {}
    for name, (queries, rows) in searches.items():
        judged[name] = evaluate(queries, rows, gallery.labels)
        on_step(len(judged), len(searches))
    seen = gallery.labels < recipe.old_classes

    stages.begin("time the kernel")
    up = Upgrader(stored.bundle)
    kernel_rate, torch_rate = compare_upgrade(up, old, side)
    pictures = picture_rows(
        gallery,
        {"old": searches["old"], "upgraded": searches["h_side"]},
        data.names,
        recipe.old_classes,
        seed=seed,
    )
    seconds = stages.end()
    return DemoResult(
        recipe=recipe,
        seed=seed,
        gallery_source=data.source,
        class_names=data.names,
        pairs=len(pairs.items),
        gallery_rows=len(gallery.items),
        rows={name: _row(result) for name, result in judged.items()},
        rows_seen={name: _row(result.select(seen)) for name, result in judged.items()},
        rows_unseen={name: _row(result.select(~seen)) for name, result in judged.items()},
        overlap=overlap(upgraded, new, k=10).mean,
        kernel_rows_per_s=kernel_rate,
        torch_rows_per_s=torch_rate,
        level=up.level,
        threads=up.threads,
        backfill=backfilled,
        verification=verification,
        pictures=pictures,
        losses=trained.losses | {f"fit {name}": list(fits[name].metrics["loss"]) for name in ("side", "h", "h_side")},
        stages=stages.seconds,
        seconds=seconds,
        artifacts=stored.files() if keep else {},
    )


def _row(result: Evaluation) -> Row:
    return Row(cmc1=float(result.cmc[1]), cmc5=float(result.cmc[5]), map=float(result.map))


class _Stages:
    """Tells the caller what goes on, and keeps the time that each stage took."""

    def __init__(self, progress: ProgressFn | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress or (lambda _stage, _share: None)
        self._start = self._mark = time.perf_counter()
        self._stage = ""

    def begin(self, stage: str) -> OnStep:
        """End the stage before and begin this one; returns what to call with (steps done, steps)."""
        self.end()
        self._stage = stage
        self._progress(stage, 0.0)
        return lambda done, total: self._progress(stage, done / total)

    def end(self) -> float:
        """End the last stage; seconds since the first one began."""
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = now - self._mark
            self._progress(self._stage, 1.0)
        self._mark, self._stage = now, ""
        return now - self._start
