"""Intervals for means: percentile bootstrap over queries or groups of them, paired differences, Student's t over seeds.

A query is the unit of chance, unless `groups` says that several values stand or fall together (queries of one item or
of one class): then whole groups are drawn, since drawing their members one by one would make intervals too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError, NonFiniteError, ShapeError

__all__ = ["Interval", "mean_interval", "paired_interval", "seeds_interval"]

F64 = npt.NDArray[np.float64]
_CHUNK_VALUES = 1 << 20  # draws that are held at a time


@dataclass(frozen=True)
class Interval:
    """The mean and the interval [low, high] that covers it at `level`."""

    mean: float
    low: float
    high: float
    level: float = 0.95


def mean_interval(
    values: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean of values [n], for instance the average precision of each query.

    groups [n] (integers or text): values of one group are drawn together, with a group's weight its number of values.
    The same seed gives the same interval. Memory: a few million draws at a time.
    Raises ShapeError (fewer than two values or groups), NonFiniteError, ConfigError.
    """
    sample = _finite(values, "values")
    _check_level(level)
    if isinstance(resamples, bool) or not hasattr(resamples, "__index__") or resamples < 1:
        raise ConfigError(f"resamples is {resamples!r}; use a whole number from 1 up")
    sums, sizes = (sample, None) if groups is None else _by_group(sample, groups)
    if len(sums) < 2:
        what = "value" if groups is None else "group"
        raise ShapeError(f"there is {len(sums)} {what}; an interval needs at least 2")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK_VALUES // len(sums))
    for start in range(0, resamples, step):
        part = means[start : start + step]
        draws = rng.integers(0, len(sums), (len(part), len(sums)))
        drawn = sums[draws].sum(axis=1)
        part[:] = drawn / (len(sums) if sizes is None else sizes[draws].sum(axis=1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high), level)


def paired_interval(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of a - b, where a[i] and b[i] [n] are two systems on the same query.

    The differences are drawn, so what makes a query hard for both cancels. Otherwise as `mean_interval`.
    """
    left, right = _finite(a, "a"), _finite(b, "b")
    if left.shape != right.shape:
        raise ShapeError(f"a has {len(left)} values and b has {len(right)}; a[i] and b[i] are the same query")
    return mean_interval(left - right, groups=groups, level=level, resamples=resamples, seed=seed)


def seeds_interval(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of values [n], one a seed: mean +- t(n - 1) * standard deviation / sqrt(n).

    Raises ShapeError (fewer than two seeds), NonFiniteError, ConfigError.
    """
    from scipy.special import stdtrit  # the quantile of Student's t; scipy comes with scikit-learn

    sample = _finite(values, "values")
    _check_level(level)
    if len(sample) < 2:
        raise ShapeError(f"there is {len(sample)} seed; an interval needs at least 2")
    mean = float(sample.mean())
    reach = float(stdtrit(len(sample) - 1, (1 + level) / 2) * sample.std(ddof=1) / math.sqrt(len(sample)))
    return Interval(mean, mean - reach, mean + reach, level)


def _by_group(values: F64, groups: npt.ArrayLike) -> tuple[F64, F64]:
    """Sum and number of the values of each group."""
    names: npt.NDArray[Any] = np.asarray(groups)
    if names.shape != values.shape:
        raise ShapeError(f"groups have shape {list(names.shape)}, expected one a value: {list(values.shape)}")
    _, numbers = np.unique(names, return_inverse=True)
    return np.bincount(numbers, weights=values).astype(np.float64), np.bincount(numbers).astype(np.float64)


def _finite(values: npt.ArrayLike, name: str) -> F64:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ShapeError(f"{name} has shape {list(array.shape)}; expected one value a query: [n]")
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{name}[{int(np.isfinite(array).argmin())}] is NaN or Inf, which has no place in a mean")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}; use a share between 0 and 1, such as 0.95")
