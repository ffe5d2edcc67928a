"""The stage that judges one seed: every row's retrieval on the test typefaces, and what an upgrade changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.evaluation import (
    Evaluation,
    compatibility_matrix,
    evaluate,
    flips,
    overlap,
    threshold_shift,
)
from fct_fast.experiment.maps import map_specs
from fct_fast.experiment.recipe import ExperimentRecipe
from fct_fast.experiment.stage import Inputs, Result, Stage

__all__ = ["judge_stage"]

F32 = npt.NDArray[np.float32]
_THRESHOLD_PAIRS = 2_000_000
_NETWORKS = ("old", "new", "bct", "l2", "wide", "third", "simclr", "supervised")


@dataclass(frozen=True)
class _Row:
    """queries, gallery: float32 [rows, dim] of one space; upgraded: the gallery stands for the re-embedded one."""

    queries: F32
    gallery: F32
    upgraded: bool = False


def judge_stage(recipe: ExperimentRecipe, seed: int) -> Stage:
    """Facts: "rows" {name: {"cmc1", "cmc5", "map", "map_seen", "map_unseen", "overlap" or None}}, "flips", "threshold",
    "matrix", "maps" (what each fit says of itself). Arrays: "ap/<row>" float64 [queries]."""
    maps = [spec.name for spec in map_specs(recipe, seed)]
    judged = _Judge(recipe, seed, tuple(maps))
    options = {"fpr": recipe.fpr, "known": recipe.base.old_classes}
    return Stage("judge", ("rows", *_NETWORKS, *maps, "chain", "query_interpolation"), options, judged)


@dataclass(frozen=True)
class _Judge:
    recipe: ExperimentRecipe
    seed: int
    maps: tuple[str, ...]

    def __call__(self, inputs: Inputs) -> Result:
        given = inputs["rows"]
        labels = given["gallery_labels"]
        seen = labels < self.recipe.base.old_classes
        galleries = {name: inputs[name]["gallery"] for name in _NETWORKS}
        rows = _rows(inputs, galleries, self.maps)
        judged: dict[str, Evaluation] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name, row in rows.items():
            found = judged[name] = evaluate(row.queries, row.gallery, labels, exclude_self=True, threads=1)
            facts[name] = {
                "cmc1": found.cmc[1],
                "cmc5": found.cmc[5],
                "map": found.map,
                "map_seen": found.select(seen).map,
                "map_unseen": found.select(~seen).map,
                "overlap": overlap(row.gallery, row.queries, k=10, threads=1).mean if row.upgraded else None,
            }
        own = asdict(
            threshold_shift(
                (galleries["old"], galleries["old"]),
                (galleries["new"], rows["h_side"].gallery),
                labels,
                fpr=self.recipe.fpr,
                max_pairs=_THRESHOLD_PAIRS,
                seed=self.seed,
            )
        )
        spaces = {"old": galleries["old"], "h_side": rows["h_side"].gallery, "new": galleries["new"]}
        matrix = compatibility_matrix(spaces, labels, threads=1)
        document = {
            "rows": facts,
            "flips": {
                name: asdict(flips(judged["old"], judged[name]))
                for name in ("h", "h_side", "bct", "query_interpolation", "new")
            },
            "threshold": own,
            "matrix": {"spaces": list(spaces), "map": matrix.values("map").tolist(), "cmc1": matrix.values(1).tolist()},
            "maps": {name: inputs[name].facts for name in (*self.maps, "chain", "query_interpolation")},
            "networks": {name: inputs[name].facts for name in _NETWORKS},
            "gallery": {"rows": len(labels), "classes": len(np.unique(labels)), "source": given.facts["source"]},
            "pairs": len(given["pair_labels"]),
        }
        return Result({f"ap/{name}": found.average_precision for name, found in judged.items()}, document)


def _rows(inputs: Inputs, galleries: Mapping[str, F32], maps: tuple[str, ...]) -> dict[str, _Row]:
    """Every row of the tables."""
    old, new, third = galleries["old"], galleries["new"], galleries["third"]
    rows = {
        "naive": _Row(new, old),
        "old": _Row(old, old),
        "new": _Row(new, new),
        "bct": _Row(galleries["bct"], old),
        "bct_new": _Row(galleries["bct"], galleries["bct"]),
        "l2": _Row(galleries["l2"], old),
        "l2_new": _Row(galleries["l2"], galleries["l2"]),
        "wide": _Row(galleries["wide"], galleries["wide"]),
        "simclr": _Row(galleries["simclr"], galleries["simclr"]),
        "supervised": _Row(galleries["supervised"], galleries["supervised"]),
        "third": _Row(third, third),
        "chain_composed": _Row(third, inputs["chain"]["rows"], True),
        "chain_true": _Row(third, inputs["chain"]["true"], True),
        "query_interpolation": _Row(inputs["query_interpolation"]["rows"], old),
    }
    for name in maps:
        mapped = inputs[name]["rows"]
        if name.startswith("query_"):
            rows[name] = _Row(mapped, old)
        else:
            rows[name] = _Row(third if name == "h_third" else new, mapped, True)
    return rows
