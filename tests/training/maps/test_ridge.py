"""The ridge map equals scikit-learn's, at any scale, with views as more rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from fct_fast.training.maps.linear import STRENGTHS
from fct_fast.training.maps.ridge import fit_ridge
from fct_fast.training.pairs import Pairs


def rows(n=400, views=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n,) if views is None else (views, n)
    old, side = rng.normal(size=(*shape, 7)) * 30 + 5, rng.normal(size=(*shape, 3)) * 0.01
    new = old @ rng.normal(size=(7, 4)) + side @ rng.normal(size=(3, 4)) * 500 + rng.normal(size=(*shape, 4)) * 20
    return old.astype(np.float32), side.astype(np.float32), new.astype(np.float32)


def solve(old, side, new, strength, train=None, held=None):
    pairs = Pairs.of(old, side, new, torch.device("cpu"))
    train = torch.arange(pairs.rows) if train is None else train
    return fit_ridge(pairs, train, train[:0] if held is None else held, strength=strength, normalize=False)


@pytest.mark.parametrize("strength", [0.0, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("views", [None, 3])
def test_equals_scikit_learn(strength, views):
    old, side, new = rows(views=views)
    spec, used = solve(old, side, new, strength)
    assert used == strength
    flat = [x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (old, side, new)]
    x = np.concatenate([part / np.sqrt(np.mean(part**2)) for part in flat[:2]], axis=1)
    reference = Ridge(alpha=strength * len(x) * x.var(axis=0).mean()).fit(x, flat[2])
    expected = reference.predict(x)
    np.testing.assert_allclose(spec.apply_float64(flat[0], flat[1]), expected, atol=2e-5 * np.abs(expected).max())


def test_without_side_and_with_fewer_rows_than_dimensions():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(20, 64)).astype(np.float32), rng.normal(size=(20, 5)).astype(np.float32)
    spec, _ = solve(old, None, new, 1e-6)
    assert np.abs(spec.apply_float64(old) - new).max() < 1e-2
    assert spec.side_dim == 0
    exact, _ = solve(old, None, new, 0.0)  # underdetermined: the smallest solution, not noise
    assert np.abs(exact.trunk[0].weight).max() < 10


def test_dead_dimensions_get_no_weight():
    old, side, new = rows()
    old[:, 2] = 0
    side[:, 1:] = 0
    spec, _ = solve(old, side, new, 0.0)
    assert np.abs(spec.trunk[0].weight[:, [2, 8, 9]]).max() < 1e-12


def test_the_best_strength_of_the_grid_is_chosen_on_the_held_out_rows():
    rng = np.random.default_rng(1)
    old = rng.normal(size=(120, 60)).astype(np.float32)
    new = (old[:, :5] @ rng.normal(size=(5, 3)) + 2 * rng.normal(size=(120, 3))).astype(np.float32)
    train, held = torch.arange(80), torch.arange(80, 120)
    spec, chosen = solve(old, None, new, None, train, held)

    def error(strength):
        other, _ = solve(old, None, new, strength, train)
        return np.square(other.apply_float64(old[80:]) - new[80:]).sum()

    assert chosen == min(STRENGTHS, key=error)
    assert 1e-6 < chosen < 100
    assert np.square(spec.apply_float64(old[80:]) - new[80:]).sum() == pytest.approx(error(chosen))
