"""From the stages of every seed to one JSON document: means, intervals over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.evaluation import paired_interval, seeds_interval
from fct_fast.experiment.plan import TUNING
from fct_fast.experiment.price import price_list
from fct_fast.experiment.run import Experiment
from fct_fast.experiment.stage import Stored
from fct_fast.training.config import CLOSED_FORMS

__all__ = ["LEVEL", "difference", "statistic", "summarise"]

LEVEL = 0.95
METRICS = ("cmc1", "cmc5", "map", "map_seen", "map_unseen", "overlap")

# (a, b): the mean of a - b is told with its interval. "best" is the best closed-form map without side-information.
PAIRS = (
    ("best", "old"),
    ("h", "best"),
    ("h_side", "h"),
    ("new", "h_side"),
    ("h", "old"),
    ("h", "ridge"),
    ("h", "residual"),
    ("h_twice", "h"),
    ("h_side", "old"),
    ("h_side", "side"),
    ("h_side", "ridge_side"),
    ("h_side", "residual_side"),
    ("ridge_side", "ridge"),
    ("h_side", "wide"),
    ("h_side", "h_wide"),
    ("h_side", "query_interpolation"),
    ("query_interpolation", "old"),
    ("bct", "old"),
    ("l2", "old"),
    ("h_side", "bct"),
    ("h_side", "l2"),
    ("bct_new", "new"),
    ("l2_new", "new"),
    ("h_side_disc", "h_side"),
    ("h_side_fastfill", "h_side_disc"),
    ("h_side_fastfill", "h_side"),
    ("h_side_uncertainty", "h_side"),
    ("h_side_l1", "h_side"),
    ("h_side_cosine", "h_side"),
    ("h_side_infonce", "h_side"),
    ("h_fastfill", "h"),
    ("h_vicreg", "h_side"),
    ("h_autoencoder", "h_side"),
    ("h_supervised", "h_side"),
    ("chain_composed", "h_third"),
    ("h_third", "old"),
    ("h_side@unit", "h_side"),
    ("h_side@rescaled", "h_side"),
)


def statistic(values: Sequence[float]) -> dict[str, Any]:
    """{"mean", "low", "high", "values"}: Student's t interval of the mean over seeds, None for a single seed."""
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        return {"mean": numbers[0], "low": None, "high": None, "values": numbers}
    found = seeds_interval(numbers, level=LEVEL)
    return {"mean": found.mean, "low": found.low, "high": found.high, "values": numbers}


def difference(a: Sequence[float], b: Sequence[float]) -> dict[str, Any]:
    """`statistic` of a - b, seed by seed."""
    return statistic([x - y for x, y in zip(a, b, strict=True)])


def summarise(experiment: Experiment) -> dict[str, Any]:
    """Everything that the tables and sentences of the results are made of, as plain JSON values."""
    recipe = experiment.recipe
    stores = {part: store for part, store in experiment.stores.items() if part != TUNING}
    judges = [store.load("judge") for store in stores.values()]
    curves = [store.load("curves") for store in stores.values()]
    facts = [judge.facts for judge in judges]
    rows = {
        name: {
            metric: statistic([fact["rows"][name][metric] for fact in facts])
            for metric in METRICS
            if row[metric] is not None
        }
        for name, row in facts[0]["rows"].items()
    }
    for row in rows.values():
        row["gap"] = statistic(
            [
                (x - old) / (new - old) if new != old else 0.0
                for x, old, new in zip(*(r["map"]["values"] for r in (row, rows["old"], rows["new"])), strict=True)
            ]
        )
    best = max(CLOSED_FORMS, key=lambda name: float(rows[name]["map"]["mean"]))
    labels = [store.load("rows")["gallery_labels"] for store in stores.values()]
    pairs = dict.fromkeys(tuple(best if name == "best" else name for name in pair) for pair in PAIRS)
    document: dict[str, Any] = {
        "recipe_name": recipe.name,
        "recipe_hash": recipe.hash,
        "recipe": recipe.to_json(),
        "seeds": list(stores),
        "level": LEVEL,
        "gallery": facts[0]["gallery"],
        "pairs": facts[0]["pairs"],
        "rows": rows,
        "best": best,
        "differences": [_paired(a, b, rows, judges, labels) for a, b in pairs],
        "flips": _nested(facts, "flips", ("negative", "positive")),
        "threshold": {
            point: {name: statistic([fact["threshold"][point][name] for fact in facts]) for name in values}
            for point, values in facts[0]["threshold"].items()
            if isinstance(values, dict)
        },
        "matrix": {
            "spaces": facts[0]["matrix"]["spaces"],
            **{m: np.mean([fact["matrix"][m] for fact in facts], axis=0).tolist() for m in ("map", "cmc1")},
        },
        "curves": _curves([curve.facts for curve in curves]),
        "side_bytes": {name: facts[0]["maps"][name].get("side_bytes", 0) for name in facts[0]["maps"]},
        "flops": {name: facts[0]["maps"][name].get("flops") for name in facts[0]["maps"]},
        "networks": facts[0]["networks"],
        "share": statistic([fact["maps"]["query_interpolation"]["share"] for fact in facts]),
        "tuning": _tuning(experiment),
        "price": price_list(recipe),
        "processor_seconds": _seconds(experiment),
    }
    return document


def _paired(
    a: str,
    b: str,
    rows: Mapping[str, Any],
    judges: Sequence[Stored],
    labels: Sequence[npt.NDArray[np.int64]],
) -> dict[str, Any]:
    """mAP of a - b: over seeds, and by a bootstrap over the classes of all seeds."""
    found = difference(rows[a]["map"]["values"], rows[b]["map"]["values"])
    precisions = [np.concatenate([judge[f"ap/{name}"] for judge in judges]) for name in (a, b)]
    groups = np.concatenate([seed * 1_000_000 + own for seed, own in enumerate(labels)])
    boot = paired_interval(*precisions, groups=groups, level=LEVEL)
    return {"a": a, "b": b, **found, "bootstrap": [boot.low, boot.high]}


def _nested(facts: Sequence[Mapping[str, Any]], name: str, measures: Sequence[str]) -> dict[str, Any]:
    return {
        row: {measure: statistic([fact[name][row][measure] for fact in facts]) for measure in measures}
        for row in facts[0][name]
    }


def _curves(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{gallery: {order: {"shares", "map": means, "auc": {metric: statistic}, "above_random": statistic of the AUC of
    mAP}}}."""

    def over_seeds(gallery: str, order: str, value: Callable[[Any], float]) -> list[float]:
        return [value(fact[gallery][order]) for fact in facts]

    found: dict[str, Any] = {}
    for gallery, orders in facts[0].items():
        auc = {order: over_seeds(gallery, order, lambda curve: curve["auc"]["map"]) for order in orders}
        found[gallery] = {
            order: {
                "shares": curve["shares"],
                "map": np.mean([fact[gallery][order]["map"] for fact in facts], axis=0).tolist(),
                "auc": {
                    metric: statistic([fact[gallery][order]["auc"][metric] for fact in facts])
                    for metric in curve["auc"]
                },
                "above_random": difference(auc[order], auc["random"]),
            }
            for order, curve in orders.items()
        }
    return found


def _tuning(experiment: Experiment) -> dict[str, Any] | None:
    return dict(experiment.stores[TUNING].load("judge").facts) if TUNING in experiment.stores else None


def _seconds(experiment: Experiment) -> dict[str, float]:
    """Processor time of all stages by kind, summed over seeds; it is what the run costs on one core."""
    seconds = {"networks": 0.0, "maps": 0.0, "judge": 0.0, "tuning": 0.0}
    for part, store in experiment.stores.items():
        for name in store.stages:
            stored = store.load(name)
            if part == TUNING:
                kind = "tuning"
            elif name in ("judge", "curves"):
                kind = "judge"
            else:
                kind = "networks" if "gallery" in stored.names or name == "rows" else "maps"
            seconds[kind] += stored.seconds
    return seconds
