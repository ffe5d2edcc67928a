"""Exact top-k search over stored rows, and over a gallery that is upgraded on the fly. Needs numpy only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, DtypeError, ShapeError
from fct_fast.kernels import native, resolve_level, usable_threads
from fct_fast.kernels.arrays import as_rows, cuda_place, is_torch, like
from fct_fast.kernels.cuda import cuda_device

if TYPE_CHECKING:
    from fct_fast.upgrader import Upgrader

__all__ = ["MAX_K", "PreparedGallery", "prepare_gallery", "search_upgraded", "topk"]

Metric = Literal["cosine", "ip", "l2"]
MAX_K = 2048

_CHUNK_BYTES = 16 << 20  # upgraded rows that are held at a time by an on-the-fly search
_COARSE_BYTES = 64 << 20  # rows in int8 that are held at a time by a search in int8 of plain rows
_CUDA_CHUNK_BYTES = 64 << 20  # rows that cross the link at a time on their way to a GPU, or are upgraded there


@dataclass(frozen=True, eq=False)
class PreparedGallery:
    """A gallery packed once for many `topk` calls. Made by `prepare_gallery`.

    precision "fp32": `panels` are a float32 copy of the rows. "int8": `panels` are the rows in int8, a quarter of that,
    and `source` the rows as they were given, of which a search reads the few that int8 cannot rule out.
    """

    panels: npt.NDArray[Any]
    rows: int
    dim: int
    metric: Metric
    precision: str = "fp32"
    source: Any = None


def prepare_gallery(
    gallery: Any, metric: Metric = "cosine", threads: int | None = None, precision: str = "auto"
) -> PreparedGallery:
    """Pack gallery [n, dim] (float32, float16 or bfloat16) for `topk` calls with the same metric.

    Saves the packing, which is most of the work where a call has few queries. precision "fp32" or "int8" (not for
    "l2"): the answers have the same bits; int8 reads a quarter of the memory and multiplies faster, and keeps a copy of
    the rows in their own dtype (rows that are read-only, such as a memory map, are kept as they are). "auto" is fp32.
    Raises ShapeError, DtypeError, ConfigError.
    """
    _check_metric(metric)
    precision = _check_precision(precision, metric)
    rows = as_rows(gallery, "gallery")
    if precision == "int8":
        return _in_int8(_kept(rows), metric, usable_threads(threads))
    n, dim = (int(x) for x in rows.shape)
    width = native().panel_width
    panels = np.empty(-(-n // width) * width * dim, np.float32)
    native().pack_gallery(resolve_level(), rows, metric, panels, usable_threads(threads))
    return PreparedGallery(panels, n, dim, metric)


def topk(
    queries: Any,
    gallery: Any,
    k: int = 10,
    metric: Metric = "cosine",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any]:
    """The k nearest gallery rows of each query, exactly.

    queries [nq, dim], gallery [n, dim] or a PreparedGallery -> scores float32 [nq, k], ids int64 [nq, k] (row numbers),
    best first, equal scores by lower id, NaN last. metric "cosine" and "ip": higher is better; "l2": squared distance,
    lower is better. A row of zero norm has cosine 0. torch in, torch out. The bits of a score do not depend on batch or
    threads. precision "int8" (not for "l2") scores in int8, and again in float32 whatever that cannot rule out: the
    answer is that of "fp32", bit for bit; "auto" is the precision of a prepared gallery, and fp32 for plain rows; on a
    GPU it lets 16-bit scores choose what is scored in float32, again without a change of the answer.
    device "auto": the GPU that queries or gallery lie on, else the CPU; "cuda" and "cuda:N" also take arrays of the
    host, in pieces. The answer is where the queries are.
    Raises ShapeError (dims; k outside 1 .. min(n, 2048)), DtypeError, ConfigError, DeviceError.
    """
    _check_metric(metric)
    wanted = _check_precision(precision, metric)
    if device == "auto":
        device = cuda_place(queries) or cuda_place(gallery) or "cpu"
    gpu = None if device == "cpu" else cuda_device(device)
    place = "cpu" if gpu is None else f"cuda:{gpu}"
    query_rows = as_rows(queries, "queries", device=place)
    rows = gallery if isinstance(gallery, PreparedGallery) else as_rows(gallery, "gallery", device=place)
    if isinstance(rows, PreparedGallery):
        if rows.metric != metric:
            raise ConfigError(f"this gallery was prepared for metric {rows.metric!r} and is searched with {metric!r}")
        if precision not in ("auto", rows.precision):
            raise ConfigError(
                f"this gallery was prepared in {rows.precision} and is searched in {precision}; use 'auto'"
            )
        n, dim = rows.rows, rows.dim
    else:
        n, dim = (int(x) for x in rows.shape)
    if query_rows.shape[1] != dim:
        raise ShapeError(
            f"queries have {query_rows.shape[1]} dimensions and the gallery has {dim}; "
            f"they must be embeddings of one space"
        )
    k = _check_k(k, n)
    if gpu is not None:
        if isinstance(rows, PreparedGallery):
            raise ConfigError("a prepared gallery is packed for the CPU; give the rows themselves to search on a GPU")
        coarse = "fp16" if precision == "auto" else wanted
        scores, ids = _on_device(query_rows, [rows], k, metric, place, coarse, lambda _, parts: parts[0])
        return like(queries, scores), like(queries, ids)
    merge = _Merge(query_rows, k, metric, usable_threads(threads))
    if isinstance(rows, PreparedGallery) or wanted == "fp32":
        merge.add(rows)
    else:
        for start, stop in _chunks(n, max(k, _COARSE_BYTES // dim)):
            merge.add(_in_int8(rows[start:stop], metric, usable_threads(threads)))
    return merge.result()


def _in_int8(rows: Any, metric: Metric, threads: int) -> PreparedGallery:
    n, dim = (int(x) for x in rows.shape)
    panels = np.empty(native().coarse_bytes(n, dim), np.uint8)
    native().pack_coarse_gallery(resolve_level(), rows, metric, panels, threads)
    return PreparedGallery(panels, n, dim, metric, "int8", rows)


def _kept(rows: Any) -> Any:
    """Rows that nobody changes: a copy, or read-only ones as they are."""
    if is_torch(rows):
        return rows.clone()
    return rows.copy() if rows.flags.writeable else rows


def search_upgraded(
    up: Upgrader, queries: Any, old: Any, side: Any, k: int, metric: Metric
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """`Upgrader.search`: upgrade a chunk, score it, drop it."""
    _check_metric(metric)
    query_rows = as_rows(queries, "queries", up.new_dim, up.device)
    n = int(old.shape[0])
    k = _check_k(k, n)
    if up.device != "cpu":
        rows = [old] if side is None else [old, side]

        def upgraded(start: int, parts: list[Any]) -> Any:
            return up.device_chunk(parts[0], parts[1] if len(parts) > 1 else None, start, n)

        scores, ids = _on_device(query_rows, rows, k, metric, up.device, "fp16", upgraded, up.new_dim)
        return like(queries, scores), like(queries, ids)
    merge = _Merge(query_rows, k, metric, up.threads, up.level)
    chunk = max(k, _CHUNK_BYTES // (4 * up.new_dim))
    for start, stop in _chunks(n, chunk):
        merge.add(up.chunk(old[start:stop], None if side is None else side[start:stop], start))
    return merge.result()


def _on_device(
    queries: Any,
    rows: list[Any],
    k: int,
    metric: Metric,
    place: str,
    coarse: str,
    gallery_of: Callable[[int, list[Any]], Any],
    new_dim: int = 0,
) -> tuple[Any, Any]:
    """The search on the GPU `place` over the gallery rows that gallery_of(first row, [rows, ...]) makes of pieces of
    `rows`; new_dim: of these, where they are not rows[0] itself. The answer is where the queries are."""
    import torch

    from fct_fast.kernels.cuda_search import CudaMerge, current, fed, on_device

    device = torch.device(place)
    with current(device):
        merge = CudaMerge(on_device(queries, device), k, metric, coarse)
        n = int(rows[0].shape[0])
        widest = max(4 * new_dim, *(int(x.shape[1]) * x.dtype.itemsize for x in rows))
        chunk = max(k, _CUDA_CHUNK_BYTES // widest)
        if all(cuda_place(x) for x in rows):
            there = chunk if new_dim else n
            pieces: Any = ((start, [x[start:stop] for x in rows]) for start, stop in _chunks(n, there))
        elif any(cuda_place(x) for x in rows):
            raise DtypeError("old and side lie on two devices; move one of them")
        else:
            pieces = fed(rows, chunk, device)
        for start, parts in pieces:
            merge.add(gallery_of(start, parts))
        scores, ids = merge.result()
        if cuda_place(queries):
            return scores, ids
        scores, ids = scores.cpu(), ids.cpu()
    return (scores, ids) if is_torch(queries) else (scores.numpy(), ids.numpy())


class _Merge:
    """A top-k result over galleries that arrive in pieces, in row order."""

    def __init__(self, queries: Any, k: int, metric: Metric, threads: int, level: str | None = None) -> None:
        self._queries, self._k, self._metric, self._threads = queries, k, metric, threads
        self._level = resolve_level(level)
        self._scores = np.empty((queries.shape[0], k), np.float32)
        self._ids = np.empty((queries.shape[0], k), np.int64)
        self._rows = 0

    def add(self, gallery: Any) -> None:
        """The first piece must hold at least k rows."""
        place = self._metric, self._k, self._rows, self._rows > 0
        found = self._scores.reshape(-1), self._ids.reshape(-1)
        if not isinstance(gallery, PreparedGallery):
            native().topk(self._level, self._queries, gallery, -1, *place, *found, self._threads)
            self._rows += int(gallery.shape[0])
            return
        if gallery.precision == "int8":
            rows, panels = gallery.source, gallery.panels
            native().topk_coarse(self._level, self._queries, rows, panels, *place, *found, self._threads)
        else:
            native().topk(self._level, self._queries, gallery.panels, gallery.rows, *place, *found, self._threads)
        self._rows += gallery.rows

    def result(self) -> tuple[Any, Any]:
        if is_torch(self._queries):
            import torch

            return torch.from_numpy(self._scores), torch.from_numpy(self._ids)
        return self._scores, self._ids


def _chunks(n: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _check_metric(metric: str) -> None:
    if metric not in ("cosine", "ip", "l2"):
        raise ConfigError(f"metric is {metric!r}; use 'cosine', 'ip' or 'l2'")


def _check_precision(precision: str, metric: Metric) -> str:
    if precision not in ("auto", "fp32", "int8"):
        raise ConfigError(f"precision is {precision!r}; a search has 'auto', 'fp32' and 'int8'")
    if precision == "int8" and metric == "l2":
        raise ConfigError("precision 'int8' is for metrics 'cosine' and 'ip'; search 'l2' in 'fp32'")
    return "fp32" if precision == "auto" else precision


def _check_k(k: int, n: int) -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise ConfigError(f"k is {k!r}; use a whole number")
    if n == 0:
        raise ShapeError("the gallery is empty, so there is nothing to search")
    if not 1 <= k <= min(n, MAX_K):
        raise ShapeError(
            f"k is {k}; it must be from 1 to {min(n, MAX_K)} (the gallery has {n} rows, k goes up to {MAX_K})"
        )
    return operator.index(k)
