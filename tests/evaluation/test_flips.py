"""flips: counts over the queries that both evaluations ranked, and their sum rule with CMC."""

from __future__ import annotations

import numpy as np
import pytest

from fct_fast import errors
from fct_fast.evaluation import Evaluation, flips, rank_scores


def ranked(first_rank) -> Evaluation:
    ranks = np.array(first_rank, np.int64)
    return Evaluation({}, 0.0, int((ranks > 0).sum()), int((ranks == 0).sum()), ranks, np.zeros(len(ranks)))


def test_counted_by_hand():
    """Right then wrong; wrong then right; right twice; wrong twice; not ranked before; not ranked after."""
    before, after = ranked([1, 4, 1, 3, 0, 1]), ranked([2, 1, 1, 2, 1, 0])
    got = flips(before, after)
    assert (got.queries, got.negative_count, got.positive_count) == (4, 1, 1)
    assert (got.negative, got.positive) == (0.25, 0.25)
    got = flips(before, after, k=2)
    assert (got.negative_count, got.positive_count, got.k) == (0, 2, 2)


@pytest.mark.parametrize("k", [1, 3])
def test_the_difference_of_cmc_is_positive_minus_negative(k):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 200)
    before, after = (rank_scores(rng.standard_normal((200, 200), dtype=np.float32), labels, k=k) for _ in range(2))
    got = flips(before, after, k)
    assert got.negative > 0
    assert after.cmc[k] - before.cmc[k] == pytest.approx(got.positive - got.negative)
    assert flips(after, before, k).negative == got.positive


def test_nothing_ranked_by_both():
    got = flips(ranked([0, 1]), ranked([1, 0]))
    assert (got.queries, got.negative, got.positive) == (0, 0.0, 0.0)


def test_bad_input():
    with pytest.raises(errors.ShapeError, match="before has 2 queries and after has 3"):
        flips(ranked([1, 1]), ranked([1, 1, 1]))
    for k in (0, 1.5, True):
        with pytest.raises(errors.ConfigError, match="whole number"):
            flips(ranked([1]), ranked([1]), k=k)
