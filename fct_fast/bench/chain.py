"""h in torch, as fast as torch gets it without a compiler: what every figure of the upgrade is held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fct_fast.spec import TransformSpec

__all__ = ["Chain", "folded_chain"]

Chain: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""([n, old_dim], [n, side_dim] or None) -> [n, new_dim]."""


def folded_chain(spec: TransformSpec, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Chain:
    """The fastest plain torch form of this spec: BatchNorm folded, F.linear, ReLU in place, cat, normalize."""
    layers = [
        (torch.from_numpy(x.weight).to(device, dtype), torch.from_numpy(x.bias).to(device, dtype), x.relu)
        for _, x in spec.named_layers()
    ]
    counts = list(itertools.accumulate((len(branch.layers) for branch in spec.branches), initial=0))

    def stack(x: Tensor, first: int, last: int) -> Tensor:
        for weight, bias, relu in layers[first:last]:
            x = F.linear(x, weight, bias)
            if relu:
                x = torch.relu_(x)
        return x

    def chain(old: Tensor, side: Tensor | None) -> Tensor:
        inputs = {"old": old, "side": side}
        with torch.inference_mode():
            parts = []
            for i, branch in enumerate(spec.branches):
                x = inputs[branch.input]
                assert x is not None, f"h reads {branch.input}"
                parts.append(stack(x, counts[i], counts[i + 1]))
            out = stack(torch.cat(parts, 1), counts[-1], len(layers))
            return F.normalize(out) if spec.normalize else out

    return chain
