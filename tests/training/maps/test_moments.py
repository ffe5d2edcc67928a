"""Moments are the plain float64 ones of the stacked rows, and keep their digits beside a large offset."""

import numpy as np
import pytest
import torch

from fct_fast.training import pairs as pairs_module
from fct_fast.training.maps import moments as moments_module
from fct_fast.training.maps.moments import Moments
from fct_fast.training.pairs import Pairs


def make(old, side, new):
    return Pairs.of(old, side, new, torch.device("cpu"))


def plain(x, y):
    """Biased means and covariances, the way they are defined."""
    x_centred, y_centred = x - x.mean(axis=0), y - y.mean(axis=0)
    n = len(x)
    return (
        x.mean(axis=0),
        y.mean(axis=0),
        x_centred.T @ x_centred / n,
        x_centred.T @ y_centred / n,
        y_centred.T @ y_centred / n,
    )


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("with_side", [False, True])
def test_equal_numpy_over_rows_views_and_chunks(monkeypatch, views, with_side):
    monkeypatch.setattr(moments_module, "CHUNK_ROWS", 32)
    monkeypatch.setattr(pairs_module, "CHUNK_ROWS", 32)
    rng = np.random.default_rng(0)
    old = (rng.normal(size=(views, 100, 5)) * 40 + 3).astype(np.float32)
    side = (rng.normal(size=(views, 100, 2)) * 0.01).astype(np.float32) if with_side else None
    new = rng.normal(size=(1, 100, 4)).astype(np.float32)  # one view answers for all
    rows = torch.arange(7, 100)
    moments = Moments.of(make(old, side, new), rows, of_targets=True)

    def units(x):
        flat = np.broadcast_to(x, (views, *x.shape[1:]))[:, 7:].reshape(-1, x.shape[-1]).astype(np.float64)
        return flat / np.sqrt(np.mean(flat**2))

    x = np.concatenate([units(part) for part in (old, side) if part is not None], axis=1)
    assert moments.count == len(x) == views * 93
    found = (moments.x_mean, moments.y_mean, moments.xx, moments.xy, moments.yy)
    for got, expected in zip(found, plain(x, units(new)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def test_an_offset_that_is_large_beside_the_spread_costs_no_digits():
    rng = np.random.default_rng(1)
    old = (2.0**20 + rng.integers(-4, 5, size=(2, 200, 3))).astype(np.float32)  # exact in float32
    moments = Moments.of(make(old, None, old), torch.arange(200), rms_units=False)
    x = old.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(moments.xx, plain(x, x)[2], rtol=1e-10, atol=1e-10)
    assert moments.yy is None
    assert moments.scale == {"old": 1, "new": 1}


def test_rows_of_zeros_have_a_scale():
    old = np.zeros((20, 3), np.float32)
    old[0] = 1
    moments = Moments.of(make(old, None, old), torch.arange(1, 20))
    assert moments.scale == {"old": 1, "new": 1}
    assert not moments.xx.any()
