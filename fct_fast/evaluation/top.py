"""Metrics of the first places of a ranking: MAP@R, R-precision, and hit rate, recall, precision and nDCG at k.

Definitions, for a query with R positives, over its ranking with itself left out where it is a gallery row:
- hit rate@k: 1 where a positive is among the first k. Metric learning calls it recall@k, and it is CMC@k.
- recall@k: share of the R positives among the first k, as in information retrieval (torchmetrics RetrievalRecall).
- precision@k: positives among the first k, over k (torchmetrics RetrievalPrecision, pytorch-metric-learning).
- R-precision: precision at R; MAP@R: mean over the first R places of the precision at each right place, wrong places
  counting 0 (pytorch-metric-learning's r_precision and mean_average_precision_at_r). MAP@R is not mAP.
- nDCG@k: gain 1 for a positive, discount 1 / log2(place + 1), over that of a perfect ranking.
Equal scores are ordered by lower row. nDCG alone averages over the orders of equal scores, as scikit-learn's ndcg_score
and torchmetrics do. Queries without positives are skipped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ShapeError
from fct_fast.evaluation.classes import I64, Classes, depths_of, rows_of_one_space
from fct_fast.kernels.arrays import as_rows, to_float32
from fct_fast.search import MAX_K, prepare_gallery, topk

__all__ = ["TopMetrics", "top_metrics", "top_metrics_of_scores"]

Metric = Literal["cosine", "ip", "l2"]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_CHUNK_VALUES = 1 << 20  # places of rankings that are held at a time
_TIE_QUERIES = 256  # queries whose whole ranking is read at a time, to count a tie


@dataclass(frozen=True)
class TopMetrics:
    """Means over the `queries` that have a positive, fractions in [0, 1]; `skipped` have none. See the module.

    `hit_rate[k]`, `recall[k]`, `precision[k]`, `ndcg[k]`; `map_at_r` and `r_precision`, None where at_r=False.
    `positives` int64 [nq] counts each query's positives (0 = skipped); `per_query` gives float64 [nq] by name
    ("map_at_r", "r_precision", "hit_rate@1", "recall@1", ...), 0 where skipped.
    """

    hit_rate: Mapping[int, float]
    recall: Mapping[int, float]
    precision: Mapping[int, float]
    ndcg: Mapping[int, float]
    map_at_r: float | None
    r_precision: float | None
    queries: int
    skipped: int
    positives: I64 = field(repr=False)
    per_query: Mapping[str, F64] = field(repr=False)


@dataclass(frozen=True)
class _Places:
    """The first places of some queries: scores [q, places], best first, and which of them are right."""

    scores: F32
    right: npt.NDArray[np.bool_]
    # The group of equal scores that the last place belongs to, all of it: its size [q] and right rows [q].
    last_group: tuple[I64, I64] | None = None


def top_metrics(
    queries: Any,
    gallery: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    metric: Metric = "cosine",
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5, 10),
    threads: int | None = None,
    *,
    at_r: bool = True,
) -> TopMetrics:
    """The metrics from exact top-k search: queries [nq, dim], gallery [n, dim], labels [nq] and [n], as `evaluate`.

    A gallery of more than 2048 rows is searched no deeper than that, so k, and with at_r the positives of every query,
    must be below it (2046 where queries are left out of their own ranking); at_r=False does without MAP@R and
    R-precision. Memory: a float32 copy of the gallery and a few million places, never all scores.
    Raises ShapeError (also where a class is too large), DtypeError, ConfigError, NonFiniteError.
    """
    depths = depths_of(k)
    query_rows, gallery_rows = rows_of_one_space(queries, gallery, metric)
    n = int(gallery_rows.shape[0])
    classes = Classes(query_rows.shape[0], n, query_labels, gallery_labels, exclude_self)
    depth = _search_depth(n, max(depths), int(classes.positives.max()) if at_r else 0, classes.exclude_self)

    search = _Search(query_rows, gallery_rows, classes, metric, threads)
    return _summary(classes, depths, at_r, search.places(depth, max(depths)))


def top_metrics_of_scores(
    scores: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5, 10),
    *,
    at_r: bool = True,
) -> TopMetrics:
    """`top_metrics` over scores that the caller has: scores float32 [nq, n], higher is better; NaN counts as -Inf.

    Sorts whole rows, so there is no limit on k or on the size of a class.
    """
    depths = depths_of(k)
    rows = as_rows(scores, "scores")
    n = int(rows.shape[1])
    classes = Classes(rows.shape[0], n, query_labels, gallery_labels, exclude_self)

    def places() -> Iterator[_Places]:
        for start, stop in _chunks(rows.shape[0], _CHUNK_VALUES // n):
            part = to_float32(rows[start:stop])
            part = np.where(np.isnan(part), np.float32(-np.inf), part)
            ids = np.argsort(-part, axis=1, kind="stable")
            yield _without_self(np.take_along_axis(part, ids, axis=1), ids, classes, start)

    return _summary(classes, depths, at_r, places())


def _chunks(n: int, size: int) -> list[tuple[int, int]]:
    size = max(1, size)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _search_depth(n: int, deepest: int, positives: int, own: bool) -> int:
    """Places to search for: those that count, the query's own, and one more that shows whether a tie goes on."""
    most = MAX_K - 1 - own
    if n > MAX_K and positives > most:
        raise ShapeError(
            f"a query has {positives} positives, and MAP@R needs as many places of its ranking, of which at most "
            f"{most} are searched; pass at_r=False for the metrics at k alone, or use evaluate's mAP"
        )
    if n > MAX_K and deepest > most:
        raise ShapeError(f"k is {deepest}; with a gallery of {n} rows it must be from 1 to {most}")
    return min(n, max(deepest, positives) + own + 1)


def _without_self(scores: F32, ids: I64, classes: Classes, start: int) -> _Places:
    """Places of queries start, start + 1, ..., each query's own row taken out where it is to be left out."""
    count = scores.shape[0]
    if classes.exclude_self:
        others = ids != np.arange(start, start + count)[:, None]
        others[others.all(axis=1), -1] = False  # the row itself is not among them: the last place goes instead
        scores, ids = scores[others].reshape(count, -1), ids[others].reshape(count, -1)
    return _Places(scores, classes.gallery_classes[ids] == classes.query_classes[start : start + count, None])


@dataclass(frozen=True)
class _Search:
    """Exact rankings from top-k search, in bounded memory."""

    queries: Any
    gallery: Any
    classes: Classes
    metric: Metric
    threads: int | None

    def places(self, depth: int, deepest: int) -> Iterator[_Places]:
        """The first `depth` places of all queries, chunk by chunk; the first `deepest` count for nDCG."""
        prepared = prepare_gallery(self.gallery, self.metric, self.threads)
        for start, stop in _chunks(self.queries.shape[0], _CHUNK_VALUES // depth):
            scores, ids = topk(self.queries[start:stop], prepared, depth, metric=self.metric, threads=self.threads)
            found = _without_self(np.asarray(scores), np.asarray(ids), self.classes, start)
            yield found if depth == self.gallery.shape[0] else self._with_whole_tie(found, start, deepest)

    def _with_whole_tie(self, found: _Places, start: int, deepest: int) -> _Places:
        """Where a tie reaches from the last place that counts to the last one known, it may go on: count it all."""
        cut = np.flatnonzero(found.scores[:, deepest - 1] == found.scores[:, -1])
        if not cut.size:
            return found
        tied = found.scores == found.scores[:, -1:]
        size, right = tied.sum(axis=1), (tied & found.right).sum(axis=1)
        for first, last in _chunks(cut.size, _TIE_QUERIES):
            some = cut[first:last]
            size[some], right[some] = self._tie(start + some, found.scores[some, -1])
        return _Places(found.scores, found.right, (size, right))

    def _tie(self, numbers: I64, score: F32) -> tuple[I64, I64]:
        """How many gallery rows have exactly this score [q] for queries `numbers` [q], and how many of them are right.

        Reads every score of these queries: a search for all rows of each piece, whose bits do not depend on the piece.
        """
        queries, classes = self.queries[numbers], self.classes
        size, right = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        for start, stop in _chunks(self.gallery.shape[0], MAX_K):
            piece = self.gallery[start:stop]
            scores, ids = topk(queries, piece, stop - start, metric=self.metric, threads=self.threads)
            rows = np.asarray(ids) + start
            tied = np.asarray(scores) == score[:, None]
            if classes.exclude_self:
                tied &= rows != numbers[:, None]
            size += tied.sum(axis=1)
            right += (tied & (classes.gallery_classes[rows] == classes.query_classes[numbers][:, None])).sum(axis=1)
        return size, right


def _summary(classes: Classes, depths: tuple[int, ...], at_r: bool, places: Iterator[_Places]) -> TopMetrics:
    parts, start = [], 0
    for found in places:
        stop = start + found.scores.shape[0]
        parts.append(_per_query(found, classes.positives[start:stop], depths, at_r))
        start = stop
    per_query = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ranked = classes.positives > 0
    count = int(ranked.sum())
    means = {name: float(values[ranked].mean()) if count else 0.0 for name, values in per_query.items()}
    return TopMetrics(
        hit_rate={depth: means[f"hit_rate@{depth}"] for depth in depths},
        recall={depth: means[f"recall@{depth}"] for depth in depths},
        precision={depth: means[f"precision@{depth}"] for depth in depths},
        ndcg={depth: means[f"ndcg@{depth}"] for depth in depths},
        map_at_r=means.get("map_at_r"),
        r_precision=means.get("r_precision"),
        queries=count,
        skipped=len(ranked) - count,
        positives=classes.positives,
        per_query=per_query,
    )


def _per_query(found: _Places, positives: I64, depths: tuple[int, ...], at_r: bool) -> dict[str, F64]:
    places = found.right.shape[1]
    right = _sums(found.right)  # [q, places + 1]: right rows among the first 0, 1, 2, ...
    total = np.maximum(positives, 1)  # a query without positives has 0 right rows, and 0 in every metric
    place = np.arange(1, places + 1)
    values: dict[str, F64] = {}
    if at_r:
        counted = found.right & (place <= positives[:, None])
        values["map_at_r"] = (counted * right[:, 1:] / place).sum(axis=1) / total
        values["r_precision"] = right[np.arange(len(total)), np.minimum(positives, places)] / total
    gains = _sums(_tied_gains(found) / np.log2(place + 1))
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(depths) + 2)))])
    for depth in depths:
        known = min(depth, places)
        values[f"hit_rate@{depth}"] = (right[:, known] > 0).astype(np.float64)
        values[f"recall@{depth}"] = right[:, known] / total
        values[f"precision@{depth}"] = right[:, known] / depth
        values[f"ndcg@{depth}"] = gains[:, known] / ideal[np.minimum(total, depth)]
    return values


def _sums(values: npt.NDArray[Any]) -> F64:
    """[q, places] -> float64 [q, places + 1], sums of the first 0, 1, 2, ... of each row."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _tied_gains(found: _Places) -> F64:
    """Each place's expected gain when equal scores come in random order: the share of right rows in its group."""
    if not found.right.size:
        return np.zeros(found.right.shape)
    first = np.ones(found.scores.shape, bool)
    first[:, 1:] = found.scores[:, 1:] != found.scores[:, :-1]
    group = (np.cumsum(first) - 1).reshape(first.shape)
    size = np.bincount(group.ravel()).astype(np.float64)
    right = np.bincount(group.ravel(), weights=found.right.ravel())
    if found.last_group is not None:
        size[group[:, -1]], right[group[:, -1]] = found.last_group
    gains: F64 = (right / size)[group]
    return gains
