"""The search on a GPU against the CPU's kernel, whose scores it must give bit for bit, whatever path ran."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_support import generator, gpu_tests, inputs_of, rows_of, spec_of

from fct_fast import Upgrader, topk
from fct_fast import search as search_room

pytestmark = gpu_tests

METRICS = ["cosine", "ip", "l2"]


def check(queries: np.ndarray, gallery: np.ndarray, k: int, metric: str, precision: str = "auto") -> None:
    want_scores, want_ids = topk(queries, gallery, k, metric, device="cpu")
    scores, ids = topk(torch.from_numpy(queries).cuda(), torch.from_numpy(gallery).cuda(), k, metric, precision)
    assert scores.device.type == ids.device.type == "cuda"
    np.testing.assert_array_equal(ids.cpu().numpy(), want_ids)
    np.testing.assert_array_equal(scores.cpu().numpy(), want_scores)


@pytest.mark.parametrize(
    ("metric", "precision"), [(m, p) for m in METRICS for p in ("auto", "fp32", "int8") if (m, p) != ("l2", "int8")]
)
@pytest.mark.parametrize("k", [1, 10, 100, 128, 129, 1000, 2048])
def test_the_cpus_answer_over_shapes(metric, k, precision):
    draw = generator(k)
    for _ in range(6):
        n = int(draw.integers(k, 60000))
        nq, dim = int(draw.integers(1, 80)), int(draw.integers(1, 300))
        queries, gallery = (draw.standard_normal((rows, dim), dtype=np.float32) for rows in (nq, n))
        if draw.random() < 0.5:
            gallery = gallery.astype(np.float16)
        check(queries, gallery, k, metric, precision)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [64, 128, 512, 520, 768, 1536])
def test_many_queries_over_rows_as_they_lie(metric, dim):
    """float16 as stored, queries in several tiles: on compute capability 9.0 by TMA and wgmma, wide ones streamed."""
    draw = generator(dim)
    queries, gallery = (draw.standard_normal((rows, dim), dtype=np.float32).astype(np.float16) for rows in (300, 40000))
    for k in (1, 100, 128):
        check(queries, gallery, k, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_the_worst_galleries(metric):
    queries, gallery = rows_of(70, 64, 1), rows_of(30000, 64, 2)
    by_score = gallery[np.argsort(gallery @ queries[0])]
    same = np.repeat(gallery[:1], 30000, axis=0)
    twins = np.repeat(gallery[:3000], 10, axis=0)
    holed = gallery.copy()
    holed[::7, 3] = np.nan
    for rows in (by_score, by_score[::-1].copy(), same, twins, holed):
        for precision in ("auto",) if metric == "l2" else ("auto", "int8"):
            check(queries, rows, 100, metric, precision)
    check(queries, gallery[:500], 500, metric)  # k = n


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_galleries_of_the_host_go_in_pieces(metric, dtype, monkeypatch):
    monkeypatch.setattr(search_room, "_CUDA_CHUNK_BYTES", 1 << 20)
    queries, gallery = rows_of(33, 96, 1), rows_of(50000, 96, 2).astype(dtype)
    scores, ids = topk(queries, gallery, 50, metric, device="cuda")
    want = topk(queries, gallery, 50, metric, device="cpu")
    np.testing.assert_array_equal(ids, want[1])
    np.testing.assert_array_equal(scores, want[0])


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_gallery_upgraded_on_the_fly_is_the_upgraded_gallery(where, monkeypatch):
    monkeypatch.setattr(search_room, "_CUDA_CHUNK_BYTES", 4 << 20)
    spec = spec_of(64, 64, 512, 64)
    up = Upgrader(spec, device="cuda")
    old, side = (torch.from_numpy(x) for x in inputs_of(spec, 60000))
    if where == "device":
        old, side = old.cuda(), side.cuda()
    queries = torch.from_numpy(rows_of(20, 64, 9))
    scores, ids = up.search(queries, old, side, k=25)
    want = topk(queries.cuda(), up(old.cuda(), side.cuda()), 25)
    assert torch.equal(ids, want[1].cpu())
    assert torch.equal(scores, want[0].cpu())


def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    queries, gallery = rows_of(5, 32, 1), rows_of(2000, 32, 2)
    scores, ids = topk(cupy.asarray(queries), cupy.asarray(gallery), 10)
    assert isinstance(scores, cupy.ndarray)
    want = topk(queries, gallery, 10)
    np.testing.assert_array_equal(cupy.asnumpy(ids), want[1])
    np.testing.assert_array_equal(cupy.asnumpy(scores), want[0])
