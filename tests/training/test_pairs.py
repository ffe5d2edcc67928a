"""Splits keep groups whole and classes fair, for any seed; batches are the rows and views that were asked for."""

import numpy as np
import pytest
import torch

from fct_fast.errors import ConfigError
from fct_fast.training.pairs import Pairs, class_codes, split_rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [16, 101, 5000])
@pytest.mark.parametrize("held_out", [0.0, 0.001, 0.1, 0.5])
def test_plain_split(seed, n, held_out):
    train, held = split_rows(n, held_out, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(n))
    assert len(held) == (max(1, round(held_out * n)) if held_out else 0)
    assert (np.diff(train) > 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_groups_stay_whole(seed):
    rng = np.random.default_rng(seed)
    groups = rng.choice([f"font {i}" for i in range(30)], 2000, p=rng.dirichlet(np.ones(30)))
    train, held = split_rows(2000, 0.1, rng, labels=rng.integers(5, size=2000), groups=groups)
    assert not set(groups[train]) & set(groups[held])
    assert len(train)
    assert 1 <= len(held) <= max(200, min(np.unique(groups, return_counts=True)[1]))


def test_groups_where_each_is_larger_than_the_share():
    held = split_rows(100, 0.1, np.random.default_rng(0), groups=np.repeat([0, 1], [30, 70]))[1]
    assert np.array_equal(held, np.arange(30))
    with pytest.raises(ConfigError, match="one group"):
        split_rows(100, 0.1, np.random.default_rng(0), groups=["a"] * 100)
    assert len(split_rows(100, 0.0, np.random.default_rng(0), groups=["a"] * 100)[0]) == 100


@pytest.mark.parametrize("seed", range(5))
def test_classes_give_their_share(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(["a", "b", "c"], [1000, 100, 11])
    counts = dict.fromkeys("abc", 0)
    for label in labels[split_rows(1111, 0.1, rng, labels=labels)[1]]:
        counts[label] += 1
    assert counts["a"] in (100, 101)
    assert counts["b"] in (10, 11)
    assert counts["c"] in (1, 2)


def test_classes_of_one_row_are_held_out_at_the_right_rate():
    held = split_rows(10_000, 0.1, np.random.default_rng(0), labels=np.arange(10_000))[1]
    assert 900 < len(held) < 1100


def test_class_codes():
    assert class_codes("labels", None, 3) is None
    assert class_codes("labels", ["b", "a", "b"], 3).tolist() == [1, 0, 1]


def test_batches_are_rows_of_their_view():
    old = np.arange(3 * 20 * 2, dtype=np.float64).reshape(3, 20, 2)
    new = np.arange(20, dtype=np.float16).reshape(20, 1)
    pairs = Pairs.of(old, None, new, torch.device("cpu"))
    assert (pairs.rows, pairs.views) == (20, 3)
    rows, views = torch.tensor([4, 4, 19]), torch.tensor([0, 2, 1])
    batch_old, side, batch_new = pairs.batch(rows, views)
    assert side is None
    assert batch_old.dtype == batch_new.dtype == torch.float32
    assert np.array_equal(batch_old, old[views, rows])
    assert np.array_equal(batch_new, new[rows])
    expected = np.sqrt(np.mean(old[:, rows] ** 2))
    assert pairs.rms(rows) == pytest.approx({"old": expected, "new": np.sqrt(np.mean(new[rows].astype(float) ** 2))})
