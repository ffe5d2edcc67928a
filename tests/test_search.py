"""topk and search: exact against a full float64 sort and against faiss; ties by id; NaN last; every path the same bits."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fct_fast import Upgrader, errors, prepare_gallery, topk

METRICS = ("cosine", "ip", "l2")


def exact_scores(queries: np.ndarray, gallery: np.ndarray, metric: str) -> np.ndarray:
    """Higher is better; float64."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "l2":
        return -((q**2).sum(1)[:, None] + (g**2).sum(1) - 2 * q @ g.T)
    if metric == "cosine":
        q, g = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (q, g))
    return q @ g.T


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("nq", "n", "dim", "k"), [(1, 1, 1, 1), (3, 50, 7, 50), (60, 5000, 33, 10), (2, 9000, 128, 2048), (7, 300, 2048, 5)]
)
def test_against_a_full_sort(metric, nq, n, dim, k, rows):
    queries, gallery = rows(nq, dim), rows(n, dim, 1)
    scores, ids = topk(queries, gallery, k, metric=metric)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    exact = exact_scores(queries, gallery, metric)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(exact, order, axis=1)
    tolerance = 3e-6 * max(1.0, np.abs(exact).max())
    sign = -1 if metric == "l2" else 1
    np.testing.assert_allclose(sign * scores, best, atol=tolerance)
    np.testing.assert_allclose(np.take_along_axis(exact, ids, axis=1), best, atol=tolerance)
    assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize(("metric", "index_type"), [("ip", faiss.IndexFlatIP), ("l2", faiss.IndexFlatL2)])
def test_against_faiss(metric, index_type, rows):
    queries, gallery = rows(40, 64), rows(20000, 64, 1)
    index = index_type(64)
    index.add(gallery)
    want_scores, want_ids = index.search(queries, 10)
    scores, ids = topk(queries, gallery, 10, metric=metric)
    np.testing.assert_allclose(scores, want_scores, rtol=1e-4, atol=1e-4)
    assert (ids == want_ids).mean() > 0.999


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 700),
    st.integers(1, 40),
    st.sampled_from(METRICS[1:]),
    st.integers(0, 2**31),
    st.data(),
)
def test_ties_go_to_the_lower_id(nq, n, dim, metric, seed, data):
    """On small integers all scores are exact, so the answer is one: by score, then by id."""
    k = data.draw(st.integers(1, n))
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (nq, dim)).astype(np.float32)
    gallery = rng.integers(-2, 3, (n, dim)).astype(np.float32)
    scores, ids = topk(queries, gallery, k, metric=metric)
    exact = exact_scores(queries, gallery, metric)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    assert (ids == order).all()
    assert (np.abs(scores) == np.abs(np.take_along_axis(exact, order, axis=1))).all()


@pytest.mark.parametrize("metric", METRICS)
def test_every_path_gives_the_same_bits(metric, level, monkeypatch, rows):
    """Prepared or not, one query or many, any thread count, numpy or torch, whole or from float16 rows widened before."""
    monkeypatch.setenv("FCT_FAST_CPU_LEVEL", level)
    queries, gallery = rows(13, 70), rows(10000, 70, 1)
    scores, ids = topk(queries, gallery, 9, metric=metric)
    for threads in (1, 5):
        again = topk(queries, gallery, 9, metric=metric, threads=threads)
        assert again[0].tobytes() == scores.tobytes()
        assert again[1].tobytes() == ids.tobytes()
    prepared = prepare_gallery(gallery, metric)
    for i in range(13):
        one = topk(queries[i : i + 1], prepared, 9, metric=metric)
        assert one[0].tobytes() == scores[i].tobytes()
        assert one[1].tobytes() == ids[i].tobytes()
    tensors = topk(torch.from_numpy(queries), torch.from_numpy(gallery), 9, metric=metric)
    assert tensors[0].numpy().tobytes() == scores.tobytes()
    assert tensors[1].dtype == torch.int64
    half = gallery.astype(np.float16)
    assert (
        topk(queries, half, 9, metric=metric)[0].tobytes()
        == topk(queries, half.astype(np.float32), 9, metric=metric)[0].tobytes()
    )


class TestInt8:
    """precision="int8" is a faster way to the answer of fp32, never another answer."""

    @pytest.mark.parametrize("metric", ["cosine", "ip"])
    def test_the_bits_of_fp32(self, metric, level, monkeypatch, rows):
        monkeypatch.setenv("FCT_FAST_CPU_LEVEL", level)
        queries, gallery = rows(60, 70), rows(10000, 70, 1)
        scores, ids = topk(queries, gallery, 9, metric=metric)
        prepared = prepare_gallery(gallery, metric, precision="int8")
        for searched, precision in ((gallery, "int8"), (prepared, "auto"), (prepared, "int8")):
            for threads in (1, 5):
                again = topk(queries, searched, 9, metric=metric, precision=precision, threads=threads)
                assert again[0].tobytes() == scores.tobytes()
                assert again[1].tobytes() == ids.tobytes()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_rows_of_16_bits(self, dtype, rows):
        queries, gallery = torch.from_numpy(rows(5, 33)), torch.from_numpy(rows(3000, 33, 1)).to(dtype)
        want = topk(queries, gallery, 10)
        for got in (
            topk(queries, gallery, 10, precision="int8"),
            topk(queries, prepare_gallery(gallery, precision="int8"), 10),
        ):
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])

    def test_piece_by_piece(self, rows, monkeypatch):
        monkeypatch.setattr("fct_fast.search._COARSE_BYTES", 4096)
        queries, gallery = rows(20, 16), rows(3001, 16, 1)
        want, got = topk(queries, gallery, 300), topk(queries, gallery, 300, precision="int8")
        assert got[0].tobytes() == want[0].tobytes()
        assert got[1].tobytes() == want[1].tobytes()

    def test_a_prepared_gallery_keeps_its_rows(self, rows):
        """Whoever changes the array afterwards does not change the gallery; a memory map is not read into memory."""
        queries, gallery = rows(3, 8), rows(500, 8, 1)
        prepared = prepare_gallery(gallery, precision="int8")
        want = topk(queries, gallery, 5)
        gallery[:] = 0
        assert topk(queries, prepared, 5)[0].tobytes() == want[0].tobytes()
        gallery.flags.writeable = False
        assert prepare_gallery(gallery, precision="int8").source is gallery

    def test_edges(self, rows):
        gallery = rows(3000, 6)
        gallery[::2, 3] = np.nan
        gallery[1] = 0
        queries = rows(4, 6, 1)
        queries[1] = 0
        queries[2, 0] = np.inf
        want, got = topk(queries, gallery, 2000), topk(queries, gallery, 2000, precision="int8")
        assert got[0].tobytes() == want[0].tobytes()
        assert got[1].tobytes() == want[1].tobytes()
        assert topk(rows(0, 6), gallery, 3, precision="int8")[0].shape == (0, 3)

    def test_refused(self, rows):
        with pytest.raises(errors.ConfigError, match="'cosine' and 'ip'"):
            topk(rows(1, 4), rows(10, 4), 1, metric="l2", precision="int8")
        with pytest.raises(errors.ConfigError, match="prepared in int8"):
            topk(rows(1, 4), prepare_gallery(rows(10, 4), precision="int8"), 1, precision="fp32")
        with pytest.raises(errors.ConfigError, match="precision is 'bf16'"):
            prepare_gallery(rows(10, 4), precision="bf16")


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_worst_orders_of_a_gallery(order, rows):
    """Every row beats the last, none does, all are equal."""
    n = 20000
    value = {"rising": np.arange(n), "falling": -np.arange(n), "equal": np.zeros(n)}[order]
    gallery = np.stack([value, np.ones(n)], axis=1).astype(np.float32)
    _, ids = topk(np.array([[1, 0]], np.float32), gallery, 100, metric="ip")
    assert ids[0].tolist() == (list(range(n - 1, n - 101, -1)) if order == "rising" else list(range(100)))


class TestNumbersAtTheEdge:
    def test_nan_sorts_last(self, rows):
        gallery = rows(5000, 6)
        gallery[::2, 3] = np.nan
        scores, ids = topk(rows(4, 6, 1), gallery, 2048, metric="ip")
        assert np.isfinite(scores).all()
        assert (ids % 2 == 1).all()
        gallery = rows(10, 6)
        gallery[[2, 7]] = np.nan
        scores, ids = topk(rows(1, 6, 1), gallery, 10)
        assert ids[0, -2:].tolist() == [2, 7]
        assert np.isnan(scores[0, -2:]).all()
        assert np.isfinite(scores[0, :8]).all()

    def test_infinite_scores_have_their_place(self):
        gallery = np.array([[0], [-np.inf], [1], [np.inf], [np.nan]], np.float32)
        scores, ids = topk(np.ones((1, 1), np.float32), gallery, 5, metric="ip")
        assert ids[0].tolist() == [3, 2, 0, 1, 4]
        assert scores[0, :4].tolist() == [np.inf, 1, 0, -np.inf]

    def test_zero_rows_have_cosine_zero(self):
        gallery = np.array([[1, 0], [0, 0], [-1, 0]], np.float32)
        scores, ids = topk(np.array([[2, 0]], np.float32), gallery, 3)
        assert ids[0].tolist() == [0, 1, 2]
        assert scores[0].tolist() == [1, 0, -1]

    def test_huge_rows_have_a_cosine(self):
        gallery = np.array([[3e19, 4e19], [1, 0]], np.float32)
        scores, _ = topk(np.array([[3e-20, 4e-20]], np.float32), gallery, 2)
        np.testing.assert_allclose(scores, [[1, 0.6]], atol=1e-6)

    def test_a_row_is_at_distance_zero_from_itself(self, rows):
        gallery = rows(3000, 128) * 1000
        scores, ids = topk(gallery[:50], gallery, 1, metric="l2")
        assert (ids[:, 0] == np.arange(50)).all()
        assert not scores.any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("side_dim", [0, 5])
def test_search_on_the_fly_equals_search_of_the_upgraded(metric, side_dim, make_transform, rows, monkeypatch):
    monkeypatch.setattr("fct_fast.search._CHUNK_BYTES", 4096)
    up = Upgrader(make_transform(side_dim=side_dim))
    old, side = rows(3001, 12), rows(3001, 5, 1) if side_dim else None
    queries = rows(20, 8, 2)
    scores, ids = up.search(queries, old, side, k=30, metric=metric)
    want_scores, want_ids = topk(queries, up(old, side), 30, metric=metric)
    assert scores.tobytes() == want_scores.tobytes()
    assert ids.tobytes() == want_ids.tobytes()


def test_search_names_the_row_of_the_whole_gallery(make_transform, rows, monkeypatch):
    monkeypatch.setattr("fct_fast.search._CHUNK_BYTES", 4096)
    old = rows(3000, 12)
    old[2345, 1] = np.nan
    with pytest.raises(errors.NonFiniteError, match="row 2345 "):
        Upgrader(make_transform(side_dim=0)).search(rows(2, 8), old, k=3)


class TestBadInput:
    @pytest.mark.parametrize("k", [2.5, "3", None, True])
    def test_k_is_a_whole_number(self, k, rows):
        with pytest.raises(errors.ConfigError, match="k is"):
            topk(rows(2, 3), rows(9, 3), k)
        assert topk(rows(2, 3), rows(9, 3), np.int32(2))[0].shape == (2, 2)

    def test_rows_without_columns(self):
        with pytest.raises(errors.ShapeError, match="0 values"):
            topk(np.zeros((3, 0), np.float32), np.zeros((5, 0), np.float32), 3)

    @pytest.mark.parametrize("threads", [0, -3, 2.7, "2"])
    def test_threads(self, threads, rows):
        for call in (
            lambda: topk(rows(2, 3), rows(9, 3), 2, threads=threads),
            lambda: prepare_gallery(rows(9, 3), threads=threads),
        ):
            with pytest.raises(errors.ConfigError, match="threads"):
                call()

    @pytest.mark.parametrize(
        ("queries", "gallery", "options", "error", "words"),
        [
            (
                np.zeros((2, 3), np.float32),
                np.zeros((5, 4), np.float32),
                {},
                errors.ShapeError,
                "3 dimensions .* has 4",
            ),
            (np.zeros((2, 3), np.float32), np.zeros((5, 3), np.float32), {"k": 6}, errors.ShapeError, "k is 6"),
            (np.zeros((2, 3), np.float32), np.zeros((5, 3), np.float32), {"k": 0}, errors.ShapeError, "k is 0"),
            (np.zeros((2, 3), np.float32), np.zeros((5000, 3), np.float32), {"k": 2049}, errors.ShapeError, "2048"),
            (np.zeros((2, 3), np.float32), np.zeros((0, 3), np.float32), {"k": 1}, errors.ShapeError, "empty"),
            (np.zeros(3, np.float32), np.zeros((5, 3), np.float32), {"k": 1}, errors.ShapeError, "queries"),
            (np.zeros((2, 3)), np.zeros((5, 3), np.float32), {"k": 1}, errors.DtypeError, "queries has dtype float64"),
            (np.zeros((2, 3), np.float32), "gallery", {"k": 1}, errors.DtypeError, "gallery is a str"),
            (
                np.zeros((2, 3), np.float32),
                np.zeros((5, 3), np.float32),
                {"k": 1, "metric": "dot"},
                errors.ConfigError,
                "metric",
            ),
            (
                np.zeros((2, 3), np.float32),
                np.zeros((5, 3), np.float32),
                {"k": 1, "device": "cuda"},
                errors.DeviceError,
                "no CUDA kernel of this version",
            ),
            (
                np.zeros((2, 3), np.float32),
                np.zeros((5, 3), np.float32),
                {"k": 1, "precision": "int4"},
                errors.ConfigError,
                "fp32",
            ),
        ],
    )
    def test_topk(self, queries, gallery, options, error, words):
        with pytest.raises(error, match=words):
            topk(queries, gallery, **options)

    def test_prepared_for_another_metric(self, rows):
        with pytest.raises(errors.ConfigError, match="prepared for metric 'ip'"):
            topk(rows(1, 4), prepare_gallery(rows(10, 4), "ip"), 1)

    def test_no_queries_is_an_empty_answer(self, rows):
        scores, ids = topk(rows(0, 4), rows(10, 4), 3)
        assert scores.shape == ids.shape == (0, 3)
