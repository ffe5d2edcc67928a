"""Shared by all tests: small transforms with real BatchNorm statistics, and one thread pool's worth of patience."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fct_fast import ForwardTransform, TransformSpec
from fct_fast.kernels import native

torch.set_num_threads(1)  # the tensors of tests are small: a second thread costs more than it gives


@pytest.fixture(params=native().usable_levels())
def level(request: pytest.FixtureRequest) -> str:
    """Each CPU level that this machine runs."""
    name: str = request.param
    return name


@pytest.fixture
def make_transform() -> Callable[..., ForwardTransform]:
    """A ForwardTransform in eval mode whose BatchNorm has seen data, so that folding it matters."""

    def make(
        old_dim: int = 12, new_dim: int = 8, side_dim: int = 5, inner_dim: int = 24, seed: int = 0, **options: bool
    ) -> ForwardTransform:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            h = ForwardTransform(old_dim, new_dim, side_dim, inner_dim, **options)
            with torch.no_grad():
                for module in h.modules():
                    if isinstance(module, torch.nn.BatchNorm1d):
                        module.weight.uniform_(0.5, 1.5)
                        module.bias.normal_(0, 0.2)
                for _ in range(3):
                    side = torch.randn(64, side_dim) * 0.7 if side_dim else None
                    h.raw(torch.randn(64, old_dim) * 1.5 + 0.3, side)
        return h.eval()

    return make


@pytest.fixture
def rows() -> Callable[..., np.ndarray]:
    """rows(n, dim, seed): float32 normal rows."""

    def make(n: int, dim: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)

    return make


@pytest.fixture
def small_spec(make_transform: Callable[..., ForwardTransform]) -> TransformSpec:
    return make_transform().to_spec()
