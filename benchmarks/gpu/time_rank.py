"""The stage `time-rank`: CMC and full-ranking mAP of 50,000 x 50,000; 500 queries of it against the CPU's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.measure import record, timed
from fct_fast import evaluate

ROWS, DIM = 50_000, 128


def leave_one_out() -> list[dict[str, Any]]:
    """Wall time with the check of rows and the answer's way to the host: no call returns before it is there."""
    torch.manual_seed(0)
    found = []
    for classes in (500, 5):  # 100 and 10,000 positives a query
        labels = np.arange(ROWS) % classes
        centres = torch.randn(classes, DIM, device="cuda")[torch.from_numpy(labels).cuda()]
        rows = torch.nn.functional.normalize(centres + 1.5 * torch.randn(ROWS, DIM, device="cuda"))
        ours = {"fct_fast": lambda rows=rows, labels=labels: evaluate(rows, rows, labels)}
        timings = timed(ours, rounds=5, warmups=1)
        few = slice(0, 500)
        gpu, cpu = (
            evaluate(rows[few].to(place), rows.to(place), labels[few], labels, exclude_self=True)
            for place in ("cuda", "cpu")
        )
        same = float((gpu.average_precision == cpu.average_precision).mean())
        figures = {"mAP": gpu.map, "share of 500 queries with the CPU's bits": same}
        found.append(record("evaluate", {"rows": ROWS, "dim": DIM, "classes": classes}, timings, figures))
    return found
