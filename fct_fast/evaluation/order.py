"""In which order to re-embed a gallery: policies that give its rows, most urgent first.

Every policy returns int64 [n], a permutation of the row numbers; equal urgency goes to the lower row. `rows` are the
gallery as it is served until then (upgraded, or old and mapped), float [n, dim], except where a policy says otherwise.
Raises ShapeError, DtypeError, ConfigError, and NonFiniteError naming the first row with NaN or Inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError
from fct_fast.evaluation.classes import I64, check_finite, labels_of
from fct_fast.kernels.arrays import as_rows, to_float32
from fct_fast.search import MAX_K, topk

__all__ = [
    "class_mean_order",
    "density_order",
    "norm_order",
    "oracle_order",
    "random_order",
    "residual_order",
    "uncertainty_order",
]

F64 = npt.NDArray[np.float64]
_CHUNK_ROWS = 16384


def random_order(n: int, seed: int) -> I64:
    """A random order, the same for the same seed: the baseline of FastFill (Jaeckle et al., ICLR 2023)."""
    for name, value in (("n", n), ("seed", seed)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
            raise ConfigError(f"{name} is {value!r}; use a whole number from 0 up")
    return np.random.default_rng(seed).permutation(n).astype(np.int64)


def uncertainty_order(s: Any) -> I64:
    """Largest log-uncertainty s [n] first, as h's head predicts it (`Upgrader(..., return_uncertainty=True)`): the
    order of FastFill (Jaeckle et al., ICLR 2023). Needs no labels."""
    values = np.asarray(s, np.float64)
    if values.ndim != 1:
        raise ShapeError(f"s has shape {list(values.shape)}, expected one value a row: [n]")
    if np.isnan(values).any():
        raise NonFiniteError(f"row {int(np.isnan(values).argmax())} of s holds NaN, which has no place in an order")
    return _descending(values)


def class_mean_order(rows: Any, labels: npt.ArrayLike) -> I64:
    """Farthest from the mean row of its class first, by Euclidean distance; labels [n] (integers or text): the order of
    lambda-orthogonality (NeurIPS 2025, arXiv 2509.16664). A row that is alone in its class comes last."""
    given = as_rows(rows, "rows")
    names, numbers = np.unique(labels_of("labels", labels, given.shape[0]), return_inverse=True)
    means = np.zeros((len(names), given.shape[1]))
    for at, chunk in _chunks(given, "rows"):
        np.add.at(means, numbers[at], chunk)
    means /= np.bincount(numbers, minlength=len(names))[:, None]
    return _descending(_each(given, lambda chunk, at: _norms(chunk - means[numbers[at]])))


def norm_order(rows: Any) -> I64:
    """Smallest norm first; `rows` are embeddings before normalisation, for example the old model's own.

    The norm of a classifier's embedding grows with how sure it is (Ranjan et al. 2017, arXiv 1703.09507; MagFace, Meng
    et al., CVPR 2021). Needs no labels. Rows at unit norm have nothing to say: their order is rounding noise.
    """
    return _descending(-_each(as_rows(rows, "rows"), lambda chunk, _: _norms(chunk)))


def density_order(rows: Any, k: int = 10, threads: int | None = None) -> I64:
    """Lowest mean cosine similarity to its k nearest other rows first: sparse regions, where pairs to fit h were few.

    Outliers by the distances of their neighbours (Angiulli and Pizzuti, PKDD 2002). Needs no labels; costs one exact
    search of all rows.
    """
    given = as_rows(rows, "rows")
    n = int(given.shape[0])
    most = min(n, MAX_K) - 1
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= most:
        raise ConfigError(f"k is {k!r}; with {n} rows it must be a whole number from 1 to {most}")
    check_finite("rows", given)
    similarity = np.empty(n)
    for start in range(0, n, _CHUNK_ROWS):
        scores, ids = (np.asarray(x) for x in topk(given[start : start + _CHUNK_ROWS], given, k + 1, threads=threads))
        others = ids != np.arange(start, start + len(ids))[:, None]
        others[others.all(axis=1), -1] = False  # k + 1 rows as near of lower number: the row itself is not listed
        similarity[start : start + len(ids)] = scores[others].reshape(-1, k).mean(axis=1, dtype=np.float64)
    return _descending(-similarity)


def residual_order(rows: Any, reference: Any) -> I64:
    """Largest Euclidean distance from a second prediction of the same rows first, for example the linear map's beside
    h's: where two maps disagree, one is wrong (query by committee, Seung et al., COLT 1992). Needs no labels."""
    return _distance_order(rows, reference, "reference")


def oracle_order(rows: Any, new: Any) -> I64:
    """Largest Euclidean distance from the true new embedding first: FastFill's "distance" order (Jaeckle et al., ICLR
    2023). Needs the very rows that a backfill is to make: no policy, but a mark for those that have to guess."""
    return _distance_order(rows, new, "new")


def _distance_order(rows: Any, other: Any, name: str) -> I64:
    given, target = as_rows(rows, "rows"), as_rows(other, name)
    if tuple(given.shape) != tuple(target.shape):
        raise ShapeError(f"rows are {list(given.shape)} and {name} is {list(target.shape)}; row i of both is one item")
    check_finite(name, target)
    return _descending(_each(given, lambda chunk, at: _norms(chunk - to_float32(target[at]))))


def _descending(urgency: F64) -> I64:
    """Row numbers by falling urgency; equal ones by row."""
    return np.argsort(-urgency, kind="stable").astype(np.int64)


def _norms(rows: F64) -> F64:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.float64)


def _each(rows: Any, value: Callable[[F64, slice], F64]) -> F64:
    """value(chunk, where it lies) of all rows, float64 [n]."""
    return np.concatenate([np.empty(0), *(value(chunk, at) for at, chunk in _chunks(rows, "rows"))])


def _chunks(rows: Any, name: str) -> Iterator[tuple[slice, F64]]:
    """All rows as float64, some at a time, each seen to be finite."""
    check_finite(name, rows)
    for start in range(0, rows.shape[0], _CHUNK_ROWS):
        at = slice(start, min(start + _CHUNK_ROWS, rows.shape[0]))
        yield at, to_float32(rows[at]).astype(np.float64)
