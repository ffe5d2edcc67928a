"""Partial backfill: retrieval quality while a gallery is re-embedded row by row, at every point from one look.

A gallery row is served by its upgraded (or old, mapped) embedding until it is re-embedded by the new model. FastFill
(Jaeckle et al., ICLR 2023) orders the rows, most urgent first, and judges an order by the area under the curve of a
metric against the share re-embedded. Orders are in `fct_fast.evaluation.order`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.evaluation.classes import I64, Classes, check_finite, depths_of
from fct_fast.evaluation.rank import Evaluation, summary_of
from fct_fast.kernels import native, resolve_level, usable_threads
from fct_fast.kernels.arrays import as_rows

__all__ = ["BackfillCurve", "backfill_curve"]

F64 = npt.NDArray[np.float64]
_MAX_POINTS = 4096


@dataclass(frozen=True)
class BackfillCurve:
    """Retrieval quality at equally spaced points from nothing to everything re-embedded.

    `shares` float64 [points]: the share of the gallery that was re-embedded, exactly: floor(p n / (points - 1)) / n.
    `evaluations[p]`: what `evaluate` says of the gallery at point p, per query too.
    `auc`: plain mean over the points, as FastFill's code has it ("cmc1", "cmc5", ..., "map"); `trapezoid`: the area
    under straight lines between the points, in which the two ends weigh half. Fractions in [0, 1].
    """

    shares: F64
    evaluations: tuple[Evaluation, ...] = field(repr=False)

    @property
    def cmc(self) -> dict[int, F64]:
        """CMC@k at each point, float64 [points] for each k."""
        return {k: np.array([point.cmc[k] for point in self.evaluations]) for k in self.evaluations[0].cmc}

    @property
    def map(self) -> F64:
        """Mean average precision at each point, float64 [points]."""
        return np.array([point.map for point in self.evaluations])

    @property
    def auc(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self._metrics().items()}

    @property
    def trapezoid(self) -> dict[str, float]:
        return {name: float(np.trapezoid(values, self.shares)) for name, values in self._metrics().items()}

    @property
    def queries(self) -> int:
        """Queries that have a positive; the others are skipped."""
        return self.evaluations[0].queries

    @property
    def skipped(self) -> int:
        return self.evaluations[0].skipped

    @property
    def ranked(self) -> npt.NDArray[np.bool_]:
        """bool [nq]: the queries that have a positive, at every point the same."""
        return self.evaluations[0].first_rank > 0

    @property
    def auc_per_query(self) -> F64:
        """Mean over the points of each query's average precision, float64 [nq]; 0 where it was skipped.

        Its mean over the `ranked` queries is `auc["map"]`: two orders over the same queries are compared by pairs.
        """
        total: F64 = np.mean([point.average_precision for point in self.evaluations], axis=0)
        return total

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; nothing per query."""
        return {
            "shares": self.shares.tolist(),
            **{name: values.tolist() for name, values in self._metrics().items()},
            "auc": self.auc,
            "trapezoid": self.trapezoid,
            "queries": self.queries,
            "skipped": self.skipped,
        }

    def _metrics(self) -> dict[str, F64]:
        return {f"cmc{k}": values for k, values in self.cmc.items()} | {"map": self.map}


def backfill_curve(
    queries: Any,
    before: Any,
    after: Any,
    order: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    exclude_self: bool | Literal["auto"] = "auto",
    k: int | Sequence[int] = (1, 5),
    points: int = 22,
    threads: int | None = None,
) -> BackfillCurve:
    """queries [nq, dim] are rows of the new model. Gallery row j is before[j] (upgraded, or old and mapped) until its
    turn and after[j] (re-embedded) from then on; both [n, dim]. order [n]: the rows in the order of their turns, most
    urgent first. At point p of `points` the first floor(p n / (points - 1)) rows of the order are re-embedded.

    Labels, metric, exclude_self and k are those of `evaluate`, and every point equals `evaluate` over the mixed
    gallery to the last bit, at the cost of about two of them for the whole curve. Memory: a float32 copy of both
    galleries, two strips of scores a thread, and 16 bytes for each query and point.
    Raises ShapeError, DtypeError, ConfigError, NonFiniteError (first row with NaN or Inf).
    """
    if metric not in ("cosine", "ip", "l2"):
        raise ConfigError(f"metric is {metric!r}; use 'cosine', 'ip' or 'l2'")
    depths = depths_of(k)
    if isinstance(points, bool) or not hasattr(points, "__index__") or not 2 <= points <= _MAX_POINTS:
        raise ConfigError(f"points is {points!r}; a curve has a whole number of points from 2 to {_MAX_POINTS}")
    points = operator.index(points)
    query_rows, before_rows, after_rows = (
        as_rows(queries, "queries"),
        as_rows(before, "before"),
        as_rows(after, "after"),
    )
    if before_rows.shape[0] != after_rows.shape[0]:
        raise ShapeError(
            f"before has {before_rows.shape[0]} rows and after has {after_rows.shape[0]}; row j of both is one item"
        )
    for name, rows in (("before", before_rows), ("after", after_rows)):
        if rows.shape[1] != query_rows.shape[1]:
            raise ShapeError(
                f"queries have {query_rows.shape[1]} dimensions and {name} has {rows.shape[1]}; "
                f"all must be embeddings of the new space"
            )
    for name, rows in (("queries", query_rows), ("before", before_rows), ("after", after_rows)):
        check_finite(name, rows)
    nq, n = int(query_rows.shape[0]), int(before_rows.shape[0])
    classes = Classes(nq, n, query_labels, gallery_labels, exclude_self)
    cutoffs = np.arange(points, dtype=np.int64) * n // (points - 1)
    first_rank, average_precision = np.empty((points, nq), np.int64), np.empty((points, nq), np.float64)
    native().rank_curve(
        resolve_level(),
        query_rows,
        before_rows,
        after_rows,
        _replaced_at(order, n, cutoffs),
        points,
        metric,
        *classes.arguments(),
        first_rank.reshape(-1),
        average_precision.reshape(-1),
        usable_threads(threads),
    )
    return BackfillCurve(
        shares=cutoffs / n,
        evaluations=tuple(summary_of(first_rank[p], average_precision[p], depths) for p in range(points)),
    )


def _replaced_at(order: npt.ArrayLike, n: int, cutoffs: I64) -> npt.NDArray[np.int32]:
    """int32 [n]: the first point at which each row is re-embedded."""
    turns = np.asarray(order)
    if turns.shape != (n,):
        raise ShapeError(f"order has shape {list(turns.shape)}, expected each gallery row once: [{n}]")
    if turns.dtype.kind not in "iu":
        raise ConfigError(f"order has dtype {turns.dtype}; it holds row numbers, such as those of evaluation.order")
    if (np.sort(turns) != np.arange(n)).any():
        raise ConfigError(f"order is no permutation: it must hold each row from 0 to {n - 1} once")
    replaced_at = np.empty(n, np.int32)
    replaced_at[turns] = np.searchsorted(cutoffs, np.arange(n), side="right")
    return replaced_at
