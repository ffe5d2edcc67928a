"""The stage that re-embeds an upgraded gallery row by row, in every order of `fct_fast.evaluation.order`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.evaluation.curve import backfill_curve
from fct_fast.evaluation.order import (
    class_mean_order,
    density_order,
    norm_order,
    oracle_order,
    random_order,
    residual_order,
    uncertainty_order,
)
from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.experiment.stage import Inputs, Result, Stage

__all__ = ["GALLERIES", "ORDERS", "curves_stage"]

ORDERS = {
    "random": "in any order",
    "uncertainty": "largest predicted uncertainty first (FastFill)",
    "class_mean": "farthest from its class's mean first; needs labels",
    "norm": "smallest norm of the old embedding first",
    "density": "farthest from its neighbours first",
    "residual": "where h and the ridge map disagree most first",
    "oracle": "farthest from its true new embedding first; needs what it makes",
}
"""Order -> what it does."""

GALLERIES = {"h_side": "ridge_side", "h_side_fastfill": "ridge_side", "h_fastfill": "ridge"}
"""Upgraded gallery -> the linear map that reads the same."""

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def curves_stage(recipe: ExperimentRecipe, seed: int) -> Stage:
    """Facts: {gallery: {order: {"shares", "map": a value a point, "auc": {"cmc1", "cmc5", "map"}}}}. Arrays:
    "auc/<gallery>/<order>" float64 [queries], the mean over the points of each query's average precision."""
    inputs = ("rows", "old", "new", *dict.fromkeys(name for pair in GALLERIES.items() for name in pair))
    return Stage("curves", inputs, {"points": recipe.points}, _Curves(recipe.points, seed))


@dataclass(frozen=True)
class _Curves:
    points: int
    seed: int

    def __call__(self, inputs: Inputs) -> Result:
        new, labels = inputs["new"]["gallery"], inputs["rows"]["gallery_labels"]
        facts: dict[str, Any] = {}
        arrays = {}
        for gallery, linear in GALLERIES.items():
            before, facts[gallery] = inputs[gallery]["rows"], {}
            for name, order in self._orders(inputs, gallery, linear, before, labels).items():
                curve = backfill_curve(
                    new, before, new, order(), labels, exclude_self=True, points=self.points, threads=1
                )
                told = {"shares": curve.shares.tolist(), "map": curve.map.tolist(), "auc": dict(curve.auc)}
                facts[gallery][name] = told
                arrays[f"auc/{gallery}/{name}"] = curve.auc_per_query
        return Result(arrays, facts)

    def _orders(
        self, inputs: Inputs, gallery: str, linear: str, before: F32, labels: I64
    ) -> dict[str, Callable[[], I64]]:
        unit = _unit(inputs["new"]["gallery"])  # cosine judges, so the oracle looks at directions too
        orders: dict[str, Callable[[], I64]] = {
            "random": lambda: random_order(len(before), self.seed),
            "class_mean": lambda: class_mean_order(before, labels),
            "norm": lambda: norm_order(inputs["old"]["gallery"]),
            "density": lambda: density_order(before, threads=1),
            "residual": lambda: residual_order(before, inputs[linear]["rows"]),
            "oracle": lambda: oracle_order(before, unit),
        }
        if "s" in inputs[gallery].names:
            orders["uncertainty"] = lambda: uncertainty_order(inputs[gallery]["s"])
        return orders


def _unit(rows: F32) -> F32:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
