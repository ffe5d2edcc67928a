"""threshold_shift: equal to scikit-learn's ROC curve over all pairs, and close to it over a seeded sample."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from fct_fast import errors
from fct_fast.evaluation import threshold, threshold_shift


@pytest.fixture
def spaces(rows):
    """(old, new, labels): 400 items of 20 classes; classes stand further apart in the new space."""
    labels = np.arange(400) % 20
    old = rows(400, 12) + rows(20, 12, 1)[labels]
    new = 3 * (rows(400, 12, 2) + 2 * rows(20, 12, 3)[labels])
    return old, new, labels


def pairs_of(queries, gallery, query_labels, gallery_labels, own, metric):
    """(same class, score) of every pair, in float64; higher is better."""
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    scores = -((a[:, None] - b[None]) ** 2).sum(2) if metric == "l2" else a @ b.T
    keep = ~np.eye(*scores.shape, dtype=bool) if own else np.ones(scores.shape, bool)
    return (np.asarray(query_labels)[:, None] == np.asarray(gallery_labels))[keep], scores[keep].astype(np.float32)


def rates(same, scores, limit):
    return (scores[~same] > limit).mean(), (scores[same] > limit).mean()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("fpr", [0.001, 0.1])
def test_all_pairs_against_scikit_learn(metric, own, fpr, spaces, monkeypatch):
    monkeypatch.setattr(threshold, "_CHUNK_VALUES", 7000)
    old, new, labels = spaces
    asked = slice(None) if own else slice(0, 50)
    got = threshold_shift(
        (old[asked], old), (new[asked], new), labels[asked], None if own else labels, fpr=fpr, metric=metric
    )
    sign = -1 if metric == "l2" else 1
    for space, point in ((old, got.before), (new, got.after)):
        same, scores = pairs_of(space[asked], space, labels[asked], labels, own, metric)
        all_fpr, all_tpr, _ = roc_curve(same, scores, drop_intermediate=False)
        assert point.fpr == pytest.approx(all_fpr[all_fpr <= fpr].max(), abs=1e-12)
        assert point.tpr == pytest.approx(all_tpr[all_fpr <= fpr].max(), abs=2e-3)
        assert (point.fpr, point.tpr) == pytest.approx(rates(same, scores, sign * point.threshold), abs=2e-3)
    assert (got.kept.fpr, got.kept.tpr) == pytest.approx(rates(same, scores, sign * got.before.threshold), abs=1e-4)
    assert got.kept.threshold == got.before.threshold
    assert (got.positives, got.negatives, got.sampled) == (same.sum(), (~same).sum(), False)
    assert got.kept.fpr != got.before.fpr


def test_an_upgrade_that_changes_nothing_shifts_nothing(spaces):
    old, _, labels = spaces
    got = threshold_shift((old, old), (old, old), labels, fpr=0.01)
    assert got.before == got.kept == got.after
    assert 0.009 < got.before.fpr <= 0.01


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_sample_is_close_to_all_pairs_and_the_same_for_a_seed(metric, spaces):
    old, new, labels = spaces
    options = {"fpr": 0.05, "metric": metric}
    exact = threshold_shift((old, new), (new, new), labels, **options)
    got = threshold_shift((old, new), (new, new), labels, max_pairs=100_000, **options)
    assert got.sampled
    assert got.negatives == pytest.approx(100_000 * 0.95, rel=0.1)
    assert got.positives == exact.positives, "there are fewer than are drawn, so all are taken"
    for name in ("before", "kept", "after"):
        mine, all_of_them = getattr(got, name), getattr(exact, name)
        assert mine.fpr == pytest.approx(all_of_them.fpr, abs=0.006)
        assert mine.tpr == pytest.approx(all_of_them.tpr, abs=0.02)
    assert got == threshold_shift((old, new), (new, new), labels, max_pairs=100_000, **options)
    assert got != threshold_shift((old, new), (new, new), labels, max_pairs=100_000, seed=1, **options)


@pytest.mark.parametrize("own", [True, False])
def test_drawn_positives_are_of_one_class_and_even(own):
    """Every such pair, and only those, about equally often; a query whose class the gallery lacks is never drawn."""
    wanted, stored = np.array([3, 1, 7, 1, 2]), np.array([1, 1, 2, 3, 3, 1])
    classes = threshold.Classes(5, 6, wanted, stored, own)
    expected = {(q, g) for q in range(5) for g in range(6) if wanted[q] == stored[g] and not (own and q == g)}
    everything = list(zip(*threshold._draw_positives(classes, 1000, 0), strict=True))
    assert len(everything) == len(expected)
    assert set(everything) == expected
    total = len(expected) + own * sum(wanted == stored[:5])
    counts = dict.fromkeys(expected, 0)
    for seed in range(400):
        for pair in zip(*threshold._draw_positives(classes, total - 1, seed), strict=True):
            counts[pair] += 1
    expect = 400 * (total - 1) / total
    assert all(abs(n - expect) < 5 * np.sqrt(expect) for n in counts.values())


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_drawn_negatives_have_the_scores_of_all(metric, spaces):
    """The sample's distribution in each space is that of all pairs of other classes."""
    old, new, labels = spaces
    classes = threshold.Classes(400, 400, labels, None, "auto")
    found = threshold._sampled_negatives(((old, new), (new, new)), classes, 2_000_000, 0, metric)
    for queries, scores in zip((old, new), found, strict=True):
        same, every = pairs_of(queries, new, labels, labels, True, metric)
        at = np.linspace(0.01, 0.99, 30)
        want = np.quantile(every[~same], at)
        assert np.abs(np.array([(scores <= w).mean() for w in want]) - at).max() < 0.006
        assert len(scores) == pytest.approx(2_000_000 * 0.95, rel=0.01)


def test_a_product_that_rounds_down_accepts_as_many_as_it_may():
    for negatives in range(1, 300):
        for fpr in (0.29, 0.07, 0.001, 1 / 3, 1 / 49, 0.99):
            accepted = threshold._accepted(negatives, fpr)
            assert accepted / negatives <= fpr < (accepted + 1) / negatives


def test_zero_rows_and_torch(spaces):
    old, new, labels = spaces
    old = old.copy()
    old[5] = 0
    got = threshold_shift((old, old), (torch.from_numpy(new), new), labels, fpr=0.01)
    assert got == threshold_shift((old, old), (new, new), labels, fpr=0.01)
    assert np.isfinite(got.before.threshold)


class TestBadInput:
    @pytest.mark.parametrize("fpr", [0, 1, -0.1, float("nan")])
    def test_fpr(self, fpr, spaces):
        old, new, labels = spaces
        with pytest.raises(errors.ConfigError, match="fpr"):
            threshold_shift((old, old), (new, new), labels, fpr=fpr)

    def test_an_fpr_beyond_what_the_pairs_can_show(self, spaces):
        old, new, labels = spaces
        with pytest.raises(errors.ConfigError, match=r"152000 of others.*1000000 of the second"):
            threshold_shift((old, old), (new, new), labels, fpr=1e-6)
        with pytest.raises(errors.ConfigError, match="0 pairs of the same class"):
            threshold_shift((old, old), (new, new), np.arange(400))

    def test_spaces_of_different_items(self, spaces):
        old, new, labels = spaces
        with pytest.raises(errors.ShapeError, match="same items"):
            threshold_shift((old, old), (new[:300], new[:300]), labels)

    def test_max_pairs(self, spaces):
        old, new, labels = spaces
        with pytest.raises(errors.ConfigError, match="max_pairs"):
            threshold_shift((old, old), (new, new), labels, max_pairs=0)


def test_a_looser_rate_is_a_lower_threshold(spaces):
    old, new, labels = spaces
    points = [threshold_shift((old, old), (new, new), labels, fpr=fpr) for fpr in (0.001, 0.01, 0.1, 0.5)]
    for a, b in pairwise(points):
        assert a.before.threshold > b.before.threshold
        assert a.after.tpr <= b.after.tpr
