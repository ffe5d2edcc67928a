"""Judging a gallery on test rows: retrieval with labels, and the neighbours of the new space with or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fct_fast.errors import ConfigError
from fct_fast.evaluation import Evaluation, evaluate
from fct_fast.evaluation.intervals import Interval, mean_interval, paired_interval
from fct_fast.evaluation.overlap import neighbours, shared

__all__ = ["Judged", "TestRows"]

F64 = npt.NDArray[np.float64]
MIN_QUERIES = 20


@dataclass(frozen=True)
class Judged:
    """values: what is judged, one a query: average precision with labels, overlap@k without; interval: of their mean.

    evaluation: None without labels. overlap: share of the k nearest neighbours in the true new space that are found.
    """

    name: str
    about: str
    values: F64
    interval: Interval
    evaluation: Evaluation | None
    overlap: float

    @property
    def mean(self) -> float:
        return self.interval.mean


class TestRows:
    """The rows that everything is judged on: each is a query once and a gallery row, itself left out.

    new: the true new embeddings [n, new_dim]; labels, groups: [n] or None; rows of one group are drawn together in the
    intervals. Raises ConfigError where too few queries have a mate.
    """

    __test__ = False  # for pytest: this is no test

    def __init__(self, new: Any, labels: Any, groups: Any, k: int, level: float) -> None:
        self.new, self.labels, self.groups = new, labels, groups
        self._k, self._level = min(k, len(new) - 1), level
        self._truth = neighbours(new, new, self._k)
        ranked = np.ones(len(new), bool)
        if labels is not None:
            _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
            ranked = counts[numbers] > 1
        self.ranked = ranked
        if ranked.sum() < MIN_QUERIES:
            raise ConfigError(
                f"{int(ranked.sum())} of {len(new)} test rows have a mate of their class, too few to judge by; give "
                f"more rows, or a larger test share"
            )

    @property
    def k(self) -> int:
        return self._k

    def judge(self, name: str, about: str, queries: Any, gallery: Any) -> Judged:
        """What these queries find in this gallery; row i of both is the same item."""
        found = None
        kept = shared(self._truth, neighbours(queries, gallery, self._k))
        if self.labels is not None:
            found = evaluate(queries, gallery, self.labels, exclude_self=True, k=(1, 5))
        values = (kept if found is None else found.average_precision)[self.ranked]
        interval = mean_interval(values, groups=self.drawn_together, level=self._level)
        return Judged(name, about, values, interval, found, float(kept.mean()))

    def difference(self, a: Judged, b: Judged) -> Interval:
        """Of a's values minus b's, paired by query."""
        return paired_interval(a.values, b.values, groups=self.drawn_together, level=self._level)

    @property
    def drawn_together(self) -> Any:
        return None if self.groups is None else np.asarray(self.groups)[self.ranked]
