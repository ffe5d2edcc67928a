"""The peer of every figure is the function that the kernel computes, and nothing is timed that was not asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fct_fast.bench import folded_chain
from fct_fast.spec import TransformSpec
from fct_fast.transform import ForwardTransform


@pytest.mark.parametrize("side_dim", [0, 7])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_torch_peer_computes_the_spec(side_dim: int, normalize: bool) -> None:
    torch.manual_seed(0)
    spec: TransformSpec = ForwardTransform(12, 10, side_dim, inner_dim=20, normalize=normalize).to_spec()
    old, side = torch.randn(50, 12), torch.randn(50, side_dim) if side_dim else None
    true = spec.apply_float64(old.numpy(), None if side is None else side.numpy())
    np.testing.assert_allclose(folded_chain(spec)(old, side).numpy(), true, atol=1e-5)
    narrow = folded_chain(spec, torch.bfloat16)(old.bfloat16(), None if side is None else side.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert np.linalg.norm(narrow.float().numpy() - true) < 2e-2 * np.linalg.norm(true)
