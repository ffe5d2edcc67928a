"""evaluate at the size where the paper's own code needs over 30 GB."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Record, interleave, peak_memory_mb
from fct_fast import evaluate


def records(n: int = 50_000, dim: int = 128, classes: int = 1000) -> list[Record]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, n)
    found = []
    for name, spread in (("random embeddings (the worst case)", 0.0), ("clustered embeddings", 0.7)):
        rows = rng.standard_normal((n, dim), dtype=np.float32)
        rows += spread * rng.standard_normal((classes, dim), dtype=np.float32)[labels]
        record = Record(f"evaluate, {name}", {"queries": n, "gallery": n, "dim": dim, "classes": classes})
        record.timings = interleave({"fct_fast": lambda rows=rows: evaluate(rows, rows, labels)}, rounds=2)
        record.figures = {"seconds": record.timings["fct_fast"].median_s, "peak resident MB": peak_memory_mb()}
        found.append(record)
    return found
