"""backfill_curve: every point is `evaluate` over the mixed gallery, bit for bit, and scikit-learn's average precision; the area is
FastFill's plain mean over 22 points."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from fct_fast import errors, evaluate
from fct_fast.evaluation.curve import backfill_curve


def mixed(before, after, order, p, points=22):
    """The gallery at point p, as FastFill's code has it: the first floor(p n / (points - 1)) rows of the order replaced."""
    gallery = before.copy()
    done = order[: p * len(order) // (points - 1)]
    gallery[done] = after[done]
    return gallery


def spaces(seed, rows, dim, classes, decimals=None):
    """labels, new rows in clusters, and a noisy prediction of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    new = rng.standard_normal((rows, dim)) + 0.8 * rng.standard_normal((classes, dim))[labels]
    upgraded = new + rng.standard_normal((rows, 1)) * rng.standard_normal((rows, dim))
    if decimals is not None:
        new, upgraded = np.round(new, decimals), np.round(upgraded, decimals)
    return labels, new.astype(np.float32), upgraded.astype(np.float32)


def check_against_evaluate(curve, queries, before, after, order, *labels, points=22, **options):
    assert len(curve.evaluations) == points
    for p, got in enumerate(curve.evaluations):
        want = evaluate(queries, mixed(before, after, order, p, points), *labels, **options)
        assert (got.first_rank == want.first_rank).all()
        assert (got.average_precision == want.average_precision).all()
        assert (got.map, got.cmc, got.queries, got.skipped) == (want.map, want.cmc, want.queries, want.skipped)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("decimals", [None, 0])
def test_every_point_is_evaluate_over_the_mixed_gallery(metric, decimals, level, monkeypatch):
    """With 0 decimals and inner products most scores are tied."""
    monkeypatch.setenv("FCT_FAST_CPU_LEVEL", level)
    labels, new, upgraded = spaces(0, 300, 6, 12, decimals)
    order = np.random.default_rng(1).permutation(300)
    curve = backfill_curve(new, upgraded, new, order, labels, metric=metric, k=(1, 3, 10))
    check_against_evaluate(curve, new, upgraded, new, order, labels, metric=metric, k=(1, 3, 10))
    assert curve.map[-1] > curve.map[0] + 0.02, "the rows must differ, or the test holds nothing"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 40), st.integers(2, 9), st.integers(1, 8), st.booleans(), st.integers(0, 2**31)
)
def test_against_a_full_sort_and_scikit_learn(queries, rows, points, classes, exclude_self, seed):
    """Small integers, so that float64 and the kernel's float32 have the same scores, ties among them."""
    queries = min(queries, rows) if exclude_self else queries
    rng = np.random.default_rng(seed)
    wanted, before, after = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (queries, rows, rows))
    query_labels, gallery_labels = rng.integers(0, classes + 1, queries), rng.integers(0, classes, rows)
    order = rng.permutation(rows)
    curve = backfill_curve(
        wanted,
        before,
        after,
        order,
        query_labels,
        gallery_labels,
        metric="ip",
        exclude_self=exclude_self,
        points=points,
    )
    for p, got in enumerate(curve.evaluations):
        scores = wanted.astype(np.float64) @ mixed(before, after, order, p, points).T.astype(np.float64)
        for i in range(queries):
            keep = np.arange(rows) != i if exclude_self else np.ones(rows, bool)
            hit = (gallery_labels == query_labels[i])[keep]
            if not hit.any():
                assert (got.first_rank[i], got.average_precision[i]) == (0, 0.0)
                continue
            ranking = np.argsort(-scores[i][keep], kind="stable")
            assert got.first_rank[i] == 1 + np.flatnonzero(hit[ranking])[0]
            assert got.average_precision[i] == pytest.approx(average_precision_score(hit, scores[i][keep]), abs=1e-12)


def test_other_queries_than_the_gallery_and_threads_and_dtypes():
    labels, new, upgraded = spaces(3, 200, 8, 10)
    query_labels, queries, _ = spaces(4, 70, 8, 10)
    order = np.random.default_rng(1).permutation(200)
    curve = backfill_curve(queries, upgraded, new, order, query_labels, labels, threads=1)
    check_against_evaluate(curve, queries, upgraded, new, order, query_labels, labels)
    half = upgraded.astype(np.float16)
    ours = backfill_curve(
        torch.from_numpy(queries), half, torch.from_numpy(new), order, query_labels, labels, threads=3
    )
    check_against_evaluate(ours, queries, half.astype(np.float32), new, order, query_labels, labels)


class TestArea:
    def curve(self, n=210, **options):
        labels, new, upgraded = spaces(5, n, 6, 9)
        return backfill_curve(new, upgraded, new, np.arange(n), labels, **options)

    def test_auc_is_the_plain_mean_and_the_trapezoid_is_not(self):
        curve = self.curve()
        assert curve.shares == pytest.approx(np.linspace(0, 1, 22))  # 210 = 21 x 10
        assert curve.auc.keys() == {"cmc1", "cmc5", "map"}
        assert curve.auc["map"] == pytest.approx(sum(e.map for e in curve.evaluations) / 22)
        assert curve.auc["cmc5"] == pytest.approx(sum(e.cmc[5] for e in curve.evaluations) / 22)
        inner = sum(e.cmc[1] for e in curve.evaluations[1:-1])
        assert curve.trapezoid["cmc1"] == pytest.approx((inner + (curve.cmc[1][0] + curve.cmc[1][-1]) / 2) / 21)

    def test_shares_are_those_really_replaced(self):
        assert self.curve(100, points=4).shares.tolist() == [0.0, 0.33, 0.66, 1.0]

    def test_per_query_areas_average_to_the_whole(self):
        curve = self.curve()
        assert curve.ranked.all()
        assert curve.auc_per_query.shape == (210,)
        assert curve.auc_per_query[curve.ranked].mean() == pytest.approx(curve.auc["map"])
        assert curve.auc_per_query[7] == pytest.approx(np.mean([e.average_precision[7] for e in curve.evaluations]))

    def test_json_holds_the_curve(self):
        curve = self.curve(k=(1,))
        document = json.loads(json.dumps(curve.to_json()))
        assert document["map"] == curve.map.tolist()
        assert document["auc"] == curve.auc
        assert document.keys() == {"shares", "cmc1", "map", "auc", "trapezoid", "queries", "skipped"}

    def test_a_gallery_of_fewer_rows_than_points(self):
        x = np.eye(3, dtype=np.float32)
        curve = backfill_curve(x, x[::-1], x, [2, 0, 1], [0, 1, 0], [0, 1, 0])
        check_against_evaluate(curve, x, x[::-1], x, np.array([2, 0, 1]), [0, 1, 0], [0, 1, 0])


def test_a_better_order_has_a_larger_area():
    labels, new, upgraded = spaces(6, 400, 8, 10)
    worst_first = np.argsort(-np.linalg.norm(new - upgraded, axis=1))
    areas = [backfill_curve(new, upgraded, new, o, labels).auc["map"] for o in (worst_first, worst_first[::-1])]
    assert areas[0] > areas[1] + 0.02


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"order": [0, 1, 1, 3]}, errors.ConfigError, "no permutation"),
            ({"order": [1, 2, 3, 4]}, errors.ConfigError, "from 0 to 3"),
            ({"order": [0, 1, 2]}, errors.ShapeError, "order"),
            ({"order": [0.0, 1.0, 2.0, 3.0]}, errors.ConfigError, "row numbers"),
            ({"points": 1}, errors.ConfigError, "points"),
            ({"points": 2.0}, errors.ConfigError, "points"),
            ({"k": 0}, errors.ConfigError, "CMC@k"),
            ({"metric": "l1"}, errors.ConfigError, "metric"),
            ({"after": np.ones((3, 2), np.float32)}, errors.ShapeError, "one item"),
            ({"before": np.ones((4, 3), np.float32)}, errors.ShapeError, "before has 3"),
            ({"query_labels": [0, 1]}, errors.ShapeError, "query_labels"),
            (
                {"after": np.array([[1, 1], [1, np.nan], [1, 1], [1, 1]], np.float32)},
                errors.NonFiniteError,
                "row 1 of after",
            ),
        ],
    )
    def test_is_refused_in_words(self, change, error, words):
        x = np.ones((4, 2), np.float32)
        arguments = {"queries": x, "before": x, "after": x, "order": [0, 1, 2, 3], "query_labels": [0, 0, 1, 1]}
        with pytest.raises(error, match=words):
            backfill_curve(**(arguments | change))
