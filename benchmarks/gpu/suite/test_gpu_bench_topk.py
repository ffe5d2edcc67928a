"""Exact search on a GPU, its precisions and torch: queries x rows x dim x k (see test_gpu_bench_upgrade.py)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.event_timer import EventTimer
from benchmarks.gpu.time_search import CHUNKS
from fct_fast import topk
from fct_fast.bench import torch_topk

CASES = [
    (1, 10_000_000, 128, 10),
    (1024, 10_000_000, 128, 10),
    (1024, 10_000_000, 128, 100),
    (1024, 1_000_000, 768, 10),
    (256, 1_000_000, 128, 1000),
]


def unit_rows(rows: int, dim: int) -> torch.Tensor:
    found = torch.empty(rows, dim, device="cuda", dtype=torch.half)
    for part in found.split(1 << 20):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device="cuda")))
    return found


@pytest.mark.benchmark(timer=EventTimer())
@pytest.mark.parametrize("contender", ["fp16 first", "int8 first", "fp32", "torch fp16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "{} x {} x {}, k = {}".format(*case))
def test_topk(benchmark, case, contender):
    count, rows, dim, k = case
    torch.manual_seed(0)
    queries, gallery = unit_rows(count, dim), unit_rows(rows, dim)
    benchmark.group = "{} queries x {} x {} of fp16, k = {}".format(*case)
    if contender == "torch fp16":
        benchmark.pedantic(torch_topk, (queries, gallery, k, CHUNKS[0]), rounds=7, warmup_rounds=1)
    else:
        precision = {"fp16 first": "auto", "int8 first": "int8", "fp32": "fp32"}[contender]
        benchmark.pedantic(topk, (queries, gallery, k, "ip", precision), rounds=7, warmup_rounds=1)
    median = benchmark.stats.stats.median
    benchmark.extra_info |= {"queries/s": count / median, "TFLOP/s": 2 * count * rows * dim / median / 1e12}
