"""Which gallery rows are right for which query: labels and rows checked once, for every metric alike."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.kernels.arrays import as_rows, is_torch

__all__ = ["I64", "Classes", "check_finite", "depths_of", "labels_of", "rows_of_one_space"]

I64 = npt.NDArray[np.int64]
_CHUNK_ROWS = 65536


class Classes:
    """Labels as kernels and metrics want them: class numbers of queries and rows, and the gallery rows of each class.

    `query_classes` int64 [nq], -1 where no gallery row has the query's label; `gallery_classes` int64 [n];
    `positives` int64 [nq], how many gallery rows are right for a query (itself left out with `exclude_self`);
    `class_rows` int64 [n], the rows of class c being class_rows[class_starts[c] : class_starts[c + 1]], ascending.
    """

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
        wanted = labels_of("query_labels", query_labels, queries)
        if gallery_labels is None and queries != rows:
            raise ShapeError(
                f"without gallery_labels the gallery is the queries' own, but there are {queries} queries, {rows} rows"
            )
        stored = wanted if gallery_labels is None else labels_of("gallery_labels", gallery_labels, rows)
        self.exclude_self = (gallery_labels is None) if exclude_self == "auto" else bool(exclude_self)
        if self.exclude_self and queries > rows:
            raise ShapeError(
                f"exclude_self says that query i is gallery row i, but there are {queries} queries and {rows} rows"
            )
        wanted, stored = _one_kind(wanted, stored)
        names, numbers = np.unique(stored, return_inverse=True)
        place = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        self.query_classes: I64 = np.where(names[place] == wanted, place, -1).astype(np.int64)
        self.gallery_classes: I64 = numbers.astype(np.int64, copy=False)
        self.class_rows: I64 = np.argsort(numbers, kind="stable").astype(np.int64)
        sizes = np.bincount(numbers, minlength=len(names))
        self.class_starts: I64 = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.positives: I64 = np.where(self.query_classes < 0, 0, sizes[self.query_classes]).astype(np.int64)
        if self.exclude_self:
            self.positives -= self.query_classes == self.gallery_classes[:queries]

    def arguments(self) -> tuple[I64, I64, I64, bool]:
        return self.query_classes, self.class_starts, self.class_rows, self.exclude_self

    def empty_result(self) -> tuple[I64, npt.NDArray[np.float64], I64]:
        """first_rank, average_precision and number of positives, to be filled."""
        n = self.query_classes.shape[0]
        return np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.int64)


def depths_of(k: int | Sequence[int]) -> tuple[int, ...]:
    depths: tuple[Any, ...] = tuple(k) if isinstance(k, Iterable) else (k,)
    if not depths or any(isinstance(d, bool) or not hasattr(d, "__index__") or d < 1 for d in depths):
        raise ConfigError(f"k is {k!r}; CMC@k and other metrics at k need whole numbers from 1 up")
    return tuple(operator.index(depth) for depth in depths)


def rows_of_one_space(queries: Any, gallery: Any, metric: str, device: str = "cpu") -> tuple[Any, Any]:
    """Both as rows (see `as_rows`), checked: a known metric, one width, every value finite.

    Raises ConfigError, DtypeError, ShapeError, NonFiniteError (first row with NaN or Inf).
    """
    if metric not in ("cosine", "ip", "l2"):
        raise ConfigError(f"metric is {metric!r}; use 'cosine', 'ip' or 'l2'")
    query_rows = as_rows(queries, "queries", device=device)
    gallery_rows = query_rows if gallery is queries else as_rows(gallery, "gallery", device=device)
    if query_rows.shape[1] != gallery_rows.shape[1]:
        raise ShapeError(
            f"queries have {query_rows.shape[1]} dimensions and the gallery has {gallery_rows.shape[1]}; "
            f"they must be embeddings of one space"
        )
    check_finite("queries", query_rows)
    if gallery_rows is not query_rows:
        check_finite("gallery", gallery_rows)
    return query_rows, gallery_rows


def labels_of(name: str, labels: npt.ArrayLike, rows: int) -> npt.NDArray[Any]:
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


def check_finite(name: str, rows: Any) -> None:
    """Raises NonFiniteError naming the first row with NaN or Inf."""
    for start in range(0, rows.shape[0], _CHUNK_ROWS):
        part = rows[start : start + _CHUNK_ROWS]
        finite = part.isfinite().all(1).cpu().numpy() if is_torch(part) else np.isfinite(part).all(axis=1)
        if not finite.all():
            raise NonFiniteError(f"row {start + int(finite.argmin())} of {name} holds NaN or Inf, which has no rank")
