"""Rows per second of the compiled kernel and of torch, on the same h and the same rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fct_fast.spec import Layer, TransformSpec
from fct_fast.upgrader import Upgrader

__all__ = ["FoldedTransform", "time_upgrade"]

_TORCH_BATCHES = (2048, 16384)


class FoldedTransform(nn.Module):
    """h in torch as fast as torch gets it without a compiler: BatchNorm folded into the linear layers."""

    def __init__(self, spec: TransformSpec) -> None:
        super().__init__()
        self.branch_inputs = [branch.input for branch in spec.branches]
        self.branches = nn.ModuleList(_chain(branch.layers) for branch in spec.branches)
        self.trunk = _chain(spec.trunk)
        self.normalize = spec.normalize

    def forward(self, old: Tensor, side: Tensor | None = None) -> Tensor:
        """[n, old_dim], [n, side_dim] -> [n, new_dim]."""
        inputs = {"old": old, "side": side}
        parts = [branch(inputs[name]) for name, branch in zip(self.branch_inputs, self.branches, strict=True)]
        out: Tensor = self.trunk(torch.cat(parts, dim=1))
        return nn.functional.normalize(out) if self.normalize else out


def time_upgrade(
    up: Upgrader,
    old: npt.NDArray[np.float32],
    side: npt.NDArray[np.float32] | None,
    *,
    rows: int = 32768,
    rounds: int = 5,
) -> tuple[float, float]:
    """Rows per second of (the kernel, torch), each the best of `rounds`, taken in turns.

    The given rows are repeated up to `rows`. torch runs on its own threads, at the better of two batch
    sizes.
    """
    old = _repeated(old, rows)
    side = None if side is None else _repeated(side, rows)
    out = np.empty((rows, up.new_dim), np.float32)
    module = FoldedTransform(up.spec).eval()
    tensors = [torch.from_numpy(x) for x in (old, side) if x is not None]

    def in_torch(batch: int) -> None:
        with torch.inference_mode():
            for parts in zip(*(torch.split(tensor, batch) for tensor in tensors), strict=True):
                module(*parts)

    candidates: list[Callable[[], Any]] = [lambda: up(old, side, out=out)]
    candidates += [lambda batch=batch: in_torch(batch) for batch in _TORCH_BATCHES]  # type: ignore[misc]
    best = [float("inf")] * len(candidates)
    for _ in range(rounds + 1):  # the first round warms up; the best never is a cold one
        for i, candidate in enumerate(candidates):
            start = time.perf_counter()
            candidate()
            best[i] = min(best[i], time.perf_counter() - start)
    return rows / best[0], rows / min(best[1:])


def _chain(layers: tuple[Layer, ...]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        linear = nn.Linear(layer.in_dim, layer.out_dim)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
        modules += [linear, nn.ReLU(inplace=True)] if layer.relu else [linear]
    return nn.Sequential(*modules)


def _repeated(x: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    return np.resize(x, (rows, x.shape[1]))
