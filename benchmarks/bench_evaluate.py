"""evaluate at the size where the paper's own code needs over 30 GB, and a curve of 22 points beside one evaluation."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Record, peak_memory_mb
from fct_fast import evaluate
from fct_fast.bench import take_turns
from fct_fast.evaluation import backfill_curve
from fct_fast.evaluation.order import random_order


def records(n: int = 50_000, dim: int = 128, classes: int = 1000) -> list[Record]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    found = []
    for name, spread in (("random embeddings (the worst case)", 0.0), ("clustered embeddings", 0.7)):
        rows = rng.standard_normal((n, dim), dtype=np.float32)
        rows += spread * rng.standard_normal((classes, dim), dtype=np.float32)[labels]
        record = Record(f"evaluate, {name}", {"queries": n, "gallery": n, "dim": dim, "classes": classes})
        record.timings = take_turns({"fct_fast": lambda rows=rows: evaluate(rows, rows, labels)}, rounds=2)
        record.figures = {"seconds": record.timings["fct_fast"].median_s, "peak resident MB": peak_memory_mb()}
        found.append(record)
    return [*found, curve_record()]


def curve_record(n: int = 20_000, dim: int = 128, classes: int = 200) -> Record:
    """A partial backfill at 22 points, beside one `evaluate` of the rows before it and one of those after."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    new = rng.standard_normal((classes, dim), dtype=np.float32)[labels] + rng.standard_normal(
        (n, dim), dtype=np.float32
    )
    upgraded = new + rng.standard_normal((n, dim), dtype=np.float32)
    order = random_order(n, 0)
    record = Record("backfill curve of 22 points", {"queries": n, "gallery": n, "dim": dim, "classes": classes})
    record.timings = take_turns(
        {
            "evaluate, upgraded rows": lambda: evaluate(new, upgraded, labels, exclude_self=True),
            "evaluate, new rows": lambda: evaluate(new, new, labels),
            "curve": lambda: backfill_curve(new, upgraded, new, order, labels),
        },
        rounds=5,
    )
    seconds = {name: timing.median_s for name, timing in record.timings.items()}
    record.figures = {
        "curve over evaluate of the upgraded rows": seconds["curve"] / seconds["evaluate, upgraded rows"],
        "curve over evaluate of the new rows": seconds["curve"] / seconds["evaluate, new rows"],
    }
    return record
