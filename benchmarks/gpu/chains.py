"""The same h as ml-fct ships it, and inputs on the GPU, for the timing stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fct_fast.spec import TransformSpec

__all__ = ["MlFct", "checked", "inputs", "spec_of"]


class _Block(nn.Module):
    """1x1 convolution, BatchNorm, ReLU; the last one a convolution with bias alone."""

    def __init__(self, into: int, out: int, last: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 1, bias=last)
        self.normalizer = None if last else nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.normalizer is None else torch.relu(self.normalizer(x))


class MlFct(nn.Module):
    """apple/ml-fct's MLP_BN_SIDE_PROJECTION, by its names and shapes."""

    def __init__(self, old: int, side: int, inner: int, new: int) -> None:
        super().__init__()
        self.p1 = nn.Sequential(_Block(old, 2 * old), _Block(2 * old, 2 * new))
        self.p2 = nn.Sequential(_Block(side, 2 * side), _Block(2 * side, 2 * new))
        self.mixer = nn.Sequential(_Block(4 * new, inner), _Block(inner, inner), _Block(inner, new, last=True))

    def forward(self, old: Tensor, side: Tensor) -> Tensor:
        x = torch.cat([self.p1(old[:, :, None, None]), self.p2(side[:, :, None, None])], dim=1)
        return F.normalize(self.mixer(x)[:, :, 0, 0])


def spec_of(module: MlFct) -> TransformSpec:
    """The same h for our kernels, by the package's own importer."""
    from fct_fast.importers import from_ml_fct

    return from_ml_fct(module.state_dict()).to_spec()


def inputs(n: int, *dims: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(n, dim, device="cuda").to(dtype) for dim in dims]


def checked(name: str, got: Any, want: Any, bound: float) -> None:
    """Raises SystemExit where two contenders do not compute the same: then their times say nothing."""
    error = float(((got.double() - want.double()).norm() / want.double().norm()).item())
    if not error <= bound:
        raise SystemExit(f"{name} differs from float64 by {error:.1e}")
