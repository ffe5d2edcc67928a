"""Reduced-rank ridge equals the explicit solution (augmented rows, lstsq, truncated SVD) and finds a planted rank."""

import itertools

import numpy as np
import pytest
import torch

from fct_fast.errors import ConfigError
from fct_fast.training.maps.linear import STRENGTHS
from fct_fast.training.maps.low_rank import fit_low_rank
from fct_fast.training.maps.ridge import fit_ridge
from fct_fast.training.pairs import Pairs


def data(old_dim=8, side_dim=3, new_dim=6, n=200, views=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n,) if views is None else (views, n)
    old = rng.normal(size=(*shape, old_dim)) * np.geomspace(1, 20, old_dim) + 4
    side = rng.normal(size=(*shape, side_dim)) * 0.05
    new = old @ rng.normal(size=(old_dim, new_dim)) + side @ rng.normal(size=(side_dim, new_dim)) * 200
    new = new + 10 * rng.normal(size=(*shape, new_dim)) + 3
    return tuple(x.astype(np.float32) for x in (old, side, new))


def solve(old, side, new, strength, rank, train=None, held=None):
    pairs = Pairs.of(old, side, new, torch.device("cpu"))
    train = torch.arange(pairs.rows) if train is None else train
    held = train[:0] if held is None else held
    return fit_low_rank(pairs, train, held, strength=strength, rank=rank, normalize=False)


def units(x):
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2))


@pytest.mark.parametrize("strength", [0.0, 1e-2, 3.0])
@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("views", [None, 2])
def test_equals_the_truncated_svd_of_the_fitted_rows(strength, rank, views):
    old, side, new = data(views=views)
    spec, used, of_rank = solve(old, side, new, strength, rank)
    assert (used, of_rank) == (strength, rank)
    flat_old, flat_side, flat_new = (a.reshape(-1, a.shape[-1]) for a in (old, side, new))
    x = np.concatenate([units(flat_old), units(flat_side)], axis=1)
    x_centred, y_centred = x - x.mean(axis=0), flat_new - flat_new.mean(axis=0, dtype=np.float64)
    penalty = np.sqrt(strength * x.var(axis=0).mean() * len(x)) * np.eye(x.shape[1])
    x_more = np.concatenate([x_centred, penalty])
    y_more = np.concatenate([y_centred, np.zeros((x.shape[1], new.shape[-1]))])
    weights = np.linalg.lstsq(x_more, y_more)[0]
    _, _, vt = np.linalg.svd(x_more @ weights, full_matrices=False)
    expected = x_centred @ weights @ vt[:rank].T @ vt[:rank] + flat_new.mean(axis=0, dtype=np.float64)
    got = spec.apply_float64(flat_old, flat_side)
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())
    assert np.linalg.matrix_rank(got - got.mean(axis=0), tol=1e-3 * np.abs(got).max()) == rank


def test_full_rank_is_ridge():
    old, side, new = data()
    pairs = Pairs.of(old, side, new, torch.device("cpu"))
    rows = torch.arange(150), torch.arange(150, 200)
    ridge, strength = fit_ridge(pairs, *rows, strength=None, normalize=False)
    spec, used, _ = fit_low_rank(pairs, *rows, strength=None, rank=1.0, normalize=False)
    assert used == strength
    np.testing.assert_allclose(spec.apply_float64(old, side), ridge.apply_float64(old, side), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rank", "expected"), [(None, 2), (0.5, 3), (0.01, 1), (1.0, 6), (1, 1)])
def test_a_share_is_of_the_smaller_dimension(rank, expected):
    assert solve(*data(), 0.1, rank)[2] == expected  # 11 -> 6


def test_the_bottleneck_is_a_layer_where_that_is_fewer_weights():
    old, side, new = data()
    assert [layer.out_dim for layer in solve(old, side, new, 0.1, 2)[0].trunk] == [2, 6]
    assert [layer.out_dim for layer in solve(old, side, new, 0.1, 5)[0].trunk] == [6]
    assert solve(old, None, new, 0.1, 2)[0].side_dim == 0


@pytest.mark.parametrize("strength", [None, 0.0])
def test_a_planted_rank_is_found_on_held_out_rows(strength):
    rng = np.random.default_rng(1)
    old = rng.normal(size=(300, 20)).astype(np.float32)
    new = old @ rng.normal(size=(20, 4)) @ rng.normal(size=(4, 15)) + 1
    train, held = torch.arange(200), torch.arange(200, 300)
    assert solve(old, None, new, strength, "held_out", train, held)[2] == 4
    noisy = new + 4 * rng.normal(size=new.shape)
    assert solve(old, None, noisy, strength, "held_out", train, held)[2] <= 4


def test_of_ranks_that_do_equally_well_the_smallest_is_chosen():
    """Inputs of rank 3 cannot use more: all ranks from 3 on differ by rounding."""
    rng = np.random.default_rng(5)
    for _ in range(5):
        old = (rng.normal(size=(300, 3)) @ rng.integers(-4, 5, size=(3, 20))).astype(np.float32)
        new = (old @ rng.normal(size=(20, 12)) + rng.normal(size=(300, 12))).astype(np.float32)
        assert solve(old, None, new, 1e-3, "held_out", torch.arange(200), torch.arange(200, 300))[2] == 3


@pytest.mark.parametrize(("strength", "rank"), [(None, "held_out"), (None, 3), (0.1, "held_out")])
def test_the_choice_is_the_best_of_all(strength, rank):
    old, side, new = data(n=60, seed=2)
    train, held = torch.arange(30), torch.arange(30, 60)
    spec, used, of_rank = solve(old, side, new, strength, rank, train, held)

    def error(candidate):
        other, *_ = solve(old, side, new, *candidate, train)
        return np.square(other.apply_float64(old[30:], side[30:]) - new[30:]).sum()

    strengths = STRENGTHS if strength is None else (strength,)
    ranks = range(1, 7) if rank == "held_out" else (rank,)
    assert (used, of_rank) == min(itertools.product(strengths, ranks), key=error)
    assert np.square(spec.apply_float64(old[30:], side[30:]) - new[30:]).sum() == pytest.approx(error((used, of_rank)))


def test_poor_rows_give_small_finite_weights():
    rng = np.random.default_rng(3)
    old = rng.normal(size=(20, 64)).astype(np.float32)
    old[:, 5] = 0
    new = rng.normal(size=(20, 10)).astype(np.float32)
    spec, _, _ = solve(old, None, new, 0.0, 10)
    np.testing.assert_allclose(spec.apply_float64(old), new, atol=1e-3)  # the smallest of many exact solutions
    assert np.abs(spec.trunk[0].weight).max() < 10


@pytest.mark.parametrize("rank", [0, 7, 0.0, 1.5, -1, True, float("nan"), "all"])
def test_a_rank_that_makes_no_sense(rank):
    with pytest.raises(ConfigError, match="rank is"):
        solve(*data(), 0.1, rank)


@pytest.mark.parametrize(("strength", "rank"), [(None, 2), (0.1, "held_out")])
def test_a_choice_needs_held_out_rows(strength, rank):
    with pytest.raises(ConfigError, match="held-out"):
        solve(*data(), strength, rank)
