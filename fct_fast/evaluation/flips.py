"""Flips: queries that an upgrade breaks, and queries that it repairs.

A mean may rise while queries that users rely on start to fail. The negative flip rate counts those: right before, wrong
after, as a share of all queries (Yan et al., Positive-Congruent Training, CVPR 2021, there for classifiers).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from fct_fast.errors import ConfigError, ShapeError
from fct_fast.evaluation.rank import Evaluation

__all__ = ["Flips", "flips"]


@dataclass(frozen=True)
class Flips:
    """`negative`: share of queries that were right and are wrong; `positive`: that were wrong and are right.

    Right means a positive among the first `k`. Shares of the `queries` that both evaluations ranked, with their counts;
    CMC@k after - CMC@k before = positive - negative over these queries.
    """

    negative: float
    positive: float
    negative_count: int
    positive_count: int
    queries: int
    k: int


def flips(before: Evaluation, after: Evaluation, k: int = 1) -> Flips:
    """Compare two evaluations of the same queries, in the same order; rates are 0 where both ranked no query.

    Raises ShapeError where they have different numbers of queries, ConfigError for k.
    """
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise ConfigError(f"k is {k!r}; flips among the first k need a whole number from 1 up")
    if before.first_rank.shape != after.first_rank.shape:
        raise ShapeError(
            f"before has {len(before.first_rank)} queries and after has {len(after.first_rank)}; "
            f"flips compare the same queries in the same order"
        )
    both = (before.first_rank > 0) & (after.first_rank > 0)
    was, now = before.first_rank <= k, after.first_rank <= k
    queries, lost, won = int(both.sum()), int((both & was & ~now).sum()), int((both & ~was & now).sum())
    return Flips(
        negative=lost / max(queries, 1),
        positive=won / max(queries, 1),
        negative_count=lost,
        positive_count=won,
        queries=queries,
        k=operator.index(k),
    )
