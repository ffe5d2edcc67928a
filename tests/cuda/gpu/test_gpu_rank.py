"""Evaluation on a GPU against the CPU's kernel: the same ranks, and average precisions bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_support import generator, gpu_tests, rows_of

from fct_fast import evaluate

pytestmark = gpu_tests

METRICS = ["cosine", "ip", "l2"]


def check(queries, gallery, labels, gallery_labels=None, metric="cosine", exclude_self="auto"):
    want = evaluate(queries, gallery, labels, gallery_labels, metric, exclude_self, device="cpu")
    got = evaluate(
        torch.from_numpy(queries).cuda(), torch.from_numpy(gallery).cuda(), labels, gallery_labels, metric, exclude_self
    )
    np.testing.assert_array_equal(got.first_rank, want.first_rank)
    np.testing.assert_array_equal(got.average_precision, want.average_precision)
    assert (got.cmc, got.map, got.queries, got.skipped) == (want.cmc, want.map, want.queries, want.skipped)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_cpus_answer_over_shapes(metric, dtype):
    draw = generator(METRICS.index(metric))
    for _ in range(8):
        n, nq = int(draw.integers(1, 20000)), int(draw.integers(1, 1500))
        dim, classes = int(draw.integers(1, 300)), int(draw.integers(1, 400))
        queries, gallery = (draw.standard_normal((rows, dim)).astype(dtype) for rows in (nq, n))
        check(queries, gallery, draw.integers(0, classes + 1, nq), draw.integers(0, classes, n), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_ties_large_classes_and_rows_left_out(metric):
    draw = generator(3)
    whole = np.round(rows_of(12000, 6, 1))  # exact scores, most of them tied
    for classes in (1, 2, 3000):
        check(whole[:500], whole, draw.integers(0, classes, 500), draw.integers(0, classes, 12000), metric)
    labels = draw.integers(0, 50, 3000)
    check(rows_of(3000, 64, 2), rows_of(3000, 64, 3), labels, metric=metric, exclude_self=True)
    check(np.repeat(rows_of(1, 32, 4), 3000, axis=0), np.repeat(rows_of(1, 32, 4), 3000, axis=0), labels, metric=metric)


def test_galleries_of_more_than_one_chunk():
    draw = generator(4)
    gallery = rows_of(600_000, 16, 5)
    check(gallery[:300].copy(), gallery, draw.integers(0, 90, 300), draw.integers(0, 90, 600_000))


def test_arrays_of_the_host():
    rows, labels = rows_of(2000, 48, 6), generator(6).integers(0, 30, 2000)
    got, want = evaluate(rows, rows, labels, device="cuda"), evaluate(rows, rows, labels, device="cpu")
    np.testing.assert_array_equal(got.average_precision, want.average_precision)
