"""A linear map's spec reads and writes the arrays' own units; its held-out error is the plain one of view 0."""

import numpy as np
import pytest
import torch

from fct_fast.errors import ConfigError, NonFiniteError
from fct_fast.training.maps.linear import STRENGTHS, best_strength, linear_spec, squared_error
from fct_fast.training.maps.moments import Moments
from fct_fast.training.pairs import Pairs

TRAIN, HELD = torch.arange(60), torch.arange(60, 90)


def case(seed=0):
    """Pairs of two views, moments of the training rows, and a random map between their units."""
    rng = np.random.default_rng(seed)
    old, side = rng.normal(size=(2, 90, 5)) * 30 + 8, rng.normal(size=(2, 90, 2)) * 0.1
    new = rng.normal(size=(2, 90, 4)) * 7 - 20
    arrays = [x.astype(np.float32) for x in (old, side, new)]
    pairs = Pairs.of(*arrays, torch.device("cpu"))
    return arrays, pairs, Moments.of(pairs, TRAIN), rng.normal(size=(7, 4)), rng.normal(size=4)


def plain(arrays, moments, weights, bias):
    """(predicted, true) rows of view 0, in the units of new."""
    old, side, new = (x[0].astype(np.float64) for x in arrays)
    x = np.concatenate([old * moments.scale["old"], side * moments.scale["side"]], axis=1)
    return (x @ weights + bias) / moments.scale["new"], new


def test_the_spec_has_the_scales_folded_in():
    arrays, _, moments, weights, bias = case()
    expected = plain(arrays, moments, weights, bias)[0]
    rng = np.random.default_rng(1)
    other = rng.normal(size=(4, 4)), rng.normal(size=4)
    for layers in (
        [(weights, bias)],
        [
            (weights @ other[0], bias @ other[0] - other[1]),
            (np.linalg.inv(other[0]), other[1] @ np.linalg.inv(other[0])),
        ],
    ):
        got = linear_spec(moments, layers, normalize=False).apply_float64(arrays[0][0], arrays[1][0])
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_the_held_out_error_is_the_plain_one_of_view_0():
    arrays, pairs, moments, weights, bias = case()
    predicted, true = plain(arrays, moments, weights, bias)
    expected = np.square((predicted - true)[60:] * moments.scale["new"]).sum(axis=1).mean()
    assert squared_error(moments.held_out(pairs, HELD), weights, bias) == pytest.approx(expected, rel=1e-12)


def test_the_strength_with_the_least_error_is_chosen():
    _, pairs, moments, weights, _ = case()

    def solve(strength):  # best at 0.01
        return 0 * weights, moments.held_out(pairs, HELD).y_mean + abs(np.log10(strength) + 2)

    assert best_strength(pairs, HELD, moments, solve) == STRENGTHS[5] == 0.01
    with pytest.raises(ConfigError, match="strength of a map is chosen on held-out rows, and there are too few"):
        best_strength(pairs, HELD[:0], moments, solve)


def test_weights_beyond_float32_are_refused():
    _, _, moments, weights, bias = case()
    with pytest.raises(NonFiniteError, match=r"trunk\.0 holds NaN or Inf"):
        linear_spec(moments, [(weights * 1e39, bias)], normalize=True)
