"""What a precision costs in retrieval. Nothing is timed here.

The demo's h with side-information, seeds 0, 1 and 2: its gallery is upgraded in each precision that this machine has,
and searched by the true new rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import Record
from fct_fast import Upgrader, evaluate, save, topk
from fct_fast.demo.data import load_data
from fct_fast.demo.models import seed_of, train_models
from fct_fast.demo.recipe import load_recipe
from fct_fast.kernels import native, resolve_level
from fct_fast.training import fit
from fct_fast.training.embed import embed_views

SEEDS = (0, 1, 2)


def upgraded(
    seed: int, precisions: list[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """(new [n, dim], labels [n], gallery by precision, relative error to float64 by precision)."""
    recipe = load_recipe("glyphs")
    data = load_data(recipe, seed=seed, split="test", cache_dir=None)
    trained = train_models(data, recipe, seed=seed, on_stage=lambda _: lambda _done, _total: None)
    pairs = embed_views(trained.models, data.train, copies=recipe.pair_views, seed=seed_of("pairs", seed))
    gallery = embed_views(trained.models, data.gallery, copies=recipe.gallery_views, seed=seed_of("gallery", seed))
    fitted = fit(**pairs.embeddings, groups=pairs.items, config=recipe.fit.replace(seed=seed))
    old, side, new = (gallery.embeddings[name] for name in ("old", "side", "new"))
    true = fitted.transform.to_spec().apply_float64(old, side)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "h.safetensors"
        save(fitted, bundle)
        found = {precision: Upgrader(bundle, precision=precision)(old, side) for precision in precisions}
    errors = {name: float(np.linalg.norm(rows - true) / np.linalg.norm(true)) for name, rows in found.items()}
    return new, gallery.labels, found, errors


def records() -> list[Record]:
    precisions = ["fp32", "int8"] + (["bf16"] if native().has_bf16(resolve_level()) else [])
    figures: dict[str, list[float]] = {}
    for seed in SEEDS:
        new, labels, found, errors = upgraded(seed, precisions)
        judged = {name: evaluate(new, rows, labels) for name, rows in found.items()}
        first = {name: topk(new, rows, 2)[1] for name, rows in found.items()}
        own = np.arange(len(new))
        nearest = {name: np.where(ids[:, 0] == own, ids[:, 1], ids[:, 0]) for name, ids in first.items()}
        for name in precisions:
            figures.setdefault(f"{name}: relative error", []).append(errors[name])
            figures.setdefault(f"{name}: CMC@1, points", []).append(100 * judged[name].cmc[1])
            figures.setdefault(f"{name}: mAP, points", []).append(100 * judged[name].map)
            figures.setdefault(f"{name}: queries with another first row, %", []).append(
                100 * float(np.mean(nearest[name] != nearest["fp32"]))
            )
    record = Record("retrieval by precision of the upgrade", {"seeds": "0, 1, 2", "rows": len(new)})
    record.figures = {name: float(np.mean(values)) for name, values in figures.items()}
    for name in precisions[1:]:
        for measure in ("CMC@1", "mAP"):
            each = np.subtract(figures[f"{name}: {measure}, points"], figures[f"fp32: {measure}, points"])
            record.figures[f"{name} - fp32: {measure}, points"] = float(each.mean())
            record.figures[f"{name} - fp32: {measure}, largest of a seed"] = float(np.abs(each).max())
    return [record]
