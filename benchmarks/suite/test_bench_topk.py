"""Exact search, its precisions and its peers: queries x rows x dim x k (see test_bench_upgrade.py)."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from fct_fast import prepare_gallery, topk
from fct_fast.bench import torch_topk
from fct_fast.kernels import usable_threads

CASES = [
    (1, 200_000, 128, 10),
    (16, 200_000, 128, 100),
    (256, 200_000, 128, 10),
    (64, 50_000, 768, 10),
    (64, 200_000, 128, 1000),
]


@pytest.mark.parametrize("contender", ["fp32", "fp32 prepared", "int8 prepared", "faiss-cpu", "torch"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "{} x {} x {}, k = {}".format(*case))
def test_topk(benchmark, case, contender):
    count, rows, dim, k = case
    rng = np.random.default_rng(0)
    queries, gallery = (rng.standard_normal((n, dim), dtype=np.float32) for n in (count, rows))
    benchmark.group = "{} queries x {} x {}, k = {}".format(*case)
    if contender == "faiss-cpu":
        faiss.omp_set_num_threads(usable_threads(None))
        index = faiss.IndexFlatIP(dim)
        index.add(gallery)
        benchmark(index.search, queries, k)
    elif contender == "torch":
        benchmark(torch_topk, torch.from_numpy(queries), torch.from_numpy(gallery), k)
    else:
        precision, _, form = contender.partition(" ")
        searched = prepare_gallery(gallery, "ip", precision=precision) if form else gallery
        benchmark(topk, queries, searched, k, "ip")
    median = benchmark.stats.stats.median
    benchmark.extra_info |= {"queries/s": count / median, "GFLOP/s": 2 * count * rows * dim / median / 1e9}
