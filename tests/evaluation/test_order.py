"""Orders of a backfill: each a permutation, most urgent first, against plain float64 numpy or scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from fct_fast import errors
from fct_fast.evaluation import order as orders


def falls(order, urgency):
    """The order is a permutation along which urgency never rises (but for rounding)."""
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(len(urgency)))
    assert (np.diff(np.asarray(urgency)[order]) <= 1e-7).all()


def test_random_is_a_permutation_of_its_seed():
    first = orders.random_order(1000, seed=3)
    falls(first, np.zeros(1000))
    assert (first == orders.random_order(1000, seed=3)).all()
    assert (first != orders.random_order(1000, seed=4)).any()
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1
    assert orders.random_order(0, seed=0).shape == (0,)


def test_uncertainty_has_the_largest_first_and_ties_by_row():
    assert orders.uncertainty_order(np.array([0.5, 2.0, -1.0, 2.0], np.float32)).tolist() == [1, 3, 0, 2]
    assert orders.uncertainty_order(np.array([-np.inf, 0.0, np.inf])).tolist() == [2, 1, 0]


def test_class_mean(rows, monkeypatch):
    monkeypatch.setattr(orders, "_CHUNK_ROWS", 37)
    x = rows(200, 5)
    labels = np.random.default_rng(0).integers(0, 9, 200)
    labels[3] = 77  # alone in its class
    distance = [np.linalg.norm(x[i] - x[labels == labels[i]].astype(np.float64).mean(0)) for i in range(200)]
    got = orders.class_mean_order(x, labels)
    falls(got, distance)
    assert got[-1] == 3
    assert (orders.class_mean_order(x, labels.astype(str)) == got).all()


def test_norm_has_the_smallest_first(rows, monkeypatch):
    monkeypatch.setattr(orders, "_CHUNK_ROWS", 37)
    x = rows(200, 5) * np.linspace(0.1, 3, 200, dtype=np.float32)[:, None]
    falls(orders.norm_order(x), -np.linalg.norm(x.astype(np.float64), axis=1))
    assert orders.norm_order(np.array([[3e19, 0], [4e19, 0], [1e19, 0]], np.float32)).tolist() == [2, 0, 1]


@pytest.mark.parametrize("k", [1, 10])
def test_density_has_the_sparsest_first(k, rows, monkeypatch):
    monkeypatch.setattr(orders, "_CHUNK_ROWS", 37)
    x = rows(200, 5)
    distances, _ = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x).kneighbors()  # leaves each row itself out
    got = orders.density_order(x, k=k)
    assert sorted(got.tolist()) == list(range(200))
    assert (np.diff(distances.mean(axis=1)[got]) <= 1e-6).all()


def test_density_of_equal_rows():
    """Rows with more than k doubles of lower number are not among their own k + 1 nearest."""
    x = np.concatenate([np.tile([[1.0, 0.0]], (8, 1)), [[0.0, 1.0]]]).astype(np.float32)
    assert orders.density_order(x, k=2).tolist() == [8, *range(8)]


@pytest.mark.parametrize("policy", [orders.residual_order, orders.oracle_order])
def test_distance_from_other_rows(policy, rows, monkeypatch):
    monkeypatch.setattr(orders, "_CHUNK_ROWS", 37)
    x, other = rows(200, 5), rows(200, 5, 1)
    falls(policy(x, other), np.linalg.norm(x.astype(np.float64) - other, axis=1))


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda x: orders.random_order(-1, 0), errors.ConfigError, "n is -1"),
            (lambda x: orders.random_order(3, 0.5), errors.ConfigError, "seed"),
            (lambda x: orders.uncertainty_order(x), errors.ShapeError, "one value a row"),
            (lambda x: orders.uncertainty_order([0.0, np.nan]), errors.NonFiniteError, "row 1 of s"),
            (lambda x: orders.class_mean_order(x, [0, 1]), errors.ShapeError, "labels"),
            (lambda x: orders.density_order(x, k=4), errors.ConfigError, "from 1 to 3"),
            (lambda x: orders.density_order(x, k=0), errors.ConfigError, "k is 0"),
            (lambda x: orders.oracle_order(x, x[:3]), errors.ShapeError, "new"),
            (lambda x: orders.residual_order(x, x * np.inf), errors.NonFiniteError, "row 0 of reference"),
            (
                lambda x: orders.norm_order(x + np.array([[0], [0], [np.nan], [0]], np.float32)),
                errors.NonFiniteError,
                "row 2 of rows",
            ),
        ],
    )
    def test_is_refused_in_words(self, call, error, words):
        with pytest.raises(error, match=words):
            call(np.ones((4, 2), np.float32))
