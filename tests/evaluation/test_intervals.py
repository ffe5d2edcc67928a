"""Intervals: as scipy's bootstrap and Student's t; paired ones cancel what both systems share; groups widen them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from fct_fast import errors
from fct_fast.evaluation import intervals, mean_interval, paired_interval, seeds_interval

MANY = 20_000


def close(got, low, high):
    """Within the noise of so many resamples: a few hundredths of the width."""
    assert (got.low, got.high) == pytest.approx((low, high), abs=0.04 * (high - low))


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_mean_against_scipy(level):
    values = np.random.default_rng(0).exponential(size=80)
    want = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=MANY, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    got = mean_interval(values, level=level, resamples=MANY)
    close(got, want.low, want.high)
    assert (got.mean, got.level) == (values.mean(), level)


def test_groups_against_scipy():
    """scipy draws group numbers; the statistic is the mean of all their values, however many there are."""
    rng = np.random.default_rng(1)
    groups = np.minimum(rng.integers(0, 25, 200), rng.integers(0, 25, 200))  # of 1 to 17 values
    values = 3 + rng.standard_normal(25)[groups] + 0.2 * rng.standard_normal(200)

    def mean_of(drawn):
        return np.concatenate([values[groups == g] for g in drawn.astype(int)]).mean()

    want = scipy.stats.bootstrap(
        (np.unique(groups),), mean_of, n_resamples=3000, method="percentile", vectorized=False, rng=rng
    ).confidence_interval
    got = mean_interval(values, groups=groups, resamples=MANY)
    assert (got.low, got.high) == pytest.approx(want, abs=0.08 * (want.high - want.low))
    assert got.mean == values.mean()
    alone = mean_interval(values, resamples=MANY)
    assert got.high - got.low > 1.5 * (alone.high - alone.low)
    assert mean_interval(values, groups=groups.astype(str).tolist(), resamples=500).mean == got.mean


def test_paired_against_scipy():
    rng = np.random.default_rng(2)
    hard = rng.standard_normal(150)
    a, b = hard + 0.1 * rng.standard_normal(150) + 0.05, hard + 0.1 * rng.standard_normal(150)

    def difference(x, y, axis):
        return x.mean(axis=axis) - y.mean(axis=axis)

    want = scipy.stats.bootstrap(
        (a, b), difference, paired=True, n_resamples=MANY, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    got = paired_interval(a, b, resamples=MANY)
    close(got, want.low, want.high)
    assert got.mean == pytest.approx(a.mean() - b.mean())
    alone = mean_interval(a, resamples=MANY)
    assert got.high - got.low < 0.3 * (alone.high - alone.low)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_seeds_against_scipy(level):
    values = [0.61, 0.64, 0.60, 0.66, 0.63]
    want = scipy.stats.t.interval(level, 4, np.mean(values), scipy.stats.sem(values))
    got = seeds_interval(values, level=level)
    assert (got.low, got.high) == pytest.approx(want, abs=1e-12)


def test_coverage():
    """Of many samples of a known mean, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(3)
    held = [mean_interval(rng.random(60), resamples=400, seed=i) for i in range(400)]
    share = np.mean([interval.low <= 0.5 <= interval.high for interval in held])
    assert 0.91 < share < 0.98


def test_chunks_and_seeds(monkeypatch):
    values = np.random.default_rng(0).random(50)
    want = mean_interval(values, resamples=301)
    assert mean_interval(values, resamples=301) == want
    assert mean_interval(values, resamples=301, seed=1) != want
    monkeypatch.setattr(intervals, "_CHUNK_VALUES", 1000)
    got = mean_interval(values, resamples=301)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.15 * (want.high - want.low))


class TestBadInput:
    @pytest.mark.parametrize(
        ("values", "options", "error", "words"),
        [
            ([0.5], {}, errors.ShapeError, "1 value"),
            ([], {}, errors.ShapeError, "0 value"),
            ([[1, 2]], {}, errors.ShapeError, "expected one value a query"),
            ([0.1, np.nan], {}, errors.NonFiniteError, r"values\[1\]"),
            ([0.1, 0.2], {"groups": [1, 1]}, errors.ShapeError, "1 group"),
            ([0.1, 0.2], {"groups": [1]}, errors.ShapeError, "groups have shape"),
            ([0.1, 0.2], {"level": 95}, errors.ConfigError, "level"),
            ([0.1, 0.2], {"resamples": 0}, errors.ConfigError, "resamples"),
        ],
    )
    def test_mean(self, values, options, error, words):
        with pytest.raises(error, match=words):
            mean_interval(values, **options)

    def test_others(self):
        with pytest.raises(errors.ShapeError, match="a has 2 values and b has 3"):
            paired_interval([1, 2], [1, 2, 3])
        with pytest.raises(errors.ShapeError, match="1 seed"):
            seeds_interval([0.5])
        with pytest.raises(errors.ConfigError, match="level"):
            seeds_interval([0.5, 0.6], level=1.0)
