"""Threshold shift: what an upgrade does to a decision threshold that was set in the old space.

Verification asks of a pair (query, gallery row) whether both are of one class, and accepts it where its score is beyond
a threshold, chosen so that a fixed share of the pairs of other classes is accepted: the false-positive rate. Scores of
the new space are distributed otherwise, so the same threshold gives another rate; this measures it, and the threshold
that gives the wanted rate again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.evaluation.classes import I64, Classes, rows_of_one_space
from fct_fast.kernels.arrays import to_float32

__all__ = ["OperatingPoint", "ThresholdShift", "threshold_shift"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Metric = Literal["cosine", "ip", "l2"]
Space = tuple[Any, Any]  # rows of queries and gallery
_CHUNK_VALUES = 1 << 20  # scores that are computed at a time
_CHUNK_PAIRS = 4096  # drawn positives whose rows are held at a time
_BLOCK = (32, 256)  # queries and rows of a block of drawn negatives
_MOST_POSITIVES = 200_000  # a share of so many is known to a tenth of a point


@dataclass(frozen=True)
class OperatingPoint:
    """Accept a pair whose score is above `threshold` (metric "l2": whose squared distance is below it). `fpr`, `tpr`:
    shares of the pairs of other classes and of the same class that are then accepted.
    """

    threshold: float
    fpr: float
    tpr: float


@dataclass(frozen=True)
class ThresholdShift:
    """`before`: the loosest threshold of the old space within `target_fpr`; `kept`: the same threshold after the
    upgrade; `after`: the loosest threshold of the upgraded space within `target_fpr`.

    `positives`, `negatives`: pairs of the same class and of others that the rates are shares of; `sampled`: whether
    they are a random sample of all pairs.
    """

    target_fpr: float
    before: OperatingPoint
    kept: OperatingPoint
    after: OperatingPoint
    positives: int
    negatives: int
    sampled: bool


def threshold_shift(
    before: Space,
    after: Space,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike | None = None,
    *,
    fpr: float = 1e-3,
    metric: Metric = "cosine",
    exclude_self: bool | Literal["auto"] = "auto",
    max_pairs: int = 10_000_000,
    seed: int = 0,
) -> ThresholdShift:
    """before, after: (queries [nq, dim], gallery [n, dim]) of the old space, and of the new queries and the upgraded
    gallery; the same items in the same order. Labels and exclude_self as `evaluate`.

    Exact over all nq * n pairs where they are at most max_pairs. Else over a random sample, the same pairs in both
    spaces and always the same for a seed: about max_pairs pairs, in blocks of 32 queries by 256 rows, for those of
    other classes; and up to 200,000 of the same class, each pair as likely as any other. The fpr of a sample is within
    a few percent of itself where fpr * max_pairs >= 10,000. Memory: 16 bytes a pair, one float64 copy of the gallery.
    Raises ConfigError (also where so small an fpr cannot be measured on so few pairs), ShapeError, DtypeError,
    NonFiniteError.
    """
    if not 0 < fpr < 1:
        raise ConfigError(f"fpr is {fpr!r}; use a share between 0 and 1, such as 0.001")
    if isinstance(max_pairs, bool) or not hasattr(max_pairs, "__index__") or max_pairs < 1:
        raise ConfigError(f"max_pairs is {max_pairs!r}; use a whole number from 1 up")
    old, new = rows_of_one_space(*before, metric), rows_of_one_space(*after, metric)
    sizes = [(int(queries.shape[0]), int(gallery.shape[0])) for queries, gallery in (old, new)]
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"before has {sizes[0][0]} queries and {sizes[0][1]} gallery rows, after {sizes[1][0]} and {sizes[1][1]}; "
            f"both must hold the same items in the same order"
        )
    classes = Classes(*sizes[0], query_labels, gallery_labels, exclude_self)
    sampled = sizes[0][0] * sizes[0][1] > max_pairs
    if sampled:
        right = _sampled_positives((old, new), classes, seed, metric)
        wrong = _sampled_negatives((old, new), classes, max_pairs, seed, metric)
        old_scores, new_scores = zip(right, wrong, strict=True)
    else:
        old_scores, new_scores = (_all_scores(*space, classes, metric) for space in (old, new))
    positives, negatives = (len(scores) for scores in old_scores)
    if not positives or _accepted(negatives, fpr) < 1:
        raise ConfigError(
            f"there are {positives} pairs of the same class and {negatives} of others; a false-positive rate of {fpr} "
            f"needs at least 1 of the first and {math.ceil(1 / fpr)} of the second"
        )
    limits = [_loosest(scores[1], fpr) for scores in (old_scores, new_scores)]
    return ThresholdShift(
        target_fpr=fpr,
        before=_point(old_scores, limits[0], metric),
        kept=_point(new_scores, limits[0], metric),
        after=_point(new_scores, limits[1], metric),
        positives=positives,
        negatives=negatives,
        sampled=sampled,
    )


def _accepted(negatives: int, fpr: float) -> int:
    """The most negatives that may be accepted."""
    accepted = int(fpr * negatives)
    return accepted + ((accepted + 1) / max(negatives, 1) <= fpr)  # the product may have been rounded down


def _loosest(negatives: F32, fpr: float) -> np.float32:
    """The lowest score such that at most a share `fpr` of negatives is above it: the best one that is not accepted."""
    place = len(negatives) - 1 - _accepted(len(negatives), fpr)
    limit: np.float32 = np.partition(negatives, place)[place]
    return limit


def _point(scores: tuple[F32, F32], limit: np.float32, metric: Metric) -> OperatingPoint:
    tpr, fpr = (float((kind > limit).mean()) for kind in scores)
    return OperatingPoint(-float(limit) if metric == "l2" else float(limit), fpr, tpr)


def _all_scores(queries: Any, gallery: Any, classes: Classes, metric: Metric) -> tuple[F32, F32]:
    """Scores of all pairs of the same class and of other classes, higher is better."""
    same, others = [], []
    rows = np.arange(gallery.shape[0])
    step = max(1, _CHUNK_VALUES // len(rows))
    for start in range(0, queries.shape[0], step):
        part = np.arange(start, min(start + step, queries.shape[0]))
        scores = _scores(queries[part], gallery, metric)
        right, other = _kinds(classes, part, rows)
        same.append(scores[right & other])
        others.append(scores[~right & other])
    return np.concatenate(same), np.concatenate(others)


def _sampled_negatives(
    spaces: tuple[Space, Space], classes: Classes, count: int, seed: int, metric: Metric
) -> tuple[F32, F32]:
    """Scores in both spaces of about `count` pairs of other classes: blocks, since one by one is 20 times slower."""
    found: tuple[list[F32], list[F32]] = ([], [])
    rng = np.random.default_rng([seed, 0])
    for _ in range(math.ceil(count / math.prod(_BLOCK))):
        query, row = (rng.integers(0, space.shape[0], size) for space, size in zip(spaces[0], _BLOCK, strict=True))
        right, other = _kinds(classes, query, row)
        for space, scores in zip(spaces, found, strict=True):
            scores.append(_scores(space[0][query], space[1][row], metric)[~right & other])
    return np.concatenate(found[0]), np.concatenate(found[1])


def _sampled_positives(spaces: tuple[Space, Space], classes: Classes, seed: int, metric: Metric) -> tuple[F32, F32]:
    """Scores in both spaces of pairs of the same class."""
    query, row = _draw_positives(classes, _MOST_POSITIVES, seed)
    found = (np.empty(len(query), np.float32), np.empty(len(query), np.float32))
    for start in range(0, len(query), _CHUNK_PAIRS):
        part = slice(start, start + _CHUNK_PAIRS)
        for space, scores in zip(spaces, found, strict=True):
            a, b = _ready(space[0][query[part]], metric), _ready(space[1][row[part]], metric)
            scores[part] = -((a - b) ** 2).sum(axis=1) if metric == "l2" else np.vecdot(a, b)
    return found


def _draw_positives(classes: Classes, count: int, seed: int) -> tuple[I64, I64]:
    """Query and row numbers of `count` pairs of the same class, drawn evenly; all of them if there are no more.

    The rows of a query's class are one run of `class_rows`, so pairs can be counted, and one found by its number.
    """
    owner = classes.query_classes
    known = owner >= 0
    start = np.where(known, classes.class_starts[owner], 0)
    size = np.where(known, classes.class_starts[owner + 1], 0) - start
    ends = np.cumsum(size)
    total = int(ends[-1])
    number = np.arange(total) if total <= count else np.random.default_rng([seed, 1]).integers(0, total, count)
    query = np.searchsorted(ends, number, side="right")
    row = classes.class_rows[number - (ends - size)[query] + start[query]]
    other = row != query if classes.exclude_self else np.ones(len(row), bool)
    return query[other], row[other]


def _kinds(classes: Classes, query: I64, row: I64) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """bool [q, n]: which pairs are of the same class, and which are pairs at all: not a query with itself left out."""
    right = classes.query_classes[query, None] == classes.gallery_classes[row]
    return right, query[:, None] != row if classes.exclude_self else np.ones_like(right)


def _scores(queries: Any, gallery: Any, metric: Metric) -> F32:
    """[q, n], higher is better, computed in float64."""
    a, b = _ready(queries, metric), _ready(gallery, metric)
    scores = a @ b.T
    if metric == "l2":
        scores = 2 * scores - np.vecdot(b, b) - np.vecdot(a, a)[:, None]
    return scores.astype(np.float32)


def _ready(rows: Any, metric: Metric) -> F64:
    """Rows as float64, of unit length for cosine; a row of zero norm stays zero, and has cosine 0."""
    ready = to_float32(rows).astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(ready, axis=1, keepdims=True)
        ready /= np.where(norms > 0, norms, 1)
    return ready
