"""evaluate: per query equal to scikit-learn's average precision, CMC with ties by row, conventions of the field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision

from fct_fast import errors, evaluate, topk
from fct_fast.evaluation import rank_scores


def by_the_book(scores: np.ndarray, query_labels, gallery_labels, exclude_self):
    """first_rank and average precision of each query, by a full stable sort and scikit-learn."""
    ranks, precisions = [], []
    for i, label in enumerate(query_labels):
        keep = np.arange(scores.shape[1]) != i if exclude_self else np.ones(scores.shape[1], bool)
        hit = (np.asarray(gallery_labels) == label)[keep]
        if not hit.any():
            ranks.append(0)
            precisions.append(0.0)
            continue
        order = np.argsort(-scores[i][keep], kind="stable")
        ranks.append(1 + int(np.flatnonzero(hit[order])[0]))
        precisions.append(average_precision_score(hit, scores[i][keep]))
    return np.array(ranks), np.array(precisions)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 8), st.sampled_from([0, 1, 3]), st.integers(0, 2**31))
def test_scores_against_scikit_learn(queries, rows, classes, decimals, seed):
    """Random score matrices; with 0 decimals nearly every score is tied."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal((queries, rows)), decimals).astype(np.float32)
    query_labels, gallery_labels = rng.integers(0, classes + 2, queries), rng.integers(0, classes, rows)
    got = rank_scores(scores, query_labels, gallery_labels)
    ranks, precisions = by_the_book(scores, query_labels, gallery_labels, exclude_self=False)
    assert (got.first_rank == ranks).all()
    np.testing.assert_allclose(got.average_precision, precisions, atol=1e-9)
    assert got.skipped == (ranks == 0).sum()


def test_leave_one_out_against_scikit_learn():
    rng = np.random.default_rng(0)
    scores = np.round(rng.standard_normal((300, 300)), 1).astype(np.float32)
    labels = rng.integers(0, 40, 300)
    got = rank_scores(scores, labels, k=(1, 5, 300))
    ranks, precisions = by_the_book(scores, labels, labels, exclude_self=True)
    assert (got.first_rank == ranks).all()
    np.testing.assert_allclose(got.average_precision, precisions, atol=1e-9)
    assert got.cmc[5] == pytest.approx((ranks[ranks > 0] <= 5).mean())
    assert got.cmc[300] == 1.0
    assert got.map == pytest.approx(precisions[ranks > 0].mean())


def test_average_precision_against_torchmetrics():
    """On positive scores without ties: it drops rows that score 0 or less, and its order of ties is not defined."""
    rng = np.random.default_rng(0)
    scores = rng.random((20, 70), dtype=np.float32)
    query_labels, gallery_labels = rng.integers(0, 6, 20), rng.integers(0, 6, 70)
    got = rank_scores(scores, query_labels, gallery_labels)
    for i in range(20):
        hit = torch.from_numpy(gallery_labels == query_labels[i])
        want = float(retrieval_average_precision(torch.from_numpy(scores[i]), hit))
        assert got.average_precision[i] == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_end_to_end_against_scikit_learn(metric, level, monkeypatch, rows):
    """From embeddings, on scores computed in float64 by numpy: the mean within 1e-5."""
    monkeypatch.setenv("FCT_FAST_CPU_LEVEL", level)
    labels = np.random.default_rng(0).integers(0, 30, 700)
    x = rows(700, 24) + 0.6 * rows(30, 24, 1)[labels]
    exact = x.astype(np.float64)
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    scores = exact @ exact.T
    if metric == "l2":
        scores = 2 * scores - (exact**2).sum(1)
    got = evaluate(x, x, labels, metric=metric)
    ranks, precisions = by_the_book(scores, labels, labels, exclude_self=True)
    assert got.map == pytest.approx(precisions.mean(), abs=1e-5)
    assert got.cmc[1] == pytest.approx((ranks == 1).mean(), abs=2e-3)
    assert 0.1 < got.map < 0.99


def test_scores_of_evaluate_are_those_of_topk(rows):
    """Identical scores: the ranking kernel scores as topk does, so ranking topk's own full result changes nothing."""
    x = rows(400, 32)
    labels = np.random.default_rng(0).integers(0, 20, 400)
    scores, ids = topk(x, x, 400)
    matrix = np.empty((400, 400), np.float32)
    np.put_along_axis(matrix, ids, scores, axis=1)
    ours, given_scores = evaluate(x, x, labels), rank_scores(matrix, labels)
    assert (ours.first_rank == given_scores.first_rank).all()
    np.testing.assert_allclose(ours.average_precision, given_scores.average_precision, atol=1e-12)


def test_threads_and_dtypes_do_not_change_the_result(rows):
    x = rows(500, 16)
    labels = np.arange(500) % 25
    want = evaluate(x, x, labels)
    for other in (evaluate(x, x, labels, threads=1), evaluate(torch.from_numpy(x), x, labels, threads=7)):
        assert (other.first_rank == want.first_rank).all()
        assert (other.average_precision == want.average_precision).all()
    half = x.astype(np.float16)
    assert evaluate(half, half, labels).map == evaluate(half.astype(np.float32), half.astype(np.float32), labels).map


class TestConventions:
    def test_queries_without_positives_are_skipped_and_counted(self):
        x = np.eye(4, dtype=np.float32)
        got = evaluate(x, x, [0, 0, 1, 2])
        assert (got.queries, got.skipped) == (2, 2)
        got = evaluate(x, x, [7, 8, 9, 9], [0, 0, 1, 2])
        assert (got.queries, got.skipped, got.map, got.cmc[1]) == (0, 4, 0.0, 0.0)

    def test_exclude_self(self):
        x = np.eye(4, dtype=np.float32)
        labels = [0, 1, 2, 3]
        assert evaluate(x, x, labels).skipped == 4
        assert evaluate(x, x, labels, labels).cmc[1] == 1.0
        assert evaluate(x, x, labels, exclude_self=False).cmc[1] == 1.0
        assert evaluate(x, x, labels, labels, exclude_self=True).skipped == 4

    def test_a_zero_row_scores_zero(self):
        gallery = np.array([[1, 0], [0, 0], [-1, 0]], np.float32)
        got = evaluate(np.array([[1, 0]], np.float32), gallery, [5], [4, 5, 4])
        assert got.first_rank.tolist() == [2]

    def test_labels_may_be_text(self, rows):
        x = rows(30, 4)
        numbers = np.arange(30) % 3
        assert evaluate(x, x, np.array(["a", "b", "c"])[numbers]).map == evaluate(x, x, numbers).map

    def test_select_is_the_metric_of_a_subset(self, rows):
        x = rows(60, 4)
        labels = np.arange(60) % 6
        mask = labels < 3
        got = evaluate(x, x, labels).select(mask)
        part = evaluate(x[mask], x, labels[mask], labels)
        assert got.queries == 30
        assert got.map != part.map, "the subset leaves itself out, a foreign query set does not"


class TestLabels:
    def test_large_integers_of_two_kinds_are_compared_exactly(self, rows):
        x = rows(20, 4)
        labels = 2**62 + np.arange(20)
        got = evaluate(x, x, labels.astype(np.uint64), labels.astype(np.int64))
        assert got.skipped == 0
        assert got.cmc[1] == 1.0

    def test_integers_and_text_are_not_mixed(self, rows):
        with pytest.raises(errors.ConfigError, match="both as"):
            evaluate(rows(3, 4), rows(3, 4), [1, 2, 3], ["1", "2", "3"])

    def test_text_of_pandas(self, rows):
        x = rows(6, 4)
        text = np.array(["a", "b", "c"] * 2, object)
        assert evaluate(x, x, text).map == evaluate(x, x, [0, 1, 2] * 2).map


def test_flush_to_zero_does_not_change_the_result():
    x = np.concatenate([np.eye(4, dtype=np.float32)] * 2)
    labels = np.arange(8) % 3
    want = evaluate(x, x, labels)
    torch.set_flush_denormal(True)
    try:
        assert evaluate(x, x, labels).map == want.map
    finally:
        torch.set_flush_denormal(False)


class TestBadInput:
    @pytest.mark.parametrize("k", [0, None, "15", (1.5,), (), True])
    def test_k(self, k, rows):
        with pytest.raises(errors.ConfigError, match="CMC@k"):
            evaluate(rows(4, 2), rows(4, 2), [0, 0, 1, 1], k=k)
        assert evaluate(rows(4, 2), rows(4, 2), [0, 0, 1, 1], k=3).cmc.keys() == {3}

    def test_a_mask_of_another_length(self, rows):
        with pytest.raises(errors.ShapeError, match="mask"):
            evaluate(rows(4, 2), rows(4, 2), [0, 0, 1, 1]).select(np.ones(3, bool))

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "words"),
        [
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 4), np.float32), [0] * 3),
                {},
                errors.ShapeError,
                "2 dimensions",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32), [0] * 3),
                {},
                errors.ShapeError,
                "gallery_labels",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), [0] * 2),
                {},
                errors.ShapeError,
                "query_labels",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), [0] * 3, [1]),
                {},
                errors.ShapeError,
                "gallery_labels",
            ),
            (
                (np.zeros((0, 2), np.float32), np.zeros((3, 2), np.float32), [], [0] * 3),
                {},
                errors.ShapeError,
                "nothing to rank",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((0, 2), np.float32), [0] * 3, []),
                {},
                errors.ShapeError,
                "nothing to rank",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), [0.5] * 3),
                {},
                errors.ConfigError,
                "integers or text",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), [0] * 3),
                {"k": (0,)},
                errors.ConfigError,
                "CMC@k",
            ),
            (
                (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), [0] * 3),
                {"metric": "l1"},
                errors.ConfigError,
                "metric",
            ),
            ((np.zeros((3, 2)), np.zeros((3, 2), np.float32), [0] * 3), {}, errors.DtypeError, "float64"),
            (
                (np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32), [0] * 4, [0] * 3),
                {"exclude_self": True},
                errors.ShapeError,
                "query i",
            ),
        ],
    )
    def test_evaluate(self, arguments, options, error, words):
        with pytest.raises(error, match=words):
            evaluate(*arguments, **options)

    @pytest.mark.parametrize("which", ["queries", "gallery"])
    def test_nan_names_its_row(self, which, rows):
        queries, gallery = rows(50, 4), rows(60, 4)
        (queries if which == "queries" else gallery)[33, 1] = np.inf
        with pytest.raises(errors.NonFiniteError, match=f"row 33 of {which}"):
            evaluate(queries, gallery, np.zeros(50, int), np.zeros(60, int))
