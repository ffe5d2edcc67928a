"""Agreement of an upgraded gallery with the true new space, without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ShapeError
from fct_fast.kernels.arrays import as_rows
from fct_fast.search import MAX_K, topk

__all__ = ["Overlap", "neighbours", "overlap", "shared"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """`mean`: the share of the true k nearest neighbours that the upgraded rows keep, in [0, 1]; `per_query` [n]."""

    mean: float
    k: int
    per_query: npt.NDArray[np.float64] = field(repr=False)

    def __float__(self) -> float:
        return self.mean


def overlap(
    upgraded: Any,
    new: Any,
    k: int = 10,
    queries: Any = None,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    threads: int | None = None,
) -> Overlap:
    """Rows i of `upgraded` and `new` [n, dim] are one item, upgraded and truly re-embedded.

    For each query, its k nearest rows of `new` are the truth; the result is the share of them among its k nearest rows
    of `upgraded`. queries [nq, dim] are embeddings of the new model; by default the rows of `new` themselves, each left
    out of its own neighbours. Raises ShapeError, DtypeError, ConfigError.
    """
    upgraded, new = as_rows(upgraded, "upgraded"), as_rows(new, "new")
    if tuple(upgraded.shape) != tuple(new.shape):
        raise ShapeError(f"upgraded is {list(upgraded.shape)} and new is {list(new.shape)}; row i of both is one item")
    own = queries is None
    most = min(int(new.shape[0]) - own, MAX_K - own)
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= most:
        raise ShapeError(f"k is {k!r}; with {new.shape[0]} rows it must be a whole number from 1 to {most}")
    asked = new if own else as_rows(queries, "queries")
    if asked.shape[0] == 0:
        raise ShapeError("there are no queries, so there is no overlap to measure")
    truth = neighbours(asked, new, k, own=own, metric=metric, threads=threads)
    found = neighbours(asked, upgraded, k, own=own, metric=metric, threads=threads)
    per_query = shared(truth, found)
    return Overlap(mean=float(per_query.mean()), k=k, per_query=per_query)


def shared(truth: I64, found: I64) -> npt.NDArray[np.float64]:
    """Of each row of `truth` [nq, k], the share that the same row of `found` [nq, k] has too: [nq]."""
    kept = [np.intersect1d(a, b, assume_unique=True).size for a, b in zip(truth, found, strict=True)]
    return np.asarray(np.array(kept, np.float64) / truth.shape[1])


def neighbours(
    queries: Any,
    gallery: Any,
    k: int,
    *,
    own: bool = True,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    threads: int | None = None,
) -> I64:
    """Row numbers of the k nearest, [nq, k]; with `own`, row i is left out of the neighbours of query i."""
    ids: I64 = np.asarray(topk(queries, gallery, k + 1 if own else k, metric=metric, threads=threads)[1])
    if not own:
        return ids
    others = ids != np.arange(ids.shape[0])[:, None]
    others[others.all(axis=1), -1] = False  # the row itself was not among them: the last one goes instead
    nearest: I64 = ids[others].reshape(-1, k)
    return nearest
