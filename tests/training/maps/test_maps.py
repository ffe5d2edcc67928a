"""Each method of `fit_map`: the kernel runs it, it is scale-free, says what it chose, and takes any dimensions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from fct_fast import Upgrader
from fct_fast.errors import ConfigError
from fct_fast.training.maps import METHODS, NEEDS_STRENGTH, fit_map
from fct_fast.training.pairs import Pairs

TRAIN, HELD = torch.arange(150), torch.arange(150, 200)


def data(old_dim=9, side_dim=4, new_dim=7, views=2, seed=0):
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(views, 200, old_dim)) + 0.4
    side = rng.normal(size=(views, 200, side_dim))
    new = np.tanh(old @ rng.normal(size=(old_dim, new_dim)) / 3) + 0.3 * rng.normal(size=(views, 200, new_dim)) + 0.2
    new += side @ rng.normal(size=(side_dim, new_dim)) * 0.2
    old, side, new = (x.astype(np.float32) for x in (old, side, new))
    return old, side if side_dim else None, new


def solve(method, old, side, new, **options):
    return fit_map(method, Pairs.of(old, side, new, torch.device("cpu")), TRAIN, HELD, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("old_dim", "new_dim"), [(7, 7), (6, 11), (11, 6)])
@pytest.mark.parametrize("side_dim", [0, 4])
def test_the_kernel_runs_the_spec(method, old_dim, new_dim, side_dim):
    old, side, new = data(old_dim, side_dim, new_dim)
    spec, chosen = solve(method, old, side, new)
    assert (spec.old_dim, spec.side_dim, spec.new_dim, spec.normalize) == (old_dim, side_dim, new_dim, True)
    rows = (old[0],) if side is None else (old[0], side[0])
    expected = spec.apply_float64(*rows)
    np.testing.assert_allclose(Upgrader(spec)(*rows), expected, atol=3e-6)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-12)
    assert ("strength" in chosen) == (method in NEEDS_STRENGTH or method == "affine")
    assert ("rank" in chosen) == (method == "low_rank")
    truth = new[0] / np.linalg.norm(new[0], axis=1, keepdims=True)
    assert (expected * truth).sum(axis=1).mean() > 0.5  # a map, not noise


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", [True, False])
def test_scale_free(method, normalize):
    old, side, new = data()
    spec, chosen = solve(method, old, side, new, normalize=normalize)
    scaled = solve(method, 300 * old, 1e-3 * side, 4000 * new, normalize=normalize)
    assert scaled[1] == chosen
    got = scaled[0].apply_float64(300 * old[0], 1e-3 * side[0]) / (1 if normalize else 4000)
    np.testing.assert_allclose(got, spec.apply_float64(old[0], side[0]), atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_without_normalisation_the_scale_is_that_of_least_squares(method):
    old, side, new = data(views=1)
    spec, _ = solve(method, old, side, new * 50, normalize=False, ridge_lambda=0.0)
    got, target = spec.apply_float64(old[0, :150], side[0, :150]), 50 * new[0, :150].astype(np.float64)
    if method != "procrustes":  # with an intercept: about the mean
        got, target = got - target.mean(axis=0), target - target.mean(axis=0)
    assert np.sum(got * target) / np.sum(got**2) == pytest.approx(1, abs=1e-5)


def test_affine_and_ridge_are_scikit_learns():
    old, _, new = data(side_dim=0)
    x, y = (a[:, :150].reshape(-1, a.shape[-1]).astype(np.float64) for a in (old, new))
    affine, chosen = solve("affine", old, None, new, normalize=False, ridge_lambda=5.0)
    assert chosen == {"strength": 0.0}
    np.testing.assert_allclose(affine.apply_float64(x), LinearRegression().fit(x, y).predict(x), atol=1e-5)
    ridge, chosen = solve("ridge", old, None, new, normalize=False, ridge_lambda=5.0)
    assert chosen == {"strength": 5.0}
    expected = Ridge(alpha=5 * len(x) * x.var(axis=0).mean()).fit(x, y).predict(x)
    np.testing.assert_allclose(ridge.apply_float64(x), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_views_are_more_rows(method):
    old, side, new = data()
    spec, _ = solve(method, old, side, new, ridge_lambda=0.1)
    stacked = [np.concatenate([x[0, :150], x[1, :150]]) for x in (old, side, new)]
    pairs = Pairs.of(*stacked, torch.device("cpu"))
    other, _ = fit_map(method, pairs, torch.arange(300), HELD[:0], ridge_lambda=0.1)
    np.testing.assert_allclose(other.apply_float64(old[0], side[0]), spec.apply_float64(old[0], side[0]), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_poor_rows_give_finite_rows(method):
    """16 rows of 40 dimensions, some dead, some copies, on a large offset."""
    rng = np.random.default_rng(4)
    old, new = rng.normal(size=(20, 40)).astype(np.float32) + 1000, rng.normal(size=(20, 30)).astype(np.float32)
    old[:, :10] = old[:, 10:20]
    old[:, 20:25] = 0
    pairs = Pairs.of(old, None, new, torch.device("cpu"))
    spec, _ = fit_map(method, pairs, torch.arange(16), torch.arange(16, 20), normalize=False)
    rows = spec.apply_float64(old)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() < 100 * np.abs(new).max()


@pytest.mark.parametrize("method", METHODS)
def test_a_choice_needs_held_out_rows(method):
    pairs = Pairs.of(*data(), torch.device("cpu"))
    if method in NEEDS_STRENGTH:
        with pytest.raises(ConfigError, match="held-out"):
            fit_map(method, pairs, TRAIN, HELD[:0])
    fit_map(method, pairs, TRAIN, HELD[:0], ridge_lambda=0.1)


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError, match="method is 'fct'"):
        solve("fct", *data())
