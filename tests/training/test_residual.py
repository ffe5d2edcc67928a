"""The residual MLP as a spec is the same function, at the scale of the arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fct_fast.spec import Branch, Layer, TransformSpec
from fct_fast.training.residual import ResidualTransform


@pytest.mark.parametrize(("old_dim", "new_dim", "side_dim", "uncertainty"), [(5, 5, 0, False), (7, 4, 3, True)])
def test_the_spec_is_the_module(old_dim, new_dim, side_dim, uncertainty):
    torch.manual_seed(0)
    module = ResidualTransform(old_dim, new_dim, side_dim, hidden_dim=11, uncertainty=uncertainty)
    torch.nn.init.normal_(module.out.weight)
    old, side = torch.randn(20, old_dim), torch.randn(20, side_dim) if side_dim else None
    out = module.raw(old, side).detach().numpy()
    spec = module.to_spec(normalize=False)
    found = spec.apply_float64(old.numpy(), None if side is None else side.numpy())
    np.testing.assert_allclose(found, out, rtol=1e-4, atol=1e-5)

    factors = {"old": 4.0, "side": 0.5, "new": 8.0}
    module.fold(factors)
    scaled = module.raw(old / 4.0, None if side is None else side / 0.5).detach().numpy()
    expected = out.copy()
    expected[:, :new_dim] /= 8.0
    np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-5)


def test_it_begins_as_the_linear_map_that_it_is_given():
    rng = np.random.default_rng(0)
    layer = Layer(rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=4).astype(np.float32), relu=False)
    linear = TransformSpec(6, 2, 4, (Branch("old", ()), Branch("side", ())), (layer,), normalize=False)
    module, factors = ResidualTransform(6, 4, 2, uncertainty=True), {"old": 3.0, "side": 0.1, "new": 7.0}
    module.start_from(linear, factors)
    old, side = torch.randn(20, 6), torch.randn(20, 2)
    out = module.raw(3.0 * old, 0.1 * side).detach()
    expected = 7.0 * linear.apply_float64(old.numpy(), side.numpy())
    np.testing.assert_allclose(out[:, :4].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (out[:, 4] == 0).all()
    module.fold(factors)
    np.testing.assert_allclose(module.raw(old, side).detach()[:, :4].numpy(), expected / 7, rtol=1e-4, atol=1e-4)
