"""Exact CMC@k and mAP over the full ranking, in bounded memory.

Conventions: queries without positives are skipped and counted. Average precision groups equal scores, as
sklearn.metrics.average_precision_score does; CMC orders equal scores by lower row.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.kernels import native, resolve_level, usable_threads
from fct_fast.kernels.arrays import as_rows, to_float32

__all__ = ["Evaluation", "evaluate", "rank_scores"]

I64 = npt.NDArray[np.int64]
_CHUNK_ROWS = 65536


@dataclass(frozen=True)
class Evaluation:
    """Retrieval quality. `cmc[k]`: share of queries with a positive among the first k; `map`: mean average precision.

    Fractions in [0, 1], over the `queries` that have a positive; `skipped` have none. Per query, in query order:
    `first_rank` int64 [nq] (1 is best, 0 = skipped) and `average_precision` float64 [nq] (0 = skipped).
    """

    cmc: Mapping[int, float]
    map: float
    queries: int
    skipped: int
    first_rank: I64 = field(repr=False)
    average_precision: npt.NDArray[np.float64] = field(repr=False)

    def select(self, mask: npt.NDArray[np.bool_]) -> Evaluation:
        """The same metrics over the queries where mask [nq] is True."""
        chosen = np.asarray(mask)
        if chosen.shape != self.first_rank.shape or chosen.dtype != np.bool_:
            raise ShapeError(
                f"mask is {chosen.dtype} {list(chosen.shape)}, expected bool {list(self.first_rank.shape)}"
            )
        return _summary(self.first_rank[chosen], self.average_precision[chosen], tuple(self.cmc))


def evaluate(
    queries: Any,
    gallery: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5),
    threads: int | None = None,
) -> Evaluation:
    """Rank the whole gallery for each query: queries [nq, dim], gallery [n, dim], labels [nq] and [n] (integers or
    text).

    exclude_self: True = query i is gallery row i and is left out; False; "auto" = True where no gallery_labels are
    given, in which case the gallery has the queries' labels. Memory: one float32 copy of the gallery and a strip of
    scores a thread, never all scores.
    Raises ShapeError, DtypeError, ConfigError, NonFiniteError (first row with NaN or Inf).
    """
    if metric not in ("cosine", "ip", "l2"):
        raise ConfigError(f"metric is {metric!r}; use 'cosine', 'ip' or 'l2'")
    depths = _depths(k)
    query_rows, gallery_rows = as_rows(queries, "queries"), as_rows(gallery, "gallery")
    if query_rows.shape[1] != gallery_rows.shape[1]:
        raise ShapeError(
            f"queries have {query_rows.shape[1]} dimensions and the gallery has {gallery_rows.shape[1]}; "
            f"they must be embeddings of one space"
        )
    _check_finite("queries", query_rows)
    if gallery_rows is not query_rows:
        _check_finite("gallery", gallery_rows)
    classes = _Classes(query_rows.shape[0], gallery_rows.shape[0], query_labels, gallery_labels, exclude_self)
    ranks = classes.empty_result()
    native().rank(
        resolve_level(), query_rows, gallery_rows, metric, *classes.arguments(), *ranks, usable_threads(threads)
    )
    return _summary(ranks[0], ranks[1], depths)


def rank_scores(
    scores: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5),
    threads: int | None = None,
) -> Evaluation:
    """`evaluate` over scores that the caller has: scores float32 [nq, n], higher is better; NaN counts as -Inf."""
    depths = _depths(k)
    rows = as_rows(scores, "scores")
    rows = np.ascontiguousarray(to_float32(rows))
    classes = _Classes(rows.shape[0], rows.shape[1], query_labels, gallery_labels, exclude_self)
    ranks = classes.empty_result()
    native().rank_scores(resolve_level(), rows, *classes.arguments(), *ranks, usable_threads(threads))
    return _summary(ranks[0], ranks[1], depths)


class _Classes:
    """Labels as the kernel wants them: class numbers of the queries, and the gallery rows of each class."""

    def __init__(
        self,
        queries: int,
        rows: int,
        query_labels: npt.ArrayLike,
        gallery_labels: npt.ArrayLike | None,
        exclude_self: bool | Literal["auto"],
    ) -> None:
        if not isinstance(exclude_self, bool) and not (isinstance(exclude_self, str) and exclude_self == "auto"):
            raise ConfigError(f"exclude_self is {exclude_self!r}; use True, False or 'auto'")
        if queries == 0 or rows == 0:
            raise ShapeError(f"there is nothing to rank: {queries} queries and {rows} gallery rows")
        wanted = _labels("query_labels", query_labels, queries)
        if gallery_labels is None and queries != rows:
            raise ShapeError(
                f"without gallery_labels the gallery is the queries' own, but there are {queries} queries, {rows} rows"
            )
        stored = wanted if gallery_labels is None else _labels("gallery_labels", gallery_labels, rows)
        self.exclude_self = (gallery_labels is None) if exclude_self == "auto" else bool(exclude_self)
        if self.exclude_self and queries > rows:
            raise ShapeError(
                f"exclude_self says that query i is gallery row i, but there are {queries} queries and {rows} rows"
            )
        wanted, stored = _one_kind(wanted, stored)
        names, numbers = np.unique(stored, return_inverse=True)
        place = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        self.query_classes: I64 = np.where(names[place] == wanted, place, -1).astype(np.int64)
        self.class_rows: I64 = np.argsort(numbers, kind="stable").astype(np.int64)
        self.class_starts: I64 = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(names)))]).astype(
            np.int64
        )

    def arguments(self) -> tuple[I64, I64, I64, bool]:
        return self.query_classes, self.class_starts, self.class_rows, self.exclude_self

    def empty_result(self) -> tuple[I64, npt.NDArray[np.float64], I64]:
        """first_rank, average_precision and number of positives, to be filled."""
        n = self.query_classes.shape[0]
        return np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.int64)


def _summary(first_rank: I64, average_precision: npt.NDArray[np.float64], k: tuple[int, ...]) -> Evaluation:
    ranked = first_rank > 0
    count = int(ranked.sum())
    ranks = first_rank[ranked]
    return Evaluation(
        cmc={int(depth): float((ranks <= depth).mean()) if count else 0.0 for depth in k},
        map=float(average_precision[ranked].mean()) if count else 0.0,
        queries=count,
        skipped=int(first_rank.shape[0]) - count,
        first_rank=first_rank,
        average_precision=average_precision,
    )


def _depths(k: int | Sequence[int]) -> tuple[int, ...]:
    depths: tuple[Any, ...] = tuple(k) if isinstance(k, Iterable) else (k,)
    if not depths or any(isinstance(d, bool) or not hasattr(d, "__index__") or d < 1 for d in depths):
        raise ConfigError(f"k is {k!r}; CMC@k needs whole numbers from 1 up")
    return tuple(operator.index(depth) for depth in depths)


def _labels(name: str, labels: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
    """Labels as an array of integers (kind i or u) or of text (kind U)."""
    try:
        array = np.asarray(labels)
    except ValueError as error:
        raise ShapeError(f"{name} are of unequal lengths, expected one label a row: [{rows}]") from error
    if array.shape != (rows,):
        raise ShapeError(f"{name} has shape {list(array.shape)}, expected one label a row: [{rows}]")
    if array.dtype.kind == "T" or (array.dtype.kind == "O" and all(isinstance(label, str) for label in array)):
        array = array.astype(np.str_)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuUS":
        raise ConfigError(f"{name} has dtype {array.dtype}; labels are integers or text")
    return array


def _one_kind(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two label arrays that may be compared: numpy would compare int64 with uint64 as rounded floats."""
    kinds = a.dtype.kind + b.dtype.kind
    if kinds in ("iu", "ui"):
        unsigned = a if a.dtype.kind == "u" else b
        if unsigned.size and int(unsigned.max()) > np.iinfo(np.int64).max:
            raise ConfigError("labels beyond int64 on one side and signed labels on the other cannot be compared")
        return a.astype(np.int64), b.astype(np.int64)
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"query labels are {a.dtype} and gallery labels {b.dtype}; give both as integers or both as text"
        )
    return a, b


def _check_finite(name: str, rows: Any) -> None:
    for start in range(0, rows.shape[0], _CHUNK_ROWS):
        finite = np.isfinite(to_float32(rows[start : start + _CHUNK_ROWS])).all(axis=1)
        if not finite.all():
            raise NonFiniteError(f"row {start + int(finite.argmin())} of {name} holds NaN or Inf, which has no rank")
