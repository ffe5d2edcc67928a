"""Which rows of a gallery to re-embed for fitting h, and how many.

The pairs must look like the gallery: rows are drawn from clusters of it in proportion to their sizes, at least one from
each, so that no region is left to chance. How many: retrieval by closed forms saturates near 10,000 pairs (Maystre et
al., arXiv 2510.13406), and a map with d inputs needs some rows for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError

__all__ = ["Sample", "sample_rows"]

I64 = npt.NDArray[np.int64]

SATURATION = 10_000  # pairs
PER_INPUT = 40  # pairs for each value that a map reads
CLUSTER_ROWS = 65_536  # that the clusters are found on
CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Sample:
    """rows: row numbers, rising, int64 [count]. clusters: how many the gallery was parted into. why: the count, in a
    sentence."""

    rows: I64
    clusters: int
    why: str


def sample_rows(old: Any, side: Any = None, *, count: int | None = None, seed: int = 0) -> Sample:
    """Rows of a gallery to re-embed: old [n, old_dim] and side [n, side_dim] as they are stored, memory-mapped or not.

    count: how many; None is enough for h on these widths, and all where there are not so many. The same arguments give
    the same rows. Raises ShapeError, and ConfigError for a count that the gallery does not have.
    """
    if old.ndim != 2 or (side is not None and (side.ndim != 2 or len(side) != len(old))):
        raise ShapeError(f"old and side must be [rows, dim] with as many rows, got {list(old.shape)} and "
                         f"{None if side is None else list(side.shape)}")  # fmt: skip
    n, width = len(old), old.shape[1] + (0 if side is None else side.shape[1])
    enough = max(SATURATION, PER_INPUT * width)
    if count is None:
        count = min(n, enough)
        why = (
            f"{count:,} of {n:,} rows: the larger of {SATURATION:,}, where maps of embeddings saturate, and "
            f"{PER_INPUT} for each of the {width} stored values"
            if count < n
            else f"all {n:,} rows, since {enough:,} would be enough"
        )
    elif not 1 <= count <= n:
        raise ConfigError(f"count is {count}, but the gallery has {n} rows; ask for 1 to {n}")
    else:
        why = f"{count:,} of {n:,} rows, as asked for; {min(n, enough):,} would be enough"
    if count == n:
        return Sample(np.arange(n, dtype=np.int64), 1, why)
    rng = np.random.default_rng(seed)
    clusters = max(1, min(256, count // 32))
    labels = _clusters(old, side, clusters, seed, rng)
    return Sample(_drawn(labels, clusters, count, rng), clusters, why)


def _clusters(old: Any, side: Any, clusters: int, seed: int, rng: np.random.Generator) -> I64:
    """The cluster of each row, of unit rows of each input side by side, so that angles count and both weigh alike."""
    from sklearn.cluster import MiniBatchKMeans

    def rows(at: Any) -> npt.NDArray[np.float32]:
        parts = [np.asarray(x[at], np.float32) for x in (old, side) if x is not None]
        units = [p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-30) for p in parts]
        return np.asarray(np.nan_to_num(np.concatenate(units, axis=1)), np.float32)

    n = len(old)
    seen = np.sort(rng.permutation(n)[:CLUSTER_ROWS])
    kmeans = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=4096).fit(rows(seen))
    starts = range(0, n, CHUNK_ROWS)
    return np.concatenate([kmeans.predict(rows(slice(start, start + CHUNK_ROWS))) for start in starts]).astype(np.int64)


def _drawn(labels: I64, clusters: int, count: int, rng: np.random.Generator) -> I64:
    """`count` rows, each cluster in proportion (at least one of each that has any), which ones by chance."""
    sizes = np.bincount(labels, minlength=clusters)
    ideal = count * sizes / sizes.sum()
    quota = np.minimum(np.maximum(np.floor(ideal), sizes > 0), sizes).astype(np.int64)
    # What rounding left over goes to the clusters that are furthest below their share; too much is taken back likewise.
    while (gap := count - int(quota.sum())) != 0:
        open_ = quota < sizes if gap > 0 else quota > 1
        lack = np.where(open_, (ideal - quota) * np.sign(gap), -np.inf)
        best = np.argsort(-lack, kind="stable")[: min(abs(gap), int(open_.sum()))]
        quota[best] += np.sign(gap)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < quota[labels[order]]]).astype(np.int64)
