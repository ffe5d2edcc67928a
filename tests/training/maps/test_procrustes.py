"""Procrustes maps equal scipy's, recover rotations (whitened: any invertible map) exactly, and survive poor rows."""

import numpy as np
import pytest
import torch
from scipy.linalg import inv, orthogonal_procrustes, sqrtm
from scipy.stats import ortho_group

from fct_fast.errors import ConfigError
from fct_fast.training.maps.linear import STRENGTHS
from fct_fast.training.maps.procrustes import fit_procrustes
from fct_fast.training.pairs import Pairs

KINDS = ("plain", "centred", "whitened")


def solve(kind, old, new, side=None, *, strength=None, train=None, held=None, **options):
    pairs = Pairs.of(old, side, new, torch.device("cpu"))
    train = torch.arange(pairs.rows) if train is None else train
    held = train[:0] if held is None else held
    strength = 0.0 if kind == "whitened" and strength is None and len(held) == 0 else strength
    return fit_procrustes(pairs, train, held, kind=kind, strength=strength, **({"normalize": False} | options))[0]


def units(x):
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2))


def scipy_rotated(x, y):
    """x, rotated to y by scipy (zero-padded to equal width) and scaled by least squares."""
    width = max(x.shape[1], y.shape[1])
    x_wide, y_wide = (np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in (x, y))
    rotated = (x_wide @ orthogonal_procrustes(x_wide, y_wide)[0])[:, : y.shape[1]]
    return rotated * np.sum(rotated * y) / np.sum(rotated**2)


def data(old_dim, new_dim, side_dim=0, n=300, views=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n,) if views is None else (views, n)
    old = rng.normal(size=(*shape, old_dim)) @ rng.normal(size=(old_dim, old_dim)) * 20 + 9
    side = rng.normal(size=(*shape, side_dim)) * 0.02 + 0.01
    new = old @ rng.normal(size=(old_dim, new_dim)) + side @ rng.normal(size=(side_dim, new_dim)) * 3000
    new = new + 30 * rng.normal(size=(*shape, new_dim)) - 50
    old, side, new = (x.astype(np.float32) for x in (old, side, new))
    return old, side if side_dim else None, new


@pytest.mark.parametrize(("old_dim", "new_dim"), [(6, 6), (4, 7), (7, 4)])
@pytest.mark.parametrize("side_dim", [0, 2])
@pytest.mark.parametrize("views", [None, 2])
def test_plain_and_centred_equal_scipy(old_dim, new_dim, side_dim, views):
    old, side, new = data(old_dim, new_dim, side_dim, views=views)
    flat_old, flat_side, flat_new = (None if a is None else a.reshape(-1, a.shape[-1]) for a in (old, side, new))
    x = np.concatenate([units(a) for a in (flat_old, flat_side) if a is not None], axis=1)
    y = flat_new.astype(np.float64)

    got = solve("plain", old, new, side).apply_float64(flat_old, flat_side)
    np.testing.assert_allclose(got, scipy_rotated(x, y), atol=1e-5 * np.abs(y).max())
    got = solve("centred", old, new, side).apply_float64(flat_old, flat_side)
    expected = scipy_rotated(x - x.mean(axis=0), y - y.mean(axis=0)) + y.mean(axis=0)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize(("old_dim", "new_dim"), [(6, 6), (4, 7), (7, 4)])
@pytest.mark.parametrize("side_dim", [0, 2])
@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_whitened_equals_its_definition(old_dim, new_dim, side_dim, strength):
    old, side, new = data(old_dim, new_dim, side_dim)
    x = np.concatenate([units(a) for a in (old, side) if a is not None], axis=1)
    y = units(new)
    x_centred, y_centred = x - x.mean(axis=0), y - y.mean(axis=0)

    def root(a):
        covariance = np.cov(a.T, bias=True)
        return np.real(sqrtm(covariance + strength * np.trace(covariance) / len(covariance) * np.eye(len(covariance))))

    white_x, white_y = x_centred @ inv(root(x)), y_centred @ inv(root(y))
    u, _, vt = np.linalg.svd(white_x.T @ white_y, full_matrices=False)
    expected = white_x @ u @ vt @ root(y)
    expected *= np.sum(expected * y_centred) / np.sum(expected**2)
    got = solve("whitened", old, new, side, strength=strength).apply_float64(old, side)
    np.testing.assert_allclose(
        units(got - new.mean(axis=0)), units(expected), atol=2e-5 * np.abs(units(expected)).max()
    )
    np.testing.assert_allclose(
        got, (expected + y.mean(axis=0)) * np.sqrt(np.mean(new.astype(np.float64) ** 2)), atol=2e-5 * np.abs(new).max()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("old_dim", "new_dim"), [(8, 8), (5, 9)])
def test_a_rotation_is_recovered_exactly(kind, old_dim, new_dim):
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(new_dim, random_state=1)[:old_dim]
    old = rng.normal(size=(200, old_dim)) * np.arange(1, old_dim + 1)
    new = 7 * old @ rotation + (0 if kind == "plain" else 5)
    layer = solve(kind, old.astype(np.float32), new.astype(np.float32)).trunk[0]
    np.testing.assert_allclose(layer.weight.T, 7 * rotation, atol=1e-4)
    np.testing.assert_allclose(layer.bias, 0 if kind == "plain" else 5, atol=1e-4)


def test_from_more_to_fewer_dimensions_a_dropped_subspace_is_found():
    rng = np.random.default_rng(0)
    frame = ortho_group.rvs(9, random_state=1)[:, :4]
    old = rng.normal(size=(5000, 9)).astype(np.float32)
    layer = solve("plain", old, (3 * old @ frame).astype(np.float32)).trunk[0]
    gram = layer.weight.astype(np.float64) @ layer.weight.T
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(4), atol=1e-5 * gram[0, 0])  # semi-orthogonal
    np.testing.assert_allclose(layer.weight.T / np.sqrt(gram[0, 0]), frame, atol=0.1)


def test_whitened_recovers_any_invertible_map_where_a_rotation_cannot():
    rng = np.random.default_rng(2)
    old = rng.normal(size=(400, 6)).astype(np.float32)
    new = (old @ rng.normal(size=(6, 6)) * 4 + 2).astype(np.float32)
    error = {kind: np.abs(solve(kind, old, new).apply_float64(old) - new).max() for kind in KINDS}
    assert error["whitened"] < 1e-4
    assert error["centred"] > 1


def test_whitened_of_great_strength_is_the_centred_map():
    old, _, new = data(5, 5)
    got = solve("whitened", old, new, strength=1e9).apply_float64(old)
    np.testing.assert_allclose(got, solve("centred", old, new).apply_float64(old), atol=1e-4 * np.abs(new).max())


def test_the_best_strength_is_chosen_on_the_held_out_rows():
    rng = np.random.default_rng(3)
    old = rng.normal(size=(140, 50)).astype(np.float32) * np.geomspace(1, 30, 50, dtype=np.float32)
    new = (old @ ortho_group.rvs(50, random_state=4) + 8 * rng.normal(size=(140, 50))).astype(np.float32)
    train, held = torch.arange(100), torch.arange(100, 140)

    def error(strength):
        spec = solve("whitened", old, new, strength=strength, train=train)
        return np.square(spec.apply_float64(old[100:]) - new[100:]).sum()

    pairs = Pairs.of(old, None, new, torch.device("cpu"))
    spec, chosen = fit_procrustes(pairs, train, held, kind="whitened", normalize=False)
    assert chosen == min(STRENGTHS, key=error) > STRENGTHS[0]
    assert np.square(spec.apply_float64(old[100:]) - new[100:]).sum() == pytest.approx(error(chosen))
    with pytest.raises(ConfigError, match="held-out"):
        fit_procrustes(pairs, train, held[:0], kind="whitened", normalize=False)


@pytest.mark.parametrize("kind", ["plain", "centred"])
def test_without_scale_the_map_is_rigid_in_the_given_units(kind):
    old, side, new = data(6, 8, 2)
    layer = solve(kind, old, new, side, scale=False).trunk[0]
    np.testing.assert_allclose(layer.weight.T @ layer.weight, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_rows_than_dimensions_and_dead_ones(kind):
    rng = np.random.default_rng(5)
    old = rng.normal(size=(20, 40)).astype(np.float32)
    old[:, 7] = 0
    old[:, 8] = old[:, 9]
    new = (old @ ortho_group.rvs(40, random_state=6)).astype(np.float32)
    spec = solve(kind, old, new)
    np.testing.assert_allclose(spec.apply_float64(old), new, atol=1e-4)
    gram = spec.trunk[0].weight.T.astype(np.float64) @ spec.trunk[0].weight
    if kind == "whitened":  # what the rows do not show gets no weight
        assert np.abs(spec.trunk[0].weight[:, 7]).max() < 1e-6
        assert np.abs(spec.trunk[0].weight).max() < 2
    else:
        np.testing.assert_allclose(gram, np.eye(40), atol=1e-4)
