"""Exact CMC@k and mAP over the full ranking, in bounded memory.

Conventions: queries without positives are skipped and counted. Average precision groups equal scores, as
sklearn.metrics.average_precision_score does; CMC orders equal scores by lower row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ShapeError
from fct_fast.evaluation.classes import I64, Classes, depths_of, rows_of_one_space
from fct_fast.kernels import native, resolve_level, usable_threads
from fct_fast.kernels.arrays import as_rows, cuda_place, to_float32
from fct_fast.kernels.cuda import cuda_device

__all__ = ["Evaluation", "evaluate", "rank_scores", "summary_of"]


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
        return summary_of(self.first_rank[chosen], self.average_precision[chosen], tuple(self.cmc))


def evaluate(
    queries: Any,
    gallery: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5),
    threads: int | None = None,
    device: str = "auto",
) -> Evaluation:
    """Rank the whole gallery for each query: queries [nq, dim], gallery [n, dim], labels [nq] and [n] (integers or
    text).

    exclude_self: True = query i is gallery row i and is left out; False; "auto" = True where no gallery_labels are
    given, in which case the gallery has the queries' labels. Memory: one float32 copy of the gallery and a strip of
    scores a thread, never all scores; on a GPU the rows and 1 GiB.
    device "auto": the GPU that queries or gallery lie on, else the CPU; "cuda" and "cuda:N" also take arrays of the
    host. The answer is the same.
    Raises ShapeError, DtypeError, ConfigError, NonFiniteError (first row with NaN or Inf), DeviceError.
    """
    depths = depths_of(k)
    if device == "auto":
        device = cuda_place(queries) or cuda_place(gallery) or "cpu"
    place = "cpu" if device == "cpu" else f"cuda:{cuda_device(device)}"
    query_rows, gallery_rows = rows_of_one_space(queries, gallery, metric, place)
    classes = Classes(query_rows.shape[0], gallery_rows.shape[0], query_labels, gallery_labels, exclude_self)
    ranks = classes.empty_result()
    if place != "cpu":
        from fct_fast.kernels.cuda_rank import rank_on_device

        rank_on_device(query_rows, gallery_rows, metric, classes.arguments(), ranks, place)
    else:
        native().rank(
            resolve_level(), query_rows, gallery_rows, metric, *classes.arguments(), *ranks, usable_threads(threads)
        )
    return summary_of(ranks[0], ranks[1], depths)


def rank_scores(
    scores: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5),
    threads: int | None = None,
) -> Evaluation:
    """`evaluate` over scores that the caller has: scores float32 [nq, n], higher is better; NaN counts as -Inf."""
    depths = depths_of(k)
    rows = as_rows(scores, "scores")
    rows = np.ascontiguousarray(to_float32(rows))
    classes = Classes(rows.shape[0], rows.shape[1], query_labels, gallery_labels, exclude_self)
    ranks = classes.empty_result()
    native().rank_scores(resolve_level(), rows, *classes.arguments(), *ranks, usable_threads(threads))
    return summary_of(ranks[0], ranks[1], depths)


def summary_of(first_rank: I64, average_precision: npt.NDArray[np.float64], k: tuple[int, ...]) -> Evaluation:
    """The Evaluation of what a ranking kernel found for each query."""
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
