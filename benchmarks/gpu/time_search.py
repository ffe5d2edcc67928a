"""The stage `time-search`: the exact top-k of 1024 queries over ten million rows, beside torch's matmul + topk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.measure import record, timed
from fct_fast import topk
from fct_fast.bench import torch_topk

QUERIES, ROWS, DIM = 1024, 10_000_000, 128
CHUNKS = (65_536, 262_144, 1_000_000)


def large() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(QUERIES, DIM, device="cuda")).half()
    gallery = torch.empty(ROWS, DIM, device="cuda", dtype=torch.half)
    for start in range(0, ROWS, 1 << 20):
        part = torch.randn(min(1 << 20, ROWS - start), DIM, device="cuda")
        gallery[start : start + part.shape[0]] = torch.nn.functional.normalize(part)
    found = []
    for k in (10, 100):
        contenders: dict[str, Callable[[], object]] = {
            "fct_fast, exact": lambda k=k: topk(queries, gallery, k, "ip"),
            "fct_fast, exact, int8 first": lambda k=k: topk(queries, gallery, k, "ip", "int8"),
            "fct_fast, exact, float32 throughout": lambda k=k: topk(queries, gallery, k, "ip", "fp32"),
        }
        for chunk in CHUNKS:
            contenders[f"torch, chunks of {chunk}"] = lambda k=k, chunk=chunk: torch_topk(queries, gallery, k, chunk)
        timings = timed(contenders, rounds=7, warmups=1)
        _, ids = topk(queries, gallery, k, "ip")
        _, theirs = torch_topk(queries, gallery, k, CHUNKS[0])
        same = (ids[:, :, None] == theirs[:, None, :]).any(2).float().mean().item()
        ours = timings["fct_fast, exact"]["median_ms"]
        best = min(t["median_ms"] for who, t in timings.items() if who.startswith("torch"))
        figures = {
            "times torch at its best chunk": best / ours,
            "queries/s": QUERIES / (ours * 1e-3),
            "share of torch's fp16 answer among ours": same,
        }
        found.append(record("top-k", {"queries": QUERIES, "rows": ROWS, "dim": DIM, "k": k}, timings, figures))
    return found
