"""What is said about a transform equals plain numpy, and does not depend on how the rows are cut."""

import numpy as np
import pytest
import torch

from fct_fast.training import measure
from fct_fast.training.pairs import Pairs


@pytest.mark.parametrize("chunk", [7, 64, 4096])
def test_maxima_and_closeness_equal_numpy(make_transform, monkeypatch, chunk):
    monkeypatch.setattr(measure, "EVAL_ROWS", chunk)
    h = make_transform(normalize=False)
    rng = np.random.default_rng(0)
    old, side, new = (rng.normal(size=(100, dim)).astype(np.float32) for dim in (12, 5, 8))
    pairs = Pairs.of(old, side, new, torch.device("cpu"))
    rows, train = torch.arange(10, 90), torch.arange(0, 50)

    scales = measure.activation_maxima(h, pairs, rows)
    spec = h.to_spec()
    x = old[10:90].astype(np.float64)
    for i, layer in enumerate(spec.branches[0].layers):
        x = np.maximum(x @ layer.weight.T + layer.bias, 0)
        np.testing.assert_allclose(scales["activation_max"][f"branches.0.{i}"], x.max(axis=0), rtol=1e-4, atol=1e-5)
    assert scales["rows"] == 80
    assert not any(module._forward_hooks for module in h.modules())

    found = measure.closeness(h, pairs, rows, train)
    out, true = spec.apply_float64(old, side)[10:90], new[10:90].astype(np.float64)
    mean = new[:50].astype(np.float64).mean(axis=0)
    cosine = (out * true).sum(axis=1) / np.linalg.norm(out, axis=1) / np.linalg.norm(true, axis=1)
    assert found["mse"] == pytest.approx(np.mean((out - true) ** 2), rel=1e-5)
    assert found["r2"] == pytest.approx(1 - np.sum((out - true) ** 2) / np.sum((true - mean) ** 2), rel=1e-5)
    assert found["cosine"] == pytest.approx(cosine.mean(), abs=1e-5)


def test_retrieval_without_mates_says_nothing(make_transform):
    rng = np.random.default_rng(0)
    pairs = Pairs.of(*(rng.normal(size=(20, dim)).astype(np.float32) for dim in (12, 5, 8)), device=torch.device("cpu"))
    h, rows = make_transform(), torch.arange(20)
    assert measure.retrieval(h, pairs, rows, None) == {}
    assert measure.retrieval(h, pairs, rows, np.arange(20)) == {}
    assert measure.retrieval(None, pairs, rows, np.zeros(20, np.int64))["map"] == 1.0
