"""top_metrics: equal to plain float64 code, scikit-learn, torchmetrics and pytorch-metric-learning on identical scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_r_precision,
    retrieval_recall,
)

from fct_fast import errors, evaluate, topk
from fct_fast.evaluation import rank_scores, top, top_metrics, top_metrics_of_scores

KS = (1, 3, 10)


def by_the_book(scores, query_labels, gallery_labels, exclude_self, k=KS):
    """Every metric of every query: a full sort, equal scores by lower row, and the definitions written out.

    nDCG is scikit-learn's, which averages over the orders of equal scores.
    """
    values = {name: [] for name in ("map_at_r", "r_precision")}
    values |= {f"{name}@{d}": [] for name in ("hit_rate", "recall", "precision", "ndcg") for d in k}
    for i, label in enumerate(query_labels):
        keep = np.arange(scores.shape[1]) != i if exclude_self else np.ones(scores.shape[1], bool)
        hit = (np.asarray(gallery_labels) == label)[keep]
        mine = scores[i][keep].astype(np.float64)
        right = hit[np.argsort(-mine, kind="stable")]
        r = int(hit.sum())
        if r == 0:
            for column in values.values():
                column.append(0.0)
            continue
        values["map_at_r"].append(sum(right[: j + 1].mean() for j in range(r) if right[j]) / r)
        values["r_precision"].append(right[:r].sum() / r)
        for d in k:
            values[f"hit_rate@{d}"].append(float(right[:d].any()))
            values[f"recall@{d}"].append(right[:d].sum() / r)
            values[f"precision@{d}"].append(right[:d].sum() / d)
            values[f"ndcg@{d}"].append(ndcg_score(hit[None], mine[None], k=d) if len(hit) > 1 else 1.0)
    return {name: np.array(column) for name, column in values.items()}


def assert_same(got, want):
    assert got.per_query.keys() == want.keys()
    for name, column in want.items():
        np.testing.assert_allclose(got.per_query[name], column, atol=1e-9, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 6), st.sampled_from([0, 1, 3]), st.integers(0, 2**31))
def test_scores_with_ties(queries, rows, classes, decimals, seed):
    """Random score matrices; with 0 decimals nearly every score is tied."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal((queries, rows)), decimals).astype(np.float32)
    query_labels, gallery_labels = rng.integers(0, classes + 2, queries), rng.integers(0, classes, rows)
    got = top_metrics_of_scores(scores, query_labels, gallery_labels, k=KS)
    assert_same(got, by_the_book(scores, query_labels, gallery_labels, exclude_self=False))
    assert got.skipped == (got.positives == 0).sum()


@pytest.mark.parametrize("decimals", [0, 6])
def test_leave_one_out(decimals):
    rng = np.random.default_rng(0)
    scores = np.round(rng.standard_normal((120, 120)), decimals).astype(np.float32)
    labels = rng.integers(0, 15, 120)
    got = top_metrics_of_scores(scores, labels, k=KS)
    want = by_the_book(scores, labels, labels, exclude_self=True)
    assert_same(got, want)
    assert got.map_at_r == pytest.approx(want["map_at_r"].mean())
    assert got.ndcg[10] == pytest.approx(want["ndcg@10"].mean())
    assert got.hit_rate == rank_scores(scores, labels, k=KS).cmc


@pytest.mark.parametrize("decimals", [0, 6])
def test_against_torchmetrics(decimals):
    """Its order of equal scores is not defined, so with ties only nDCG, which averages over them, is compared."""
    rng = np.random.default_rng(1)
    scores = np.round(rng.standard_normal((30, 80)), decimals).astype(np.float32)
    query_labels, gallery_labels = rng.integers(0, 9, 30), rng.integers(0, 8, 80)
    got = top_metrics_of_scores(scores, query_labels, gallery_labels, k=KS)
    assert got.skipped > 0
    theirs = {"ndcg": retrieval_normalized_dcg}
    if decimals:
        theirs |= {"hit_rate": retrieval_hit_rate, "recall": retrieval_recall, "precision": retrieval_precision}
    for i in np.flatnonzero(got.positives):
        mine, hit = torch.from_numpy(scores[i]), torch.from_numpy(gallery_labels == query_labels[i])
        for name, metric in theirs.items():
            for d in KS:
                want = float(metric(mine, hit, top_k=d))
                assert got.per_query[f"{name}@{d}"][i] == pytest.approx(want, abs=1e-6), (name, d)
        if decimals:
            assert got.per_query["r_precision"][i] == pytest.approx(float(retrieval_r_precision(mine, hit)), abs=1e-6)


@pytest.mark.parametrize("decimals", [0, 6])
def test_against_pytorch_metric_learning(decimals):
    """It is given the ranking, so that its metrics are compared on identical scores, ties included."""
    rng = np.random.default_rng(2)
    scores = np.round(rng.standard_normal((90, 90)), decimals).astype(np.float32)
    labels = rng.integers(0, 30, 90)
    got = top_metrics_of_scores(scores, labels)
    others = np.where(np.eye(90, dtype=bool), -np.inf, scores)

    def neighbours(query, k, reference, ref_includes_query):
        best = torch.from_numpy(np.argsort(-others, axis=1, kind="stable")[:, :k].copy())
        return torch.zeros(best.shape), best

    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "r_precision", "precision_at_1"),
        knn_func=neighbours,
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    want = calculator.get_accuracy(np.eye(90, dtype=np.float32), labels)
    assert got.skipped > 0
    assert got.map_at_r == pytest.approx(want["mean_average_precision_at_r"], abs=1e-6)
    assert got.r_precision == pytest.approx(want["r_precision"], abs=1e-6)
    assert got.hit_rate[1] == got.precision[1] == pytest.approx(want["precision_at_1"], abs=1e-6)


def all_scores(queries, gallery, metric):
    """topk's own scores as a matrix, higher is better."""
    matrix = np.empty((len(queries), len(gallery)), np.float32)
    for start in range(0, len(gallery), 1000):
        piece = gallery[start : start + 1000]
        scores, ids = topk(queries, piece, len(piece), metric=metric)
        np.put_along_axis(matrix, start + ids, -scores if metric == "l2" else scores, axis=1)
    return matrix


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("own", [True, False])
def test_search_equals_the_scores_it_found(metric, own, rows, monkeypatch):
    """Few places searched, many chunks: the metrics are those of the whole ranking."""
    monkeypatch.setattr(top, "_CHUNK_VALUES", 500)
    gallery = rows(300, 8)
    labels = np.random.default_rng(0).integers(0, 60, 300)
    queries, asked = (gallery, labels) if own else (rows(70, 8, 1), np.arange(70))
    got = top_metrics(queries, gallery, asked, None if own else labels, metric=metric, k=KS)
    scores = all_scores(queries, gallery, metric)
    assert_same(got, by_the_book(scores, asked, labels, exclude_self=own))
    assert got.hit_rate == evaluate(queries, gallery, asked, None if own else labels, metric=metric, k=KS).cmc
    assert got.skipped > 0


@pytest.mark.parametrize("own", [True, False])
def test_a_tie_beyond_the_places_searched(own, rows, monkeypatch):
    """Copies of rows: nDCG averages over all rows of equal score, of which the search sees a few."""
    monkeypatch.setattr(top, "MAX_K", 64)  # a tie is counted in pieces of so many rows
    monkeypatch.setattr(top, "_TIE_QUERIES", 7)
    gallery = rows(12, 6)[np.random.default_rng(0).integers(0, 12, 300)]
    labels = np.random.default_rng(1).integers(0, 40, 300)
    queries, asked = (gallery, labels) if own else (rows(40, 6, 1), np.arange(40))
    got = top_metrics(queries, gallery, asked, None if own else labels, k=KS)
    assert_same(got, by_the_book(all_scores(queries, gallery, "cosine"), asked, labels, exclude_self=own))


def test_dtypes_and_threads(rows):
    x = rows(200, 16).astype(np.float16)
    labels = np.arange(200) % 20
    want = top_metrics(x.astype(np.float32), x.astype(np.float32), labels, threads=1)
    for other in (top_metrics(x, x, labels, threads=3), top_metrics(torch.from_numpy(x), torch.from_numpy(x), labels)):
        assert_same(other, want.per_query)
    assert_same(top_metrics_of_scores(x @ x.T, labels, k=10), top_metrics_of_scores(
        torch.from_numpy(x @ x.T), labels, k=10).per_query)  # fmt: skip


class TestEdges:
    def test_no_query_has_a_positive(self, rows):
        got = top_metrics(rows(3, 4), rows(3, 4), [0, 1, 2])
        assert (got.queries, got.skipped, got.map_at_r, got.ndcg[10]) == (0, 3, 0.0, 0.0)

    def test_one_row(self, rows):
        x = rows(1, 4)
        assert top_metrics(x, x, [0]).skipped == 1
        assert top_metrics(x, x, [0], [0]).map_at_r == 1.0

    def test_nan_scores_come_last(self):
        got = top_metrics_of_scores(np.array([[np.nan, 0.0, 1.0]], np.float32), [1], [1, 0, 0])
        assert got.hit_rate == {1: 0.0, 5: 1.0, 10: 1.0}

    def test_k_beyond_the_gallery(self, rows):
        x = rows(4, 4)
        got = top_metrics(x, x, [0, 0, 1, 1], k=50)
        assert got.recall[50] == 1.0
        assert got.precision[50] == pytest.approx(1 / 50)


class TestLimits:
    """Search goes to 2048 places; what needs more is refused with a sentence, never cut silently."""

    def test_a_class_that_is_too_large(self, rows):
        x = rows(2100, 4)
        labels = np.zeros(2100, int)
        with pytest.raises(errors.ShapeError, match=r"2099 positives.*at most 2046 .*at_r=False"):
            top_metrics(x, x, labels)
        got = top_metrics(x, x, labels, at_r=False)
        assert got.map_at_r is None
        assert got.r_precision is None
        assert got.recall[10] == pytest.approx(10 / 2099)
        with pytest.raises(errors.ShapeError, match="from 1 to 2046"):
            top_metrics(x, x, labels, k=2047, at_r=False)

    def test_the_largest_class_that_fits(self, rows):
        x = rows(2100, 4)
        labels = (np.arange(2100) >= 2047).astype(int)
        got = top_metrics(x[:5], x, labels[:5], labels, exclude_self=True, k=2046)
        scores = all_scores(x[:5], x, "cosine")
        assert_same(got, by_the_book(scores, labels[:5], labels, exclude_self=True, k=(2046,)))

    def test_scores_have_no_limit(self):
        scores = np.random.default_rng(0).standard_normal((2, 3000), dtype=np.float32)
        labels = np.zeros(3000, int)
        got = top_metrics_of_scores(scores, labels[:2], labels, k=2500)
        assert (got.map_at_r, got.precision[2500]) == (1.0, 1.0)


class TestBadInput:
    def test_arguments_are_checked_as_by_evaluate(self, rows):
        with pytest.raises(errors.ConfigError, match="metric"):
            top_metrics(rows(3, 2), rows(3, 2), [0] * 3, metric="l1")
        with pytest.raises(errors.ConfigError, match="whole numbers"):
            top_metrics(rows(3, 2), rows(3, 2), [0] * 3, k=0)
        with pytest.raises(errors.ShapeError, match="dimensions"):
            top_metrics(rows(3, 2), rows(3, 4), [0] * 3)
        with pytest.raises(errors.NonFiniteError, match="row 1 of gallery"):
            top_metrics(rows(3, 2), np.array([[0, 1], [np.nan, 0], [1, 1]], np.float32), [0] * 3)
        with pytest.raises(errors.ShapeError, match="query_labels"):
            top_metrics_of_scores(rows(3, 3), [0] * 2)
